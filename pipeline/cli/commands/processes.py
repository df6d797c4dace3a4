"""Commands that run until they are stopped: `bgpipe worker`, `dispatch`, `serve` and `flower`.

All but `dispatch` replace this process, so that signals reach the new one.
"""

import os
import signal
import sys
import threading
from contextlib import ExitStack
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

from typer import Option, Typer

from bgpipe.config.settings import load_settings, parse_address
from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.broker.sentinel import SCHEME
from bgpipe.pipeline.cli.command_line import examples, flag, option
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.logging import EventLogger, log_to_stderr
from bgpipe.pipeline.session import open_session

NO_CLUSTER = "no cluster: set BGPIPE_REDIS_URL (without it, bgpipe submit {})"
ACCOUNTS = "FLOWER_BASIC_AUTH"

log = EventLogger(__name__)
app = Typer()


@app.command(
    epilog=examples(
        "bgpipe worker",
        "bgpipe worker --device cuda:0 --device cuda:1",
        "bgpipe worker --device cpu --lanes 4",
    )
)
def worker(
    device: list[str] | None = option(
        help="cuda:0, cuda:0.1 (a MIG instance) or cpu; repeatable. Default: every GPU."
    ),
    lanes: int | None = option(metavar="N", min=1, help="Images in flight per device."),
    compiled: bool = flag(
        "--compile", help="Compile the model at start. Takes minutes once, then cached."
    ),
) -> None:
    if load_settings().embedded:
        raise UsageError(NO_CLUSTER.format("starts its own worker"))
    options = [f"--device={name}" for name in device or ()]
    options += [f"--lanes={lanes}"] if lanes else []
    options += ["--compile"] if compiled else []
    os.execv(sys.executable, [sys.executable, "-m", "bgpipe.workers", *options])  # noqa: S606


@app.command(epilog=examples("bgpipe dispatch", "bgpipe dispatch --metrics 127.0.0.1:9640"))
def dispatch(
    metrics: str | None = option(
        metavar="HOST:PORT",
        help="Serve the cluster's metrics to Prometheus there.",
    ),
) -> None:
    from bgpipe.pipeline.monitoring.collectors import ClusterCollector, serve_metrics
    from bgpipe.pipeline.scheduling.dispatcher import Dispatcher, make_feeder
    from bgpipe.pipeline.scheduling.sweeps import SweepScheduler

    if metrics is not None:
        os.environ["BGPIPE_METRICS__DISPATCH"] = metrics
    settings = load_settings()
    if settings.embedded:
        raise UsageError(NO_CLUSTER.format("feeds its own job"))
    log_to_stderr(settings.log.format)
    with ExitStack() as stack:
        session = stack.enter_context(open_session(settings))
        if address := settings.metrics.dispatch:
            client = stack.enter_context(connect(session.redis_url, retry_seconds=0))
            collector = ClusterCollector(client, settings)
            stack.enter_context(serve_metrics(collector, *parse_address(address)))
            log.info("metrics served", address=f"http://{address}/metrics")
        dispatcher, scheduler = Dispatcher(session, make_feeder(session)), SweepScheduler(session)

        def step_sweeps() -> None:
            if dispatcher.is_leader:
                scheduler.step()

        log.info("dispatcher started")
        dispatcher.run(_stopped_by_signal(), step_sweeps)
        log.info("dispatcher stopped")


@app.command(epilog=examples("bgpipe serve", "bgpipe serve --host 0.0.0.0 --port 8080"))
def serve(
    host: str | None = option(help="Address to listen on. Default: serve.host, 127.0.0.1."),
    port: int | None = option(
        min=0, max=65535, help="0 picks a free port. Default: serve.port, 8000."
    ),
) -> None:
    if not (find_spec("fastapi") and find_spec("uvicorn")):
        raise UsageError("the HTTP service is an extra: pip install 'bgpipe[serve]'")
    if host:
        os.environ["BGPIPE_SERVE__HOST"] = host
    if port is not None:
        os.environ["BGPIPE_SERVE__PORT"] = str(port)
    load_settings()
    os.execv(sys.executable, [sys.executable, "-m", "bgpipe.pipeline.http"])  # noqa: S606


@app.command(
    epilog=examples("bgpipe flower", "FLOWER_BASIC_AUTH=me:secret bgpipe flower --port 5556")
)
def flower(
    address: str = Option("127.0.0.1", help="Address to listen on."),
    port: int = Option(5555, min=0, max=65535, help="Port to listen on."),
) -> None:
    settings = load_settings()
    if settings.embedded:
        raise UsageError("flower needs a cluster: set BGPIPE_REDIS_URL")
    if settings.redis_url.startswith(SCHEME):
        raise UsageError("flower does not ask Sentinel: set BGPIPE_REDIS_URL to a server's address")
    settings.state_folder.mkdir(parents=True, exist_ok=True)
    config, database = files("bgpipe.config") / "flowerconfig.py", settings.state_folder / "flower"
    options = [f"--conf={config}", f"--db={database}", f"--address={address}", f"--port={port}"]
    command = [sys.executable, "-P", "-m", "celery", "flower", *options]
    # Secrets go into the environment: arguments are visible to every user of the machine.
    secrets = {"CELERY_BROKER_URL": settings.redis_url, ACCOUNTS: _read_accounts()}
    os.execve(sys.executable, command, os.environ | secrets)  # noqa: S606


def _stopped_by_signal() -> threading.Event:
    """Return an event that INT and TERM set; a second signal ends the process at once."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        if stopped.is_set():
            sys.exit(128 + number)
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return stopped


def _read_accounts() -> str:
    """Return `user:password`, several separated by commas.

    Raises UsageError: none is set, or the file that holds them is not readable.
    """
    file = os.environ.get(f"{ACCOUNTS}_FILE")
    try:
        accounts = Path(file).read_text().strip() if file else os.environ.get(ACCOUNTS, "")
    except OSError as error:
        raise UsageError(f"not readable: {ACCOUNTS}_FILE: {error}") from error
    if not all(all(account.partition(":")[::2]) for account in accounts.split(",")):
        raise UsageError(f"flower needs a password: set {ACCOUNTS}=user:password")
    return accounts
