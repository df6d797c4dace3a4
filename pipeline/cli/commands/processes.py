"""`bgpipe worker`, `serve` and `flower`: each replaces this process, so that signals reach the new one."""

import os
import sys
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from typer import Option, Typer

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.broker.sentinel import SCHEME
from bgpipe.pipeline.cli.command_line import examples
from bgpipe.pipeline.errors import UsageError

ACCOUNTS = "FLOWER_BASIC_AUTH"

app = Typer()


@app.command(
    epilog=examples(
        "bgpipe worker",
        "bgpipe worker --device cuda:0 --device cuda:1",
        "bgpipe worker --device cpu --lanes 4",
    )
)
def worker(
    device: list[str] | None = Option(
        None, help="cuda:0, cuda:0.1 (a MIG instance) or cpu; repeatable. Default: every GPU."
    ),
    lanes: int | None = Option(None, metavar="N", min=1, help="Images in flight per device."),
    compiled: bool = Option(
        False, "--compile", help="Compile the model at start. Takes minutes once, then cached."
    ),
) -> None:
    if load_settings().embedded:
        raise UsageError(
            "no cluster: set BGPIPE_REDIS_URL (without it, bgpipe submit starts its own worker)"
        )
    options = [f"--device={name}" for name in device or ()]
    options += [f"--lanes={lanes}"] if lanes else []
    options += ["--compile"] if compiled else []
    os.execv(sys.executable, [sys.executable, "-m", "bgpipe.workers", *options])  # noqa: S606


@app.command(epilog=examples("bgpipe serve", "bgpipe serve --host 0.0.0.0 --port 8080"))
def serve(
    host: str | None = Option(None, help="Address to listen on. Default: serve.host, 127.0.0.1."),
    port: int | None = Option(
        None, min=0, max=65535, help="0 picks a free port. Default: serve.port, 8000."
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
    options = {
        "conf": files("bgpipe.config") / "flowerconfig.py",
        "db": settings.state_folder / "flower",
        "address": address,
        "port": port,
    }
    command = [sys.executable, "-P", "-m", "celery", "flower"]
    command += [f"--{name}={value}" for name, value in options.items()]
    # Secrets go into the environment: arguments are visible to every user of the machine.
    secrets = {"CELERY_BROKER_URL": settings.redis_url, ACCOUNTS: _read_accounts()}
    os.execve(sys.executable, command, os.environ | secrets)  # noqa: S606


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
