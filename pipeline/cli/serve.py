"""`bgpipe serve`: the HTTP service and the web page, as a process of its own."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from bgpipe.pipeline.cli.command_line import examples
from bgpipe.pipeline.cli.session import read_settings
from bgpipe.pipeline.errors import UsageError


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
    """Serve the HTTP API and the web page. Without a cluster it brings its own worker."""
    if not (find_spec("fastapi") and find_spec("uvicorn")):
        raise UsageError("the HTTP service is an extra: pip install 'bgpipe[serve]'")
    if host:
        os.environ["BGPIPE_SERVE__HOST"] = host
    if port is not None:
        os.environ["BGPIPE_SERVE__PORT"] = str(port)
    read_settings()
    # In place of this process, so that signals reach the server.
    os.execv(sys.executable, [sys.executable, "-m", "bgpipe.pipeline.http"])  # noqa: S606
