"""What `--prune` does: list the cutouts that have lost their sources, and remove them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgpipe.pipeline.cli.session import Session
from bgpipe.pipeline.cli.terminal import Console
from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.pipeline.prune import Orphans
    from bgpipe.pipeline.storage import Store
    from bgpipe.pipeline.types import Job


def prune(session: Session, most: float, terminal: Console, order: Job, *, dry_run: bool) -> None:
    """Remove what `order` finds at its target without a source; with `dry_run`, only list it.

    Raises:
        UsageError: the target keeps no catalog.
        TooManyOrphans: more than the share `most` of the cutouts would go.
    """
    from bgpipe.pipeline.prune import find_orphans

    source, target = session.stores.open(order.source), session.stores.open(order.out)
    catalog = session.catalogs.of(order, target)
    if catalog is None:
        raise UsageError(_why_not(order))
    orphans = find_orphans(order, source, target, catalog)
    for row in orphans.rows:
        terminal.print_json({"orphan": row.target, "source": row.source})
        terminal.print(f"has lost its source {row.source}: {row.target}")
    orphans.check(most)
    if not dry_run:
        _remove(terminal, target, orphans)


def _why_not(order: Job) -> str:
    if order.named:
        return (
            f"a list or a single file does not say what is gone: {order.source}: give --prune the "
            "folder or the prefix itself as SOURCE"
        )
    return (
        f"a bucket keeps no catalog of ZIP files and hidden names: {order.out}: remove by hand what "
        "has lost its source"
    )


def _remove(terminal: Console, target: Store, orphans: Orphans) -> None:
    from bgpipe.pipeline.prune import remove

    removed = 0
    for row, error in remove(target, orphans.rows):
        if error:
            terminal.warn(f"cannot be removed: {row.target}: {error.detail}")
        else:
            removed += 1
    terminal.print_json({"pruned": removed})
    terminal.print(f"removed {removed} cutouts that had lost their source")
