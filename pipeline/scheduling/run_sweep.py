"""One run of a sweep: its job, pruning and deadline.

The dispatcher starts `python -m bgpipe.pipeline.scheduling.run_sweep NAME START` as a process, because
listing a bucket takes long. It lists the job and ends; the dispatcher feeds the job.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from bgpipe.config.settings import Settings, load_settings
from bgpipe.config.sweeps import Sweep
from bgpipe.pipeline.errors import BgpipeError, ItemError, UsageError
from bgpipe.pipeline.jobs.store import JobStore, new_job_id
from bgpipe.pipeline.logging import EventLogger, Notify, log_to_stderr
from bgpipe.pipeline.models import registry
from bgpipe.pipeline.planning import recipe as recipes
from bgpipe.pipeline.planning.diff import PlannedItem
from bgpipe.pipeline.planning.prune import (
    Orphans,
    Prune,
    TooManyOrphans,
    check_prunable,
    remove_orphans,
)
from bgpipe.pipeline.scheduling import sweeps
from bgpipe.pipeline.scheduling.submission import list_and_start, open_or_join
from bgpipe.pipeline.session import open_session
from bgpipe.pipeline.storage.base import Store, is_image_name
from bgpipe.pipeline.storage.factory import find_location
from bgpipe.pipeline.types import Job, JobId

log = EventLogger(__name__)


def find_sweep(settings: Settings, name: str) -> Sweep:
    """Return the sweep of the settings; UsageError if its name is unknown."""
    if name not in settings.sweeps:
        names = ", ".join(settings.sweeps) or "none"
        raise UsageError(f"unknown sweep: {name} (the settings declare: {names})")
    return settings.sweeps[name]


def build_job(settings: Settings, name: str, sweep: Sweep, notify: Notify | None = None) -> Job:
    """Build the job of a run.

    UsageError if a value of the sweep is wrong, ModelUnavailable if weights are not on this machine: a
    sweep never uses the bundled model in place of `auto`.
    """
    model = sweep.model or settings.model.name
    options = sweep.model_dump() | {"compression": sweep.png}
    recipe = recipes.build_recipe(
        settings,
        model=registry.DEFAULT if model == registry.AUTO else model,
        preset=sweep.preset,
        changes=recipes.preset_changes(options),
        output=recipes.build_output(settings, options),
        matting=sweep.matting,
        naming=sweep.name,
        notify=notify,
    ).recipe
    return Job(
        id=new_job_id(f"{name}-"),
        source=_find_source(name, sweep),
        out=find_location(sweep.target),
        recipe=recipe,
        created=time.time(),
        include=sweep.include,
        exclude=sweep.exclude,
        overwrite=sweep.overwrite,
        sweep=name,
        naming="" if sweep.outputs else sweep.name,
        outputs=recipes.build_outputs(settings, sweep.outputs, recipe, sweep.name),
    )


@contextmanager
def stopped_at_deadline(
    jobs: JobStore, name: str, job_id: JobId, deadline: datetime | None
) -> Iterator[None]:
    """Cancel a run at its deadline if the block lasts that long."""
    seconds = deadline.timestamp() - time.time() if deadline else 0.0
    timer = threading.Timer(max(seconds, 0.0), sweeps.stop_run, (jobs, name, job_id))
    timer.daemon = True
    if deadline:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def tolerate_too_many(prune: Prune, warn: Callable[[str], None]) -> Prune:
    """Let a run with too many orphans continue: it removes none of them, and warns."""

    def tolerant(orphans: Orphans, target: Store) -> None:
        try:
            prune(orphans, target)
        except TooManyOrphans as error:
            warn(f"nothing is pruned: {error}")

    return tolerant


def maximum_pruned(settings: Settings, sweep: Sweep) -> float:
    """Return the share of the cutouts that a run may remove."""
    return settings.prune.most if sweep.prune_most is None else sweep.prune_most


def _find_source(name: str, sweep: Sweep) -> str:
    location = find_location(sweep.source)
    if "://" in location:
        is_folder = not is_image_name(location.rpartition("/")[2])
    elif os.access(location, os.F_OK):
        is_folder = Path(location).is_dir()
    else:
        raise UsageError(f"no such file or folder: {sweep.source}")
    if not is_folder:
        raise UsageError(f"sweep {name} needs a folder or a prefix as source: {sweep.source}")
    return location


def list_run(settings: Settings, name: str, scheduled: datetime) -> None:
    """Open and list a run in the cluster; the dispatcher feeds it."""
    sweep = find_sweep(settings, name)
    job = build_job(settings, name, sweep)
    with open_session(settings) as session:
        deadline = sweeps.deadline_of(sweep, scheduled)
        prune = None
        if sweep.prune:
            check_prunable(job, session.stores.open(job.out))
            prune = _prune(maximum_pruned(settings, sweep))
        opened = open_or_join(session, job)
        if opened.id == job.id:
            sweeps.SweepStateStore(session.client).write_run(name, job.id, deadline)
        stopped = stopped_at_deadline(session.jobs, name, opened.id, deadline)
        with opened.lease.renewing(), stopped:
            list_and_start(session, opened.id, opened.lease, prune=prune)


def _prune(maximum: float) -> Prune:
    def prune(orphans: Orphans, target: Store) -> None:
        orphans.check(maximum)
        removed = remove_orphans(target, orphans.items, warn)
        log.info("orphans removed", count=len(removed))

    def warn(planned: PlannedItem, error: ItemError) -> None:
        log.warning("orphan not removed", target=planned.target, error=error)

    return tolerate_too_many(prune, log.warning)


def main() -> int:
    """Run from the dispatcher: NAME and the scheduled start in ISO 8601. Returns the exit code."""
    name, scheduled = sys.argv[1:]
    log_to_stderr()
    try:
        settings = load_settings()
        log_to_stderr(settings.log.format)
        list_run(settings, name, datetime.fromisoformat(scheduled))
    except BgpipeError as error:
        log.error("sweep did not run", sweep=name, error=error)  # noqa: TRY400
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
