"""`python -m bgpipe.pipeline.http`: the server process, as `bgpipe serve` runs it."""

import logging
import signal
import socket
import sys

import uvicorn

from bgpipe.config.settings import Settings, load_settings
from bgpipe.pipeline.errors import BgpipeError, UsageError
from bgpipe.pipeline.http.app import create_app
from bgpipe.pipeline.http.dependencies import open_state
from bgpipe.pipeline.http.middleware import is_loopback
from bgpipe.pipeline.logging import log_to_stderr

GRACE = 5
"""Seconds that open requests may take after a signal; event streams end then."""

log = logging.getLogger(__name__)


def main() -> int:
    """Serve until a signal; return bgpipe's exit code."""
    log_to_stderr()
    try:
        settings = load_settings()
        log_to_stderr(settings.log.format)
        # Open until the end, so that this check and the server share one embedded Redis.
        with open_state(settings) as state:
            serve = settings.serve
            needs_key = serve.keys == "required" or not is_loopback(serve.host)
            if needs_key and not state.api_keys.exist():
                raise UsageError("this server needs an API key: create one: bgpipe keys add NAME")
            return _serve(settings)
    except BgpipeError as error:
        log.critical("cannot serve", extra={"fields": {"error": error}})
        return error.exit_code


def _serve(settings: Settings) -> int:
    host = settings.serve.host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address = host, settings.serve.port
    try:
        listener = socket.create_server(address, family=family, backlog=2048)
    except OSError as error:
        log.critical("cannot listen", extra={"fields": {"error": error}})
        return 2
    config = uvicorn.Config(
        create_app(settings),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    server = uvicorn.Server(config)
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn handles them, and raises them again after its shutdown, while our cleanup runs.
        signal.signal(number, lambda *_: None)
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    log.info("serving", extra={"fields": {"url": url}})
    server.run(sockets=[listener])
    return 0 if server.started else 4


if __name__ == "__main__":
    sys.exit(main())
