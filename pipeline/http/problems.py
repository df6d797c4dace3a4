"""Every error as a problem (RFC 9457): `code` is what programs may rely on, `detail` is for people."""

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
"""Seconds after which something that is away may be back."""

_STATUS: Mapping[Code, int] = {
    Code.EMPTY: 422,
    Code.NOT_IMAGE: 415,
    Code.TRUNCATED: 422,
    Code.UNSUPPORTED: 415,
    Code.TOO_LARGE: 413,
    Code.MISSING: 404,
    Code.ACCESS: 403,
    Code.TARGET: 422,
    Code.STORAGE: 503,
}
"""By what is wrong with one image; others are ours, and 500."""

log = logging.getLogger(__name__)


class Problem(Exception):
    """An answer that is no success.

    `code` is one of an image's (E_...) or of the service's own words.
    """

    def __init__(self, status: int, code: str, detail: str, retry_after: int = 0) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after = retry_after


class ProblemBody(BaseModel):
    """What an answer with the type application/problem+json holds."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[dict[str, Any]] | None = None
    """Where in the request what is wrong, for `invalid-request`."""


DOCUMENTED: dict[int | str, dict[str, Any]] = {
    status: {
        "description": HTTPStatus(status).phrase,
        "content": {MEDIA_TYPE: {"schema": ProblemBody.model_json_schema()}},
    }
    for status in (400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 503)
}
"""What every endpoint may answer besides success."""


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
    """How an error of ours is told to a caller."""
    if isinstance(error, ItemError):
        status = _STATUS.get(error.code, 500)
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
    """Let every error of `app` be answered as a problem."""
    app.exception_handler(Problem)(_on_problem)
    app.exception_handler(BgpipeError)(_on_our_error)
    app.exception_handler(RequestValidationError)(_on_invalid)
    app.exception_handler(HTTPException)(_on_http)
    app.exception_handler(Exception)(_on_fault)


async def _on_problem(request: Request, error: Problem) -> JSONResponse:
    del request
    return problem_response(error)


async def _on_our_error(request: Request, error: BgpipeError) -> JSONResponse:
    problem = problem_of(error)
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        fields = {"path": request.url.path, "error": error}
        log.warning("request failed", extra={"fields": fields})
    return problem_response(problem)


async def _on_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    del request
    found = [{"at": list(map(str, item["loc"])), "what": item["msg"]} for item in error.errors()]
    first = f"{'.'.join(found[0]['at'])}: {found[0]['what']}" if found else "it cannot be read"
    return problem_response(Problem(422, "invalid-request", first), found)


async def _on_http(request: Request, error: HTTPException) -> JSONResponse:
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    if error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        code = Code.TOO_LARGE
    told = problem_response(Problem(error.status_code, code, str(error.detail)))
    told.headers.update(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        told.headers["Allow"] = ", ".join(_methods(request))
    return told


def _methods(request: Request) -> list[str]:
    """What may be asked of the path: several endpoints may share it, of which Starlette names one."""
    matching = [
        route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE
    ]
    return sorted({name for route in matching for name in getattr(route, "methods", None) or ()})


async def _on_fault(request: Request, error: Exception) -> JSONResponse:
    log.error("fault", exc_info=error, extra={"fields": {"path": request.url.path}})
    return problem_response(
        Problem(500, "internal", "a fault in bgpipe: the server's log has the details")
    )
