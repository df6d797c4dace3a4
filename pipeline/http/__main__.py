"""`python -m bgpipe.pipeline.http`: the server process, as `bgpipe serve` runs it."""

import asyncio
import ctypes
import resource
import signal
import socket
import sys
from contextlib import suppress

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from bgpipe.config.settings import Settings, load_settings
from bgpipe.pipeline.errors import BgpipeError, UsageError
from bgpipe.pipeline.http.app import create_app
from bgpipe.pipeline.http.dependencies import open_state
from bgpipe.pipeline.http.middleware import is_loopback
from bgpipe.pipeline.logging import EventLogger, log_to_stderr

GRACE = 5
"""Seconds that open requests may take after a signal; event streams end then."""
MESSAGE_BYTES = 1 << 16
"""Maximum size of a client's message on a websocket."""
M_MMAP_THRESHOLD, LARGE_BLOCK = -3, 1 << 20
"""Memory blocks from this size are returned to the system when freed (mallopt(3)); else threads keep many."""
OPEN_FILES = 16_384
"""Connections, and images of forms that are being received."""

log = EventLogger(__name__)


class TimedProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection unless its next request's headers arrive in time.

    uvicorn's own timer ends at the first byte.
    """

    _timer: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()

    def on_response_complete(self) -> None:
        self._timer.cancel()
        super().on_response_complete()
        self._await_request()

    def _await_request(self) -> None:
        self._timer = self.loop.call_later(self.timeout_keep_alive, self._close_idle, self.cycle)

    def _close_idle(self, last: RequestResponseCycle | None) -> None:
        is_idle = self.cycle is last and (last is None or last.response_complete)
        if is_idle and self.transport.get_protocol() is self:  # no websocket has taken over
            self.transport.close()


def main() -> int:
    """Serve until a signal; return bgpipe's exit code."""
    log_to_stderr()
    with suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
    try:
        settings = load_settings()
        log_to_stderr(settings.log.format)
        # Open until the end, so that this check and the server share one embedded Redis.
        with open_state(settings) as state:
            serve = settings.serve
            if (serve.needs_keys or not is_loopback(serve.host)) and not state.api_keys.exist():
                raise UsageError("this server needs an API key: create one: bgpipe keys add NAME")
            return _serve(settings)
    except BgpipeError as error:
        log.critical("cannot serve", error=error)
        return error.exit_code


def _serve(settings: Settings) -> int:
    host = settings.serve.host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, settings.serve.port), family=family, backlog=2048)
    except OSError as error:
        log.critical("cannot listen", error=error)
        return 2
    config = uvicorn.Config(
        create_app(settings),
        log_config=None,
        access_log=False,
        server_header=False,
        http=TimedProtocol,
        timeout_keep_alive=settings.serve.client_timeout,
        ws_max_size=MESSAGE_BYTES,
        timeout_graceful_shutdown=GRACE,
    )
    server = uvicorn.Server(config)
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn handles them, and raises them again after its shutdown, while our cleanup runs.
        signal.signal(number, lambda *_: None)
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    notice = "required behind a proxy: set serve.public_url"
    keys = "required" if settings.serve.needs_keys else notice
    log.info("serving", url=url, keys=keys)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    server.run(sockets=[listener])
    return 0 if server.started else 4


if __name__ == "__main__":
    sys.exit(main())
