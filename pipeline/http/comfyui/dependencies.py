"""What the routes depend on: the caller's prompts and images, the JSON body, errors in ComfyUI's shape."""

import json
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Response
from fastapi.exceptions import RequestValidationError
from fastapi.requests import HTTPConnection, Request
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from bgpipe.pipeline.comfyui.graph import Json, WorkflowError, no_prompt
from bgpipe.pipeline.errors import BgpipeError
from bgpipe.pipeline.http.comfyui.prompt_service import PromptService
from bgpipe.pipeline.http.dependencies import get_caller, get_state
from bgpipe.pipeline.http.problems import Problem, problem_of

CONTAINERS = 50_000
"""Maximum number of lists and objects in a body: a parser makes 30 times its size of empty ones."""


def get_service(connection: HTTPConnection) -> PromptService:
    return PromptService(get_state(connection), get_caller(connection).name)


async def read_json(request: Request) -> Json:
    """Return the body, whatever its content type: many clients send none.

    WorkflowError if it is not JSON, not valid in UTF-8 (NaN, lone surrogates), or has too many parts.
    """
    body = await request.body()
    if sum(map(body.count, b"[{")) > CONTAINERS:
        raise WorkflowError("no_prompt", f"More than {CONTAINERS} lists and objects")
    try:
        document = json.loads(body) if body else {}
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise no_prompt() from error
    return document


Service = Annotated[PromptService, Depends(get_service)]
Body = Annotated[object, Depends(read_json)]


class ComfyRoute(APIRoute):
    """Turns every error of an endpoint into ComfyUI's shape: a body with `error`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_errors(request: Request) -> Response:
            try:
                return await handle(request)
            except WorkflowError as error:
                return JSONResponse(error.body, 400)
            except RequestValidationError as error:
                first = next(iter(error.errors()), {"msg": "unreadable request"})
                problem: HTTPException = HTTPException(400, str(first["msg"]))
            except HTTPException as error:
                problem = error
            except BgpipeError as error:
                problem = problem_of(error)
            code = problem.code if isinstance(problem, Problem) else "invalid_request"
            body = WorkflowError(code, problem.detail).body
            return JSONResponse(body, problem.status_code, problem.headers)

        return handle_errors
