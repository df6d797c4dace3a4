"""/prompt, /queue, /history and /interrupt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from bgpipe.pipeline.http.comfyui.dependencies import HISTORY, Body, PromptService, Service
from bgpipe.pipeline.http.comfyui.errors import ComfyRoute
from bgpipe.pipeline.http.comfyui.history import PromptState, PromptStatus
from bgpipe.pipeline.http.comfyui.submission import submit_prompt

if TYPE_CHECKING:
    from bgpipe.pipeline.comfyui.graph import Json

router = APIRouter(route_class=ComfyRoute)


@router.post("/prompt")
def post_prompt(service: Service, body: Body) -> JSONResponse:
    accepted = submit_prompt(service.state, service.owner, body)
    prompt = accepted.prompt
    return JSONResponse(
        {"prompt_id": prompt.id, "number": prompt.number, "node_errors": accepted.errors}
    )


@router.get("/prompt")
def show_prompt(service: Service) -> JSONResponse:
    return JSONResponse(exec_info(service.count_open()))


@router.get("/queue")
def show_queue(service: Service) -> JSONResponse:
    running, pending = _split_open(service)
    return JSONResponse(
        {
            "queue_running": [state.prompt.queue_item for state in running],
            "queue_pending": [state.prompt.queue_item for state in pending],
        }
    )


@router.post("/queue")
def edit_queue(service: Service, body: Body) -> Response:
    """Remove pending prompts; running ones stay."""
    _, pending = _split_open(service)
    ids = _ids_to_delete(body)
    for state in pending:
        if _field(body, "clear") or state.prompt.id in ids:
            service.cancel(state.prompt)
            service.prompts.forget(state.prompt)
    return Response()


@router.post("/interrupt")
def interrupt(service: Service, body: Body) -> Response:
    """Cancel one running prompt, or all of the caller's."""
    running, _ = _split_open(service)
    prompt_id = _field(body, "prompt_id")
    for state in running:
        if prompt_id in {None, state.prompt.id}:
            service.cancel(state.prompt)
    return Response()


@router.get("/history")
def show_history(
    service: Service, max_items: int = HISTORY, offset: int | None = None
) -> JSONResponse:
    """The newest entries, or those from `offset` on; oldest first."""
    ended = service.ended_prompts()
    count = min(max(max_items, 0), HISTORY)
    first = max(len(ended) - count, 0) if offset is None or offset < 0 else offset
    page = ended[first : first + count]
    return JSONResponse({state.prompt.id: state.history_entry for state in page})


@router.get("/history/{prompt}")
def show_entry(service: Service, prompt: str) -> JSONResponse:
    state = service.find(prompt)
    has_ended = state is not None and state.status.has_ended
    return JSONResponse({prompt: state.history_entry} if state and has_ended else {})


@router.post("/history")
def edit_history(service: Service, body: Body) -> Response:
    """Remove entries; their files stay until they expire."""
    ids, is_clear = _ids_to_delete(body), _field(body, "clear")
    for state in service.ended_prompts() if is_clear or ids else ():
        if is_clear or state.prompt.id in ids:
            service.prompts.forget(state.prompt)
    return Response()


def exec_info(remaining: int) -> dict[str, Json]:
    """Return the response of GET /prompt, also a part of the event `status`."""
    return {"exec_info": {"queue_remaining": remaining}}


def _split_open(service: PromptService) -> tuple[list[PromptState], list[PromptState]]:
    """Return the caller's running and pending prompts."""
    states = service.open_prompts()
    running = [state for state in states if state.status is PromptStatus.RUNNING]
    return running, [state for state in states if state.status is PromptStatus.PENDING]


def _field(body: object, name: str) -> Json:
    return body.get(name) if isinstance(body, dict) else None


def _ids_to_delete(body: object) -> set[str]:
    ids = _field(body, "delete")
    return set(map(str, ids)) if isinstance(ids, list) else set()
