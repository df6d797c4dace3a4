"""`bgpipe sweep`: run, list and check the sweeps of the settings."""

from dataclasses import asdict
from datetime import UTC, datetime

from typer import Argument, Context, Exit, Typer

from bgpipe.config.settings import Settings, load_settings
from bgpipe.config.sweeps import Sweep
from bgpipe.pipeline.cli import completion
from bgpipe.pipeline.cli.command_line import WAIT, examples, flag, option
from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.cli.planning import make_prune, show_dry_run
from bgpipe.pipeline.cli.run import JobRun, check_wait, open_job, run_to_completion
from bgpipe.pipeline.cli.summary import format_summary
from bgpipe.pipeline.errors import BgpipeError, ItemError, StorageUnavailable
from bgpipe.pipeline.scheduling import run_sweep, sweeps
from bgpipe.pipeline.session import open_session
from bgpipe.pipeline.storage.factory import StoreFactory
from bgpipe.pipeline.types import JobState

PROBE = ".bgpipe/check"
"""The key that `check` writes and deletes at a target."""

app = Typer(no_args_is_help=True)


@app.command(epilog=examples("bgpipe sweep run products", "bgpipe sweep run products --dry-run"))
def run(
    context: Context,
    name: str = Argument(
        ..., metavar="NAME", help="NAME of [sweeps.NAME].", autocompletion=completion.sweeps
    ),
    dry_run: bool = flag("--dry-run", help="Count what a run would do, without running it."),
    prune_: bool = flag("--prune", help="Remove cutouts whose source is gone."),
    wait: bool | None = WAIT,
    due: datetime | None = option(
        metavar="TIME",
        formats=["%Y-%m-%dT%H:%M:%S%z"],
        help="Scheduled start of this run, for its deadline.",
    ),
) -> None:
    """Run a sweep now, until its deadline."""
    console: Console = context.obj
    settings = load_settings()
    check_wait(settings, wait)
    sweep = run_sweep.find_sweep(settings, name)
    job = run_sweep.build_job(settings, name, sweep, console.notify)
    with open_session(settings, notify=console.notify) as session:
        prune = None
        if prune_ or sweep.prune:
            maximum = run_sweep.maximum_pruned(settings, sweep)
            prune = make_prune(session, console, job, maximum, dry_run=dry_run)
            if not prune_:
                prune = run_sweep.tolerate_too_many(prune, console.warn)
        if dry_run:
            show_dry_run(session, console, job, prune=prune)
            return
        deadline = sweeps.deadline_of(sweep, due or datetime.now(UTC))
        states = sweeps.SweepStateStore(session.client)
        job_id, lease = open_job(session, console, job)
        if job_id == job.id:
            states.write_run(name, job_id, deadline)
        with run_sweep.stopped_at_deadline(session.jobs, name, job_id, deadline):
            job_run = JobRun(session, job_id, lease, prune=prune)
            code = run_to_completion(console, job_run, wait=wait)
        if not session.is_dispatched():
            summary = session.jobs.summary(job_id)
            if summary.state is JobState.FINISHED:
                sweeps.notify_finished(states, name, sweep, summary)
    raise Exit(code)


@app.command("list", epilog=examples("bgpipe sweep list", "bgpipe --json sweep list | jq .next"))
def list_(context: Context) -> None:
    """List the sweeps with last run, next run and counts."""
    console: Console = context.obj
    settings, now = load_settings(), datetime.now(UTC)
    with open_session(settings, notify=console.notify) as session:
        for name, sweep in settings.sweeps.items():
            state = sweeps.SweepStateStore(session.client).read(name, now)
            last = session.jobs.summary(state.job) if state.job in session.jobs.ids() else None
            start = sweeps.next_start(sweep, now)
            retry = datetime.fromtimestamp(state.retry_at, UTC) if state.retry_at else None
            record = {
                "sweep": name,
                "source": sweep.source,
                "target": sweep.target,
                "next": start.isoformat() if start else None,
                "failed_starts": state.failures,
                "again": retry.isoformat() if retry else None,
                "last": asdict(last) if last else None,
            }
            line = f"{name}: {format_summary(last) if last else 'never run'}"
            line += f"; next: {record['next'] or 'by hand only'}"
            if retry:
                line += f"; failed starts: {state.failures}, next attempt at {record['again']}"
            console.show(record, line)


@app.command(epilog=examples("bgpipe sweep check"))
def check(context: Context) -> None:
    """Check each sweep: its model is available, its source readable, its target writable."""
    console: Console = context.obj
    settings = load_settings()
    first_error = None
    for name, sweep in settings.sweeps.items():
        error = _find_error(settings, console, name, sweep)
        console.print_json({"sweep": name, "ok": error is None, "error": str(error or "")})
        console.print(f"{name}: {f'error: {error}' if error else 'ok'}")
        first_error = first_error or error
    if first_error:
        raise Exit(first_error.exit_code)


def _find_error(
    settings: Settings, console: Console, name: str, sweep: Sweep
) -> BgpipeError | None:
    """Return the error that would stop a run of the sweep."""
    try:
        job = run_sweep.build_job(settings, name, sweep, console.notify)
        stores = StoreFactory(settings.s3)
        next(stores.open(job.source).list(), None)
        target = stores.open(job.out)
        next(target.list(missing_ok=True), None)
        target.write(PROBE, b"")
        target.delete(PROBE)
    except ItemError as error:
        return StorageUnavailable(f"target is not writable: {sweep.target}: {error.detail}")
    except BgpipeError as error:
        return error
    return None
