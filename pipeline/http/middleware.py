"""Middleware: security headers, and admission before a request's body is read.

Every request needs an API key, except on the loopback of a server for which no key was ever created.
There the danger is the browser, which any web site can make send requests to the loopback. So the
Host must be the loopback's, forwarded requests are refused, and an Origin must be the server's own.
"""

from __future__ import annotations

import base64
import binascii
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from anyio import to_thread
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from bgpipe.config.choices import KeyRule
from bgpipe.pipeline.errors import BgpipeError, Code
from bgpipe.pipeline.http.api_keys import LOCAL_OWNER, MINUTE, ApiKey, ApiKeys
from bgpipe.pipeline.http.problems import Problem, problem_of, problem_response

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from bgpipe.config.settings import ServeSettings

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
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


class SecurityHeadersMiddleware:
    """Adds HEADERS to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class AuthMiddleware:
    """Admits requests by API key, rate and size; endpoints find the key as the state's `caller`."""

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        try:
            _check_origin(connection, scope.get("method", "GET"), self._settings.origins)
            self._check_length(connection)
            if not _is_public(scope["path"]):
                caller = await to_thread.run_sync(self._admit, connection)
                scope.setdefault("state", {})["caller"] = caller
        except (Problem, BgpipeError) as error:
            problem = error if isinstance(error, Problem) else problem_of(error)
            await _refuse(problem, scope, receive, send)
            return
        await self._app(scope, self._limit_body(receive), send)

    def _limit_body(self, receive: Receive) -> Receive:
        """Return `receive` that fails once the body is too long."""
        total = 0

        async def receive_limited() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self._settings.request_bytes:
                raise HTTPException(413, self._too_long())
            return message

        return receive_limited

    def _check_length(self, connection: HTTPConnection) -> None:
        length = connection.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._settings.request_bytes:
            raise Problem(413, Code.TOO_LARGE, self._too_long())

    def _too_long(self) -> str:
        return f"request too large: the maximum is {self._settings.request_bytes} bytes"

    def _admit(self, connection: HTTPConnection) -> ApiKey:
        api_keys = ApiKeys(connection.app.state.shared.session.client)
        caller = self._authenticate(connection, api_keys)
        if api_keys.count_request(caller.name) > self._settings.requests_per_minute:
            seconds = MINUTE - int(time.time()) % MINUTE
            raise Problem(429, "too-many-requests", "too many requests in this minute", seconds)
        return caller

    def _authenticate(self, connection: HTTPConnection, api_keys: ApiKeys) -> ApiKey:
        secret = _read_secret(connection)
        token = connection.cookies.get(COOKIE, "")
        key = api_keys.find(secret) if secret else api_keys.session_key(token) if token else None
        if key:
            return key
        if not secret and self._is_keyless(connection) and not api_keys.exist():
            return ApiKey(LOCAL_OWNER, 0.0, everything=True)
        raise Problem(
            401, "no-key", "API key required: Authorization: Bearer KEY (bgpipe keys add NAME)"
        )

    def _is_keyless(self, connection: HTTPConnection) -> bool:
        """Whether the caller is on the server's machine, without a proxy between them."""
        return (
            self._settings.keys is KeyRule.AUTO
            and is_loopback(self._settings.host)
            and is_loopback(_host(connection))
            and not any(name in connection.headers for name in _PROXY_HEADERS)
        )


def is_loopback(host: str) -> bool:
    """Whether `host`, which is not resolved, means this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_public(path: str) -> bool:
    return path in PUBLIC_PATHS or path.startswith(STATIC_FILES)


def _check_origin(connection: HTTPConnection, method: str, allowed: Collection[str]) -> None:
    """Refuse writes from pages of other sites; programs send no Origin."""
    origin = connection.headers.get("origin")
    is_write = method not in _SAFE_METHODS or connection.scope["type"] == "websocket"
    if not origin or not is_write or origin in allowed:
        return
    if origin.partition("://")[2] != connection.headers.get("host", ""):
        raise Problem(403, "foreign-origin", f"not a page of this server: {origin[:100]}")


def _host(connection: HTTPConnection) -> str:
    """Return the Host header without the port."""
    try:
        return urlsplit(f"//{connection.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def _read_secret(connection: HTTPConnection) -> str:
    """Return the API key, sent as bearer token, as password of Basic, or as X-API-Key."""
    scheme, _, value = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        return _password(value)
    return connection.headers.get("x-api-key", "")


def _password(value: str) -> str:
    try:
        return base64.b64decode(value).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


async def _refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": problem.code})
    else:
        await problem_response(problem)(scope, receive, send)
