"""What `--prune` does: list the cutouts that have lost their sources, and remove them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgpipe.pipeline.cli.session import Session
from bgpipe.pipeline.cli.terminal import Terminal
from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.config.settings import PruneSettings
    from bgpipe.pipeline.prune import Orphans
    from bgpipe.pipeline.storage import Store
    from bgpipe.pipeline.types import Job


def prune(
    session: Session, settings: PruneSettings, terminal: Terminal, order: Job, *, dry_run: bool
) -> None:
    """Remove what `order` finds at its target without a source; with `dry_run`, only list it.

    Raises:
        UsageError: the target keeps no catalog, or too many cutouts would go.
    """
    from bgpipe.pipeline.producer import open_catalog
    from bgpipe.pipeline.prune import find_orphans

    source, target = session.stores.open(order.source), session.stores.open(order.out)
    catalog = open_catalog(order, target, session.ledger.seals)
    if catalog is None:
        raise UsageError(
            "--prune wants all of a source, and a target in a bucket without --name, where a "
            f"catalog says what was made from what: {order.out}: remove cutouts there by hand"
        )
    orphans = find_orphans(order, source, target, catalog)
    for row in orphans.rows:
        terminal.emit({"orphan": row.target, "source": row.source})
        terminal.say(f"has lost its source {row.source}: {row.target}")
    if orphans.share > settings.most:
        raise UsageError(
            f"{len(orphans.rows)} of {orphans.cutouts} cutouts have lost their source, more than "
            f"the share prune.most = {settings.most}: see that the source is the right one, or "
            "set BGPIPE_PRUNE__MOST"
        )
    if not dry_run:
        _remove(terminal, target, orphans)


def _remove(terminal: Terminal, target: Store, orphans: Orphans) -> None:
    from bgpipe.pipeline.prune import remove

    removed = 0
    for row, error in remove(target, orphans.rows):
        if error:
            terminal.warn(f"cannot be removed: {row.target}: {error.detail}")
        else:
            removed += 1
    terminal.emit({"pruned": removed})
    terminal.say(f"removed {removed} cutouts that had lost their source")
