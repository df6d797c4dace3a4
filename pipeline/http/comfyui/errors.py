"""Errors in ComfyUI's shape: a body with `error`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from bgpipe.pipeline.comfyui.graph import WorkflowError
from bgpipe.pipeline.errors import BgpipeError
from bgpipe.pipeline.http.problems import Problem, problem_of

if TYPE_CHECKING:
    from fastapi import Request, Response

    Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class ComfyRoute(APIRoute):
    """Turns every error of an endpoint into ComfyUI's shape."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def handle_errors(request: Request) -> Response:
            try:
                return await handle(request)
            except WorkflowError as error:
                return JSONResponse(error.body, 400)
            except RequestValidationError as error:
                first = next(iter(error.errors()), {"msg": "unreadable request"})
                return _respond(Problem(400, "invalid_request", str(first["msg"])))
            except HTTPException as error:
                return _respond(Problem(error.status_code, "invalid_request", str(error.detail)))
            except Problem as problem:
                return _respond(problem)
            except BgpipeError as error:
                return _respond(problem_of(error))

        return handle_errors


def _respond(problem: Problem) -> JSONResponse:
    headers = {"Retry-After": str(problem.retry_after)} if problem.retry_after else {}
    body = WorkflowError(problem.code, problem.detail).body
    return JSONResponse(body, problem.status, headers)
