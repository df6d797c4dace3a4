"""`bgpipe serve` and `bgpipe flower`: each replaces this process, so that signals reach the server."""

from __future__ import annotations

import os
import sys
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from bgpipe.pipeline.cli.command_line import examples
from bgpipe.pipeline.errors import UsageError

ACCOUNTS = "FLOWER_BASIC_AUTH"


@examples("bgpipe serve", "bgpipe serve --host 0.0.0.0 --port 8080")
def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on. Default: serve.host, 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="0 picks a free port. Default: serve.port, 8000."),
    ] = None,
) -> None:
    """Serve the HTTP API and the web page. Without a cluster it starts its own worker."""
    from bgpipe.pipeline.session import read_settings

    if not (find_spec("fastapi") and find_spec("uvicorn")):
        raise UsageError("the HTTP service is an extra: pip install 'bgpipe[serve]'")
    if host:
        os.environ["BGPIPE_SERVE__HOST"] = host
    if port is not None:
        os.environ["BGPIPE_SERVE__PORT"] = str(port)
    read_settings()
    os.execv(sys.executable, [sys.executable, "-m", "bgpipe.pipeline.http"])  # noqa: S606


@examples("bgpipe flower", "FLOWER_BASIC_AUTH=me:secret bgpipe flower --port 5556")
def flower(
    address: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 5555,
) -> None:
    """Show each image's task and the workers with Flower; needs a cluster and a password."""
    from bgpipe.pipeline.session import read_settings

    settings = read_settings()
    if settings.embedded:
        raise UsageError("flower needs a cluster: set BGPIPE_REDIS_URL")
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

    Raises:
        UsageError: none is set, or the file that holds them is not readable.

    """
    file = os.environ.get(f"{ACCOUNTS}_FILE")
    try:
        accounts = Path(file).read_text().strip() if file else os.environ.get(ACCOUNTS, "")
    except OSError as error:
        raise UsageError(f"not readable: {ACCOUNTS}_FILE: {error}") from error
    if not all(all(account.partition(":")[::2]) for account in accounts.split(",")):
        raise UsageError(f"flower needs a password: set {ACCOUNTS}=user:password")
    return accounts
