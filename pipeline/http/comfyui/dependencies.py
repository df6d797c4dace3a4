"""What the routes depend on: the caller's prompts and images, the JSON body, errors in ComfyUI's shape."""

import json
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import Depends, Response
from fastapi.exceptions import RequestValidationError
from fastapi.requests import HTTPConnection, Request
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from bgpipe.pipeline.comfyui.graph import Json, WorkflowError, no_prompt
from bgpipe.pipeline.errors import BgpipeError, UsageError
from bgpipe.pipeline.http.comfyui.history import PromptState, PromptStatus, read_prompt_state
from bgpipe.pipeline.http.comfyui.input_images import InputImages
from bgpipe.pipeline.http.comfyui.prompt_store import Prompt, PromptStore
from bgpipe.pipeline.http.dependencies import AppState, get_caller, get_state
from bgpipe.pipeline.http.problems import Problem, problem_of

HISTORY = 1000
"""Maximum number of prompts listed, the newest ones."""
CONTAINERS = 50_000
"""Maximum number of lists and objects in a body: a parser makes 30 times its size of empty ones."""
CHECKED_PROMPTS = 20
"""Open prompts checked when they are counted; the oldest end first."""


@dataclass(frozen=True, slots=True)
class PromptService:
    """The prompts and images of one owner. Its calls block: endpoints that use it are plain `def`."""

    state: AppState
    owner: str
    prompts: PromptStore
    images: InputImages

    def read_states(self, prompts: Iterable[Prompt]) -> list[PromptState]:
        """Return the states of `prompts`, without those whose jobs were forgotten.

        A prompt whose client is connected runs until its websocket has announced it: clients look
        here at its first event, and take what has ended for a cached result without events.
        """
        states = []
        for prompt in prompts:
            prompt_state = read_prompt_state(self.state.jobs, prompt)
            has_ended = prompt_state is None or prompt_state.status.has_ended
            if prompt_state and has_ended and self.prompts.is_withheld(prompt):
                prompt_state, has_ended = replace(prompt_state, status=PromptStatus.RUNNING), False
            if prompt_state:
                states.append(prompt_state)
            if has_ended:
                self.prompts.mark_ended(prompt.id)
        return states

    def open_prompts(self) -> list[PromptState]:
        """Return the prompts that have not ended, by number."""
        states = self.read_states(self.prompts.open())
        return [state for state in states if not state.status.has_ended]

    def ended_prompts(self) -> list[PromptState]:
        """Return the newest prompts that have ended, oldest first."""
        states = self.read_states(self.prompts.newest(HISTORY))
        return [state for state in states if state.status.has_ended]

    def count_open(self) -> int:
        self.read_states(self.prompts.open(CHECKED_PROMPTS))
        return self.prompts.open_count()

    def cancel(self, prompt: Prompt) -> None:
        """Cancel the prompt's jobs; images in progress are finished and not shown."""
        for job in prompt.jobs:
            with suppress(UsageError):  # it has ended
                self.state.jobs.cancel(job)


def get_service(connection: HTTPConnection) -> PromptService:
    state, owner = get_state(connection), get_caller(connection).name
    prompts = PromptStore(state.session.client, owner, state.settings.serve.keep_days)
    return PromptService(state, owner, prompts, InputImages(state, owner))


async def read_json(request: Request) -> Json:
    """Return the body, whatever its content type: many clients send none.

    Raises:
        WorkflowError: it is not JSON, not valid in UTF-8 (NaN, lone surrogates), or of too many parts.
        Problem: it is too large.
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
