"""Errors as problem details (RFC 9457): programs may rely on `code`; `detail` is for people."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match

from bgpipe.pipeline.errors import BgpipeError, Code, ItemError, StoreCorrupted, Unavailable
from bgpipe.pipeline.jobs.store import JobConflict, JobNotFound, LeaseLost
from bgpipe.pipeline.logging import EventLogger

MEDIA_TYPE = "application/problem+json"
METHODS = ("DELETE", "GET", "POST")
RETRY_AFTER = 5
"""Seconds after which a request that met an unavailable service may succeed."""

STATUS: Mapping[Code, int] = {
    **dict.fromkeys((Code.EMPTY, Code.TRUNCATED, Code.TARGET), 422),
    **dict.fromkeys((Code.NOT_IMAGE, Code.UNSUPPORTED), 415),
    **dict.fromkeys((Code.DEVICE, Code.TIMEOUT, Code.WORKER_LOST, Code.INTERNAL), 500),
    Code.TOO_LARGE: 413,
    Code.MISSING: 404,
    Code.ACCESS: 403,
    Code.STORAGE: 503,
}
KINDS: Mapping[type[BgpipeError], tuple[int, str]] = {
    JobNotFound: (404, "unknown-job"),
    JobConflict: (409, "conflict"),
    LeaseLost: (409, "conflict"),
    StoreCorrupted: (500, "ledger-damaged"),
    Unavailable: (503, "unavailable"),
    BgpipeError: (422, "invalid-request"),
}
"""Status and code of errors other than an item's; the first kind that fits counts."""

REMOVEBG = "/v1.0/"
REMOVEBG_STATUS = {401: 403, 413: 400, 415: 400, 422: 400}
REMOVEBG_CODES = {
    "no-key": "auth_failed",
    "too-many-requests": "rate_limit_exceeded",
    "invalid-request": "invalid_parameter",
    "E_TOO_LARGE": "file_too_large",
}
"""What remove.bg has instead of our statuses and codes."""

log = EventLogger(__name__)


class Problem(HTTPException):
    """An error response. `code` is an item's (E_...) or one of the service's own."""

    def __init__(self, status: int, code: str, detail: str, retry_after: int = 0) -> None:
        headers = {"Retry-After": str(retry_after)} if retry_after else {}
        if status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(status, detail, headers)
        self.code = code


class ProblemBody(BaseModel):
    """The body of a response of type application/problem+json."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[dict[str, Any]] | None = None
    """The invalid parts of the request, for `invalid-request`."""


DOCUMENTED: dict[int | str, dict[str, Any]] = {
    status: {
        "description": HTTPStatus(status).phrase,
        "content": {MEDIA_TYPE: {"schema": ProblemBody.model_json_schema()}},
    }
    for status in (400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 503)
}
"""The error responses of every endpoint, for the OpenAPI document."""


def problem_of(error: BgpipeError) -> Problem:
    if isinstance(error, ItemError):
        status, code, detail = STATUS[error.code], str(error.code), error.detail
    else:
        kind = next(kind for kind in KINDS if isinstance(error, kind))
        (status, code), detail = KINDS[kind], str(error)
    return Problem(status, code, detail, RETRY_AFTER if status == 503 else 0)


def problem_response(
    problem: Problem, path: str = "", errors: list[dict[str, Any]] | None = None
) -> JSONResponse:
    """Return the response to a request for `path`, which may be one of remove.bg's API."""
    if path.startswith(REMOVEBG):
        return _removebg_response(problem, errors or [])
    body = ProblemBody(
        type=f"urn:bgpipe:problem:{problem.code}",
        title=HTTPStatus(problem.status_code).phrase,
        status=problem.status_code,
        detail=problem.detail,
        code=problem.code,
        errors=errors,
    ).model_dump(exclude_none=True)
    return JSONResponse(body, problem.status_code, problem.headers, MEDIA_TYPE)


def _removebg_response(problem: Problem, errors: list[dict[str, Any]]) -> JSONResponse:
    titles = [f"{'.'.join(error['at'])}: {error['what']}" for error in errors] or [problem.detail]
    code = REMOVEBG_CODES.get(problem.code, problem.code.lower().replace("-", "_"))
    status = REMOVEBG_STATUS.get(problem.status_code, problem.status_code)
    body = {"errors": [{"title": title, "code": code} for title in titles]}
    return JSONResponse(body, status, problem.headers)


async def _on_bgpipe_error(request: Request, error: BgpipeError) -> JSONResponse:
    problem = problem_of(error)
    if problem.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("request failed", path=request.url.path, error=error)
    return problem_response(problem, request.url.path)


async def _on_invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
    errors = [{"at": list(map(str, item["loc"])), "what": item["msg"]} for item in error.errors()]
    detail = f"{'.'.join(errors[0]['at'])}: {errors[0]['what']}" if errors else "unreadable request"
    return problem_response(Problem(422, "invalid-request", detail), request.url.path, errors)


async def _on_http_error(request: Request, error: HTTPException) -> JSONResponse:
    if isinstance(error, Problem):
        return problem_response(error, request.url.path)
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    problem = Problem(error.status_code, code, str(error.detail))
    response = problem_response(problem, request.url.path)
    response.headers.update(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        # Several endpoints may share the path, and Starlette names the methods of one.
        scopes = {method: dict(request.scope, method=method) for method in METHODS}
        allowed = [
            method
            for method, scope in scopes.items()
            if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)
        ]
        # A path of its own may also read as another's with a name in it.
        if own := request.app.openapi()["paths"].get(request.url.path):
            allowed = [method for method in METHODS if method.lower() in own]
        response.headers["Allow"] = ", ".join((*allowed, *(["HEAD"] if "GET" in allowed else [])))
    return response


async def _on_unexpected_error(request: Request, error: Exception) -> JSONResponse:
    log.error("fault", exc_info=error, path=request.url.path)
    problem = Problem(500, "internal", "internal error: see the server's log")
    return problem_response(problem, request.url.path)


HANDLERS: dict[int | type[Exception], Any] = {
    BgpipeError: _on_bgpipe_error,
    RequestValidationError: _on_invalid_request,
    HTTPException: _on_http_error,
    Exception: _on_unexpected_error,
}
"""Turn every error of the application into a problem response."""
