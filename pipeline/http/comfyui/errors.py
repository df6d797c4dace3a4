"""Errors in the shape that ComfyUI's clients look for: a body with `error`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from bgpipe.pipeline.comfyui import WorkflowError
from bgpipe.pipeline.errors import BgpipeError
from bgpipe.pipeline.http.problems import Problem, problem_of

if TYPE_CHECKING:
    from fastapi import Request, Response

    Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class ComfyRoute(APIRoute):
    """Tells every error of ours as ComfyUI would."""

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()

        async def told(request: Request) -> Response:
            try:
                return await handler(request)
            except WorkflowError as error:
                return JSONResponse(error.body, 400)
            except RequestValidationError as error:
                first = next(iter(error.errors()), {"msg": "it cannot be read"})
                return _answer(Problem(400, "invalid_request", str(first["msg"])))
            except HTTPException as error:
                return _answer(Problem(error.status_code, "invalid_request", str(error.detail)))
            except Problem as problem:
                return _answer(problem)
            except BgpipeError as error:
                return _answer(problem_of(error))

        return told


def _answer(problem: Problem) -> JSONResponse:
    headers = {"Retry-After": str(problem.retry_after)} if problem.retry_after else {}
    refused = WorkflowError(problem.code, problem.detail)
    return JSONResponse(refused.body, problem.status, headers)
