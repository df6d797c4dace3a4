"""What every answer says to browsers: take nothing from elsewhere, guess no type, tell nobody.

What a request passes before anything of its body is read: who calls, and how often.

Without a key nobody gets in, but for the loopback of a server that was never given one. There the
browser is the danger: a page of somebody else may send requests to the loopback. So the Host has to be
the loopback's, what a proxy forwards is refused, and an Origin has to be our own.
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
from bgpipe.pipeline.http.api_keys import MINUTE, RESERVED, ApiKey, ApiKeys
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


class SecurityHeadersMiddleware:
    """Adds them to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)


COOKIE = "bgpipe_visit"
OPEN = ("/healthz", "/readyz", "/v1/openapi.json", "/v1/visit", "/favicon.ico")
"""Paths that everybody may ask for, beside the page and its parts."""
PAGE = "/page/"
_SAFE = ("GET", "HEAD", "OPTIONS")
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


class AuthMiddleware:
    """Lets nobody in who may not; endpoints find the grant in the scope's state."""

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
            if not _is_open(scope["path"]):
                grant = await to_thread.run_sync(self._admit, connection)
                scope.setdefault("state", {})["grant"] = grant
        except (Problem, BgpipeError) as error:
            problem = error if isinstance(error, Problem) else problem_of(error)
            await _refuse(problem, scope, receive, send)
            return
        await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        """`receive` until the body is too long."""
        total = 0

        async def counted() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self._settings.request_bytes:
                raise HTTPException(413, self._too_long())
            return message

        return counted

    def _check_length(self, connection: HTTPConnection) -> None:
        """Refuse a body that says it is too long; one that does not say so is cut off as it comes."""
        length = connection.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._settings.request_bytes:
            raise Problem(413, Code.TOO_LARGE, self._too_long())

    def _too_long(self) -> str:
        return f"a request has up to {self._settings.request_bytes} bytes"

    def _admit(self, connection: HTTPConnection) -> ApiKey:
        access = ApiKeys(connection.app.state.backend.session.client)
        grant = self._grant(connection, access)
        if access.count(grant.name) > self._settings.requests_per_minute:
            rest = MINUTE - int(time.time()) % MINUTE
            raise Problem(429, "too-many-requests", "too many requests in this minute", rest)
        return grant

    def _grant(self, connection: HTTPConnection, access: ApiKeys) -> ApiKey:
        secret = _secret(connection)
        visit = connection.cookies.get(COOKIE, "")
        grant = access.grant(secret) if secret else access.session_key(visit) if visit else None
        if grant:
            return grant
        if not secret and self._is_keyless(connection) and not access.exist():
            return ApiKey(RESERVED, 0.0, everything=True)
        raise Problem(
            401, "no-key", "an API key is needed: Authorization: Bearer KEY (bgpipe keys add NAME)"
        )

    def _is_keyless(self, connection: HTTPConnection) -> bool:
        """Whether the server and the caller are on the same machine and nobody is between them."""
        forwarded = any(name in connection.headers for name in _FORWARDED)
        return (
            self._settings.keys is KeyRule.AUTO
            and is_loopback(self._settings.host)
            and is_loopback(_host(connection))
            and not forwarded
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can be meant."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_open(path: str) -> bool:
    return path == "/" or path in OPEN or path.startswith(PAGE)


def _check_origin(connection: HTTPConnection, method: str, allowed: Collection[str]) -> None:
    """Refuse what a page of another site lets a browser send; programs send no Origin."""
    origin = connection.headers.get("origin")
    unsafe = method not in _SAFE or connection.scope["type"] == "websocket"
    if not origin or not unsafe or origin in allowed:
        return
    if origin.partition("://")[2] != connection.headers.get("host", ""):
        raise Problem(403, "foreign-origin", f"not a page of this server: {origin[:100]}")


def _host(connection: HTTPConnection) -> str:
    """What the caller takes us for, without the port."""
    try:
        return urlsplit(f"//{connection.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def _secret(connection: HTTPConnection) -> str:
    """The API key that the caller shows: as a bearer's token, a password, or by X-API-Key."""
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
