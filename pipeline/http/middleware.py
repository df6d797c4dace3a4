"""Middleware: HEAD, security headers, admission before a request's body is read, and the body's limits.

Every request needs an API key, except on the loopback of a server for which no key was ever created.
There the dangers are the browser, which any web site can make send requests to the loopback, and a
proxy. So peer and Host must be the loopback's, forwarded requests are refused, and an Origin must be
the server's own. A proxy that adds no header and speaks HTTP/1.1 cannot be detected: it needs
`serve.public_url` or `serve.keys`.
"""

import base64
import re
import time
from contextlib import suppress
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from anyio import CancelScope, fail_after, to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bgpipe.config.settings import ServeSettings, Settings
from bgpipe.pipeline.errors import BgpipeError, Code
from bgpipe.pipeline.http.api_keys import LOCAL_OWNER, MINUTE, ApiKey, ApiKeys
from bgpipe.pipeline.http.dependencies import get_state
from bgpipe.pipeline.http.problems import REMOVEBG, Problem, problem_of, problem_response

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
DOCS = "/docs"
DOCS_HEADERS = HEADERS | {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline' https://cdn.jsdelivr.net; connect-src 'self'; "
        "style-src 'unsafe-inline' https://cdn.jsdelivr.net; img-src data: https://fastapi.tiangolo.com"
    )
}
"""For Swagger UI, which its page loads from another host."""
COOKIE = "bgpipe_session"
HEALTH = "/healthz"
"""Answers without Redis."""
PUBLIC_PATHS = ("/", "/readyz", "/v1/openapi.json", "/v1/session", "/favicon.ico", DOCS)
STATIC_FILES = "/page/"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_PROXY_HEADER = re.compile(r"forwarded|x-forwarded-.*|x-real-ip|via|cf-connecting-ip")

BODY_BYTES = 1 << 16
"""Maximum size of a body, and of what a form has besides its images."""
JOB_BYTES = 1 << 18
"""Maximum size of a request for a job, which may have 100 patterns of 2,000 characters."""
PROMPT_BYTES = 1 << 20
"""Maximum size of a workflow, to run or to keep, which Redis stores."""
ENCODED_BYTES = 1 << 25
"""Maximum size of a request with one image, which may be in Base64."""
BYTES_PER_SECOND = 1 << 14
"""Minimum speed of a body that takes longer than `serve.client_timeout`."""

_IMAGES = re.compile(r"/v1/jobs/from-images|/v1/uploads/[^/]+/files")
_ONE_IMAGE = re.compile(r"(/api)?/upload/\w+")
_PROMPT = re.compile(r"(/api)?/(prompt|userdata/.+)")


class HeadMiddleware:
    """Answers HEAD as GET, and ends the endpoint after the headers (RFC 9110, section 9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_start(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body"})
                started.cancel()

        with CancelScope() as started:
            await self._app(dict(scope, method="GET"), receive, send_start)


class BodyLimitMiddleware:
    """Fails an endpoint's reading of its body: Problem 413 if it is too large, 408 if too slow."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._timeout = settings.serve.client_timeout
        self._request_bytes = settings.serve.request_bytes
        self._image_bytes = min(self._request_bytes, settings.images.max_bytes + BODY_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        maximum = self._maximum(scope["path"], headers.get("content-type", ""))
        declared, received, waited = int(headers.get("content-length", 0)), 0, 0.0
        is_whole = has_response = False

        async def receive_limited() -> Message:
            nonlocal received, waited, is_whole
            if is_whole or has_response:  # the endpoint waits for the client's end
                return await receive()
            _check_size(declared, maximum)
            started = time.monotonic()
            try:
                with fail_after(self._timeout + received / BYTES_PER_SECOND - waited):
                    message = await receive()
            except TimeoutError as error:
                if has_response:
                    return {"type": "http.disconnect"}
                raise Problem(408, "slow-request", "body too slow: send it again") from error
            waited += time.monotonic() - started
            received += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if not has_response:
                _check_size(received, maximum)
            return message

        async def send_noticed(message: Message) -> None:
            nonlocal has_response
            has_response = True
            await send(message)

        await self._app(scope, receive_limited, send_noticed)

    def _maximum(self, path: str, content_type: str) -> int:
        if _PROMPT.fullmatch(path):
            return PROMPT_BYTES
        if path == "/v1/jobs":
            return JOB_BYTES
        if path == "/v1.0/removebg":
            return ENCODED_BYTES
        if content_type.lower().startswith("multipart/form-data"):
            if _IMAGES.fullmatch(path):
                return self._request_bytes
            if _ONE_IMAGE.fullmatch(path):
                return self._image_bytes
        return BODY_BYTES


def _check_size(size: int, maximum: int) -> None:
    if size > maximum:
        detail = f"request too large: the maximum is {maximum} bytes"
        raise Problem(413, Code.TOO_LARGE, detail)


class AuthMiddleware:
    """Admits requests by API key and rate, and adds HEADERS and those of the rate to responses.

    Endpoints find the key as the state's `caller`.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        connection.state.rate = {}
        has_docs = self._settings.docs and scope["path"] == DOCS
        headers = DOCS_HEADERS if has_docs else HEADERS

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers | connection.state.rate)
            await send(message)

        try:
            self._check_origin(connection)
            if scope["path"] != HEALTH:
                await to_thread.run_sync(self._admit, connection)
        except (Problem, BgpipeError) as error:
            problem = error if isinstance(error, Problem) else problem_of(error)
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": problem.code})
            else:
                response = problem_response(problem, scope["path"])
                await response(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _check_origin(self, connection: HTTPConnection) -> None:
        """Refuse writes from pages of other sites; programs send no Origin."""
        origin = connection.headers.get("origin")
        is_read = connection.scope.get("method") in _SAFE_METHODS  # a websocket has no method
        allowed = (*self._settings.origins, self._settings.public_url.rstrip("/"))
        if not origin or is_read or origin in allowed:
            return
        if origin.partition("://")[2] != connection.headers.get("host", ""):
            raise Problem(403, "foreign-origin", f"not a page of this server: {origin[:100]}")

    def _admit(self, connection: HTTPConnection) -> None:
        """Find the caller; raises Problem 401 without a key, 429 after too many requests.

        Requests without a key count for the caller's address.
        """
        path = connection.scope["path"]
        is_public = path in PUBLIC_PATHS or path.startswith(STATIC_FILES)
        api_keys = get_state(connection).api_keys
        key = None if is_public else self._find_key(connection, api_keys)
        name, quota = _network(connection), self._settings.address_requests_per_minute
        if key:
            name, quota = key.name, self._settings.requests_per_minute
        remaining = quota - api_keys.count_request(name)
        now = time.time()
        seconds = MINUTE - int(now) % MINUTE
        connection.state.rate = {
            "RateLimit-Policy": f'"minute";q={quota};w={MINUTE}',
            "RateLimit": f'"minute";r={max(remaining, 0)};t={seconds}',
        }
        if path.startswith(REMOVEBG):
            counts = {"Limit": quota, "Remaining": max(remaining, 0), "Reset": int(now) + seconds}
            connection.state.rate = {f"X-RateLimit-{part}": str(n) for part, n in counts.items()}
        if remaining < 0:
            raise Problem(429, "too-many-requests", "too many requests in this minute", seconds)
        if not key and not is_public:
            detail = "API key required: Authorization: Bearer KEY (bgpipe keys add NAME)"
            raise Problem(401, "no-key", detail)
        connection.state.caller = key

    def _find_key(self, connection: HTTPConnection, api_keys: ApiKeys) -> ApiKey | None:
        secret, token = _read_secret(connection), connection.cookies.get(COOKIE, "")
        key = api_keys.find(secret) if secret else api_keys.session_key(token) if token else None
        if key or secret or not self._is_keyless(connection) or api_keys.exist():
            return key
        return ApiKey(LOCAL_OWNER, 0.0, everything=True)

    def _is_keyless(self, connection: HTTPConnection) -> bool:
        """Whether the caller is on the server's machine, without a proxy between them."""
        try:
            host = urlsplit(f"//{connection.headers.get('host', '')}").hostname or ""
        except ValueError:
            return False
        return (
            not self._settings.needs_keys
            and is_loopback(self._settings.host)
            and is_loopback(host)
            and connection.client is not None
            and is_loopback(connection.client.host)
            and connection.scope["http_version"] != "1.0"  # nginx before 1.29.7, unless configured
            and not any(map(_PROXY_HEADER.fullmatch, connection.headers))
        )


def is_loopback(host: str) -> bool:
    """Whether `host`, which is not resolved, means this machine."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _network(connection: HTTPConnection) -> str:
    """Return the caller's address, or its /64 of IPv6, of which one host may use every address."""
    try:
        address = ip_address(connection.client.host if connection.client else "")
    except ValueError:  # a proxy's name for its client
        return "unknown"
    return str(ip_network((address, 32 if address.version == 4 else 64), strict=False))


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
