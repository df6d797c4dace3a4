"""`bgpipe sweep`: the sweeps of the settings, started by hand, listed and checked."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bgpipe.pipeline.cli import completion
from bgpipe.pipeline.cli.command_line import examples
from bgpipe.pipeline.cli.parameters import Wait
from bgpipe.pipeline.errors import BgpipeError, ItemError, StorageUnavailable, UsageError

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.config.sweeps import Sweep
    from bgpipe.pipeline.cli.console import Console
    from bgpipe.pipeline.session import Session
    from bgpipe.pipeline.types import Job, JobId, Recipe

CHECKED = ".bgpipe/check"
"""What is written to see that a target can be written."""

sweep_commands = typer.Typer(
    help="Run, list and check the sweeps of the settings: jobs that repeat.", no_args_is_help=True
)

SweepArgument = Annotated[
    str,
    typer.Argument(metavar="NAME", help="NAME of [sweeps.NAME].", autocompletion=completion.sweeps),
]


@sweep_commands.command()
@examples("bgpipe sweep run products", "bgpipe sweep run products --dry-run")
def run(
    context: typer.Context,
    name: SweepArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what a run would do, without running it.")
    ] = False,
    prune_: Annotated[
        bool, typer.Option("--prune", help="Remove cutouts whose source is gone.")
    ] = False,
    wait: Wait = None,
    due: Annotated[
        datetime | None,
        typer.Option(
            metavar="TIME",
            formats=["%Y-%m-%dT%H:%M:%S%z"],
            help="Scheduled start of this run, for its deadline.",
        ),
    ] = None,
) -> None:
    """Run a sweep now, until its deadline."""
    from bgpipe.pipeline.cli.planning import show_dry_run
    from bgpipe.pipeline.cli.run import check_wait, open_job, run_to_completion
    from bgpipe.pipeline.scheduling.cron import deadline_of
    from bgpipe.pipeline.scheduling.sweeps import SweepStateStore
    from bgpipe.pipeline.session import open_session, read_settings

    terminal: Console = context.obj
    settings = read_settings()
    check_wait(settings, wait)
    sweep = _find(settings, name)
    order = _order(settings, terminal, name, sweep)
    until = deadline_of(sweep, due or datetime.now(UTC))
    with open_session(settings, notify=terminal.notify) as session:
        if prune_ or sweep.prune:
            most = settings.prune.most if sweep.prune_most is None else sweep.prune_most
            _prune(session, most, terminal, order, dry_run=dry_run, asked=prune_)
        if dry_run:
            show_dry_run(session, terminal, order)
            return
        job, lease = open_job(session, terminal, order)
        if job == order.id:
            SweepStateStore(session.client).begin(name, job, until)
        with _stopped_at(session, job, until):
            code = run_to_completion(session, terminal, job, lease, wait=wait)
        _notify(session, name, sweep, job)
    raise typer.Exit(code)


@sweep_commands.command(name="list")
@examples("bgpipe sweep list", "bgpipe --json sweep list | jq .next")
def list_(context: typer.Context) -> None:
    """List the sweeps with last run, next run and counts."""
    from bgpipe.pipeline.session import open_session, read_settings

    terminal: Console = context.obj
    settings = read_settings()
    with open_session(settings, notify=terminal.notify) as session:
        for name, sweep in settings.sweeps.items():
            standing = _state(session, name, sweep)
            terminal.print_json(standing)
            terminal.print(_sentence(standing))


@sweep_commands.command()
@examples("bgpipe sweep check")
def check(context: typer.Context) -> None:
    """Check each sweep: its model is available, its source readable, its target writable."""
    from bgpipe.pipeline.session import read_settings

    terminal: Console = context.obj
    settings = read_settings()
    failed = None
    for name, sweep in settings.sweeps.items():
        trouble = _trouble(settings, terminal, name, sweep)
        terminal.print_json({"sweep": name, "ok": trouble is None, "error": str(trouble or "")})
        terminal.print(f"{name}: {f'error: {trouble}' if trouble else 'ok'}")
        failed = failed or trouble
    if failed:
        raise typer.Exit(failed.exit_code)


def _find(settings: Settings, name: str) -> Sweep:
    if name not in settings.sweeps:
        names = ", ".join(settings.sweeps) or "none"
        raise UsageError(f"unknown sweep: {name} (the settings declare: {names})")
    return settings.sweeps[name]


def _order(settings: Settings, terminal: Console, name: str, sweep: Sweep) -> Job:
    from bgpipe.pipeline.cli.endpoints import find_source
    from bgpipe.pipeline.jobs.store import new_job_id
    from bgpipe.pipeline.storage.factory import find_location
    from bgpipe.pipeline.types import Job

    source = find_source([sweep.source])
    if source.keys is not None:
        raise UsageError(f"sweep {name} wants a folder or a prefix: {sweep.source}")
    return Job(
        id=new_job_id(f"{name}-"),
        source=source.root,
        out=find_location(sweep.target),
        recipe=_recipe(settings, terminal, sweep),
        created=time.time(),
        include=sweep.include,
        exclude=sweep.exclude,
        overwrite=sweep.overwrite,
        sweep=name,
        naming=sweep.name,
    )


def _recipe(settings: Settings, terminal: Console, sweep: Sweep) -> Recipe:
    """The sweep's recipe; a sweep never makes do with the bundled model."""
    from bgpipe.pipeline.cli.job_options import choose_output, choose_preset
    from bgpipe.pipeline.models import registry
    from bgpipe.pipeline.planning.recipe import build_recipe

    model = sweep.model or settings.model.name
    values = sweep.model_dump() | {"compression": sweep.png}
    return build_recipe(
        settings,
        model=registry.DEFAULT if model == registry.AUTO else model,
        preset=choose_preset(settings, sweep.preset or settings.refine.preset, (), values),
        output=choose_output(settings, values),
        matting=sweep.matting,
        naming=sweep.name,
        notify=terminal.notify,
    ).recipe


def _prune(
    session: Session, most: float, terminal: Console, order: Job, *, dry_run: bool, asked: bool
) -> None:
    """Prune before a run; unless somebody `asked` just now, the run does not wait for their answer."""
    from bgpipe.pipeline.cli.planning import prune
    from bgpipe.pipeline.planning.prune import TooManyOrphans

    try:
        prune(session, most, terminal, order, dry_run=dry_run)
    except TooManyOrphans as error:
        if asked:
            raise
        terminal.warn(f"nothing is pruned: {error}")


@contextmanager
def _stopped_at(session: Session, job: JobId, until: datetime | None) -> Iterator[None]:
    """Cancel `job` at its deadline if this command is still with it then."""
    from bgpipe.pipeline.scheduling.sweeps import stop

    if until is None:
        yield
        return
    seconds = max(until.timestamp() - time.time(), 0.0)
    timer = threading.Timer(seconds, stop, (session.jobs, job))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _notify(session: Session, name: str, sweep: Sweep, job: JobId) -> None:
    """Tell of the job's end, unless a dispatcher does."""
    from bgpipe.pipeline.scheduling.sweeps import SweepStateStore, notify_finished

    summary = session.jobs.summary(job)
    if summary.state == "finished" and not session.is_dispatched():
        notify_finished(SweepStateStore(session.client), name, sweep, summary)


def _state(session: Session, name: str, sweep: Sweep) -> dict[str, Any]:
    """What is declared, what was done last, and what comes next."""
    from dataclasses import asdict

    from bgpipe.pipeline.scheduling.cron import next_start
    from bgpipe.pipeline.scheduling.sweeps import SweepStateStore

    now = datetime.now(UTC)
    record = SweepStateStore(session.client).read(name, now)
    known = record.job in session.jobs.ids()
    following = next_start(sweep, now)
    return {
        "sweep": name,
        "source": sweep.source,
        "target": sweep.target,
        "next": following.isoformat() if following else None,
        "failed_starts": record.failures,
        "again": datetime.fromtimestamp(record.retry_at, UTC).isoformat()
        if record.retry_at
        else None,
        "last": asdict(session.jobs.summary(record.job)) if known else None,
    }


def _sentence(standing: Mapping[str, Any]) -> str:
    last = standing["last"]
    ran = (
        f"{last['job']} {last['state']}: {last['total']} images, {last['done']} done, "
        f"{last['skipped']} up to date, {last['failed']} failed"
        if last
        else "never run"
    )
    following = standing["next"] or "by hand only"
    again = (
        f"; its start failed {standing['failed_starts']} times, tried again at {standing['again']}"
        if standing["again"]
        else ""
    )
    return f"{standing['sweep']}: {ran}; next: {following}{again}"


def _trouble(settings: Settings, terminal: Console, name: str, sweep: Sweep) -> BgpipeError | None:
    """What would keep the sweep from running."""
    from bgpipe.pipeline.storage.factory import StoreFactory

    try:
        order = _order(settings, terminal, name, sweep)
        stores = StoreFactory(settings.s3)
        next(stores.open(order.source).list(), None)
        target = stores.open(order.out)
        next(target.list(missing_ok=True), None)
        target.write(CHECKED, b"")
        target.delete(CHECKED)
    except ItemError as error:
        return StorageUnavailable(f"the target cannot be written: {sweep.target}: {error.detail}")
    except BgpipeError as error:
        return error
    return None
