"""Middleware: security headers, and admission before a request's body is read.

Every request needs an API key, except on the loopback of a server for which no key was ever created.
There the danger is the browser, which any web site can make send requests to the loopback. So the
Host must be the loopback's, forwarded requests are refused, and an Origin must be the server's own.
"""

from __future__ import annotations

import base64
import time
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from anyio import to_thread
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection

from bgpipe.pipeline.errors import BgpipeError, Code
from bgpipe.pipeline.http.api_keys import LOCAL_OWNER, MINUTE, ApiKey
from bgpipe.pipeline.http.dependencies import get_state
from bgpipe.pipeline.http.problems import Problem, problem_of, problem_response

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from bgpipe.config.settings import ServeSettings

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
COOKIE = "bgpipe_session"
PUBLIC_PATHS = ("/", "/healthz", "/readyz", "/v1/openapi.json", "/v1/session", "/favicon.ico")
STATIC_FILES = "/page/"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-real-ip")


class AuthMiddleware:
    """Admits requests by API key, rate and size, and adds HEADERS to responses.

    Endpoints find the key as the state's `caller`.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        total = 0

        async def receive_limited() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            self._check_length(total)
            return message

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        connection = HTTPConnection(scope)
        try:
            _check_origin(connection, self._settings.origins)
            length = connection.headers.get("content-length", "")
            self._check_length(int(length) if length.isdecimal() else 0)
            if scope["path"] not in PUBLIC_PATHS and not scope["path"].startswith(STATIC_FILES):
                connection.state.caller = await to_thread.run_sync(self._admit, connection)
        except (Problem, BgpipeError) as error:
            problem = error if isinstance(error, Problem) else problem_of(error)
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": problem.code})
            else:
                await problem_response(problem)(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive_limited, send_with_headers)

    def _check_length(self, length: int) -> None:
        maximum = self._settings.request_bytes
        if length > maximum:
            detail = f"request too large: the maximum is {maximum} bytes"
            raise Problem(413, Code.TOO_LARGE, detail)

    def _admit(self, connection: HTTPConnection) -> ApiKey:
        """Return the caller's key; raises Problem 401 without one, 429 after too many requests."""
        api_keys = get_state(connection).api_keys
        secret, token = _read_secret(connection), connection.cookies.get(COOKIE, "")
        key = api_keys.find(secret) if secret else api_keys.session_key(token) if token else None
        if not key and not secret and self._is_keyless(connection) and not api_keys.exist():
            key = ApiKey(LOCAL_OWNER, 0.0, everything=True)
        if not key:
            detail = "API key required: Authorization: Bearer KEY (bgpipe keys add NAME)"
            raise Problem(401, "no-key", detail)
        if api_keys.count_request(key.name) > self._settings.requests_per_minute:
            seconds = MINUTE - int(time.time()) % MINUTE
            raise Problem(429, "too-many-requests", "too many requests in this minute", seconds)
        return key

    def _is_keyless(self, connection: HTTPConnection) -> bool:
        """Whether the caller is on the server's machine, without a proxy between them."""
        try:
            host = urlsplit(f"//{connection.headers.get('host', '')}").hostname or ""
        except ValueError:
            return False
        return (
            self._settings.keys == "auto"
            and is_loopback(self._settings.host)
            and is_loopback(host)
            and not any(name in connection.headers for name in _PROXY_HEADERS)
        )


def is_loopback(host: str) -> bool:
    """Whether `host`, which is not resolved, means this machine."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _check_origin(connection: HTTPConnection, allowed: Collection[str]) -> None:
    """Refuse writes from pages of other sites; programs send no Origin."""
    origin = connection.headers.get("origin")
    is_read = connection.scope.get("method") in _SAFE_METHODS  # a websocket has no method
    if not origin or is_read or origin in allowed:
        return
    if origin.partition("://")[2] != connection.headers.get("host", ""):
        raise Problem(403, "foreign-origin", f"not a page of this server: {origin[:100]}")


def _read_secret(connection: HTTPConnection) -> str:
    """Return the API key, sent as bearer token, as password of Basic, or as X-API-Key."""
    scheme, _, value = connection.headers.get("authorization", "").partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip()
        case "basic":
            with suppress(ValueError):  # neither Base64 nor UTF-8
                return base64.b64decode(value).decode().partition(":")[2]
            return ""
    return connection.headers.get("x-api-key", "")
