"""Errors as problem details (RFC 9457): programs may rely on `code`; `detail` is for people."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match

from bgpipe.pipeline.errors import BgpipeError, Code, ItemError, StoreCorrupted, Unavailable
from bgpipe.pipeline.jobs.store import JobConflict, JobNotFound, LeaseLost

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = 5
"""Seconds after which a request that met an unavailable service may succeed."""

STATUS: Mapping[Code, int] = {
    Code.EMPTY: 422,
    Code.NOT_IMAGE: 415,
    Code.TRUNCATED: 422,
    Code.UNSUPPORTED: 415,
    Code.TOO_LARGE: 413,
    Code.MISSING: 404,
    Code.ACCESS: 403,
    Code.TARGET: 422,
    Code.STORAGE: 503,
    Code.DEVICE: 500,
    Code.TIMEOUT: 500,
    Code.WORKER_LOST: 500,
    Code.INTERNAL: 500,
}

log = logging.getLogger(__name__)


class Problem(Exception):
    """An error response. `code` is an item's (E_...) or one of the service's own."""

    def __init__(self, status: int, code: str, detail: str, retry_after: int = 0) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after = retry_after


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
    for status in (400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 503)
}
"""The error responses of every endpoint, for the OpenAPI document."""


def problem_response(problem: Problem, errors: list[dict[str, Any]] | None = None) -> JSONResponse:
    body = ProblemBody(
        type=f"urn:bgpipe:problem:{problem.code}",
        title=HTTPStatus(problem.status).phrase,
        status=problem.status,
        detail=problem.detail,
        code=problem.code,
        errors=errors,
    )
    headers = {"Retry-After": str(problem.retry_after)} if problem.retry_after else {}
    if problem.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(
        body.model_dump(exclude_none=True), problem.status, headers, media_type=MEDIA_TYPE
    )


def problem_of(error: BgpipeError) -> Problem:
    if isinstance(error, ItemError):
        status = STATUS[error.code]
        return Problem(status, error.code, error.detail, RETRY_AFTER if status == 503 else 0)
    if isinstance(error, JobNotFound):
        return Problem(404, "unknown-job", str(error))
    if isinstance(error, (JobConflict, LeaseLost)):
        return Problem(409, "conflict", str(error))
    if isinstance(error, StoreCorrupted):
        return Problem(500, "ledger-damaged", str(error))
    if isinstance(error, Unavailable):
        return Problem(503, "unavailable", str(error), RETRY_AFTER)
    return Problem(422, "invalid-request", str(error))


def install_error_handlers(app: FastAPI) -> None:
    """Turn every error of `app` into a problem response."""
    app.exception_handler(Problem)(_on_known_error)
    app.exception_handler(BgpipeError)(_on_known_error)
    app.exception_handler(RequestValidationError)(_on_invalid_request)
    app.exception_handler(HTTPException)(_on_http_error)
    app.exception_handler(Exception)(_on_unexpected_error)


async def _on_known_error(request: Request, error: Problem | BgpipeError) -> JSONResponse:
    problem = error if isinstance(error, Problem) else problem_of(error)
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        fields = {"path": request.url.path, "error": error}
        log.warning("request failed", extra={"fields": fields})
    return problem_response(problem)


async def _on_invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
    del request
    errors = [{"at": list(map(str, item["loc"])), "what": item["msg"]} for item in error.errors()]
    detail = f"{'.'.join(errors[0]['at'])}: {errors[0]['what']}" if errors else "unreadable request"
    return problem_response(Problem(422, "invalid-request", detail), errors)


async def _on_http_error(request: Request, error: HTTPException) -> JSONResponse:
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    if error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        code = Code.TOO_LARGE
    response = problem_response(Problem(error.status_code, code, str(error.detail)))
    response.headers.update(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["Allow"] = ", ".join(_methods(request))
    return response


def _methods(request: Request) -> list[str]:
    """Return the methods of the path: several endpoints may share it, and Starlette names one."""
    matching = [
        route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE
    ]
    return sorted({name for route in matching for name in getattr(route, "methods", None) or ()})


async def _on_unexpected_error(request: Request, error: Exception) -> JSONResponse:
    log.error("fault", exc_info=error, extra={"fields": {"path": request.url.path}})
    return problem_response(Problem(500, "internal", "internal error: see the server's log"))
