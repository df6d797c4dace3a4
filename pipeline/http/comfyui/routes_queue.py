"""/prompt, /queue, /history, /interrupt and /jobs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from bgpipe.pipeline.http.comfyui.dependencies import (
    HISTORY,
    Body,
    Service,
    running_and_pending,
    status,
)
from bgpipe.pipeline.http.comfyui.errors import ComfyRoute
from bgpipe.pipeline.http.comfyui.history import PromptState, PromptStatus, outputs_of
from bgpipe.pipeline.http.comfyui.submission import submit_prompt

if TYPE_CHECKING:
    from bgpipe.pipeline.comfyui.graph import Json

router = APIRouter(route_class=ComfyRoute)


@router.post("/prompt")
def post_prompt(desk: Service, body: Body) -> JSONResponse:
    posted = submit_prompt(desk.backend, desk.owner, body)
    prompt = posted.prompt
    return JSONResponse(
        {"prompt_id": prompt.id, "number": prompt.number, "node_errors": posted.errors}
    )


@router.get("/prompt")
def show_prompt(desk: Service) -> JSONResponse:
    return JSONResponse(status(desk.remaining()))


@router.get("/queue")
def show_queue(desk: Service) -> JSONResponse:
    running, pending = running_and_pending(desk.open())
    return JSONResponse(
        {
            "queue_running": [progress.prompt.item for progress in running],
            "queue_pending": [progress.prompt.item for progress in pending],
        }
    )


@router.post("/queue")
def edit_queue(desk: Service, body: Body) -> Response:
    """What waits is taken off; what runs stays."""
    _, pending = running_and_pending(desk.open())
    wanted = _ids(body)
    for progress in pending:
        if _field(body, "clear") or progress.prompt.id in wanted:
            desk.cancel(progress)
            desk.prompts.forget(progress.prompt)
    return Response()


@router.post("/interrupt")
def interrupt(desk: Service, body: Body) -> Response:
    """End what runs: the prompt that is named, or all of the caller's."""
    running, _ = running_and_pending(desk.open())
    wanted = _field(body, "prompt_id")
    for progress in running:
        if wanted in {None, progress.prompt.id}:
            desk.cancel(progress)
    return Response()


@router.post("/free")
def free(body: Body) -> Response:
    """Nothing to do: workers hold one model each."""
    del body
    return Response()


@router.get("/history")
def show_history(
    desk: Service, max_items: int = HISTORY, offset: int | None = None
) -> JSONResponse:
    """The last entries, or those from `offset` on; the oldest first."""
    ended = desk.ended()
    most = min(max(max_items, 0), HISTORY)
    first = max(len(ended) - most, 0) if offset is None or offset < 0 else offset
    return JSONResponse(
        {progress.prompt.id: progress.entry for progress in ended[first : first + most]}
    )


@router.get("/history/{prompt}")
def show_entry(desk: Service, prompt: str) -> JSONResponse:
    progress = desk.find(prompt)
    has_ended = progress is not None and progress.status.has_ended
    return JSONResponse({prompt: progress.entry} if progress and has_ended else {})


@router.post("/history")
def edit_history(desk: Service, body: Body) -> Response:
    """Entries are removed; their files stay until they expire."""
    wanted, everything = _ids(body), _field(body, "clear")
    for progress in desk.ended() if everything or wanted else ():
        if everything or progress.prompt.id in wanted:
            desk.prompts.forget(progress.prompt)
    return Response()


@router.get("/jobs")
def list_jobs(
    desk: Service,
    status: str | None = None,
    sort_by: Literal["created_at", "execution_duration"] = "created_at",
    sort_order: Literal["asc", "desc"] = "desc",
    limit: Annotated[int | None, Query(ge=1)] = None,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> JSONResponse:
    stages = set(status.split(",")) if status else set(PromptStatus)
    found = [one for one in desk.all() if one.status in stages]
    duration = sort_by == "execution_duration"
    found.sort(
        key=lambda one: one.ended - one.started if duration else one.started,
        reverse=sort_order == "desc",
    )
    page = found[offset : offset + min(limit or HISTORY, HISTORY)]
    return JSONResponse(
        {
            "jobs": [_summary(progress) for progress in page],
            "pagination": {
                "offset": offset,
                "limit": limit,
                "total": len(found),
                "has_more": offset + len(page) < len(found),
            },
        }
    )


@router.get("/jobs/{prompt}")
def show_job(desk: Service, prompt: str) -> JSONResponse:
    progress = desk.find(prompt)
    if progress is None:
        return JSONResponse({"error": "Job not found"}, 404)
    done = progress.status is PromptStatus.DONE
    more = {
        "outputs": outputs_of(progress.prompt.kept) if done else {},
        "workflow": {"prompt": progress.prompt.graph, "extra_data": progress.prompt.extra_data},
    }
    return JSONResponse(_summary(progress) | more)


@router.post("/jobs/{prompt}/cancel")
def cancel_job(desk: Service, prompt: str) -> JSONResponse:
    progress = desk.find(prompt)
    if progress is None:
        return JSONResponse({"error": "Job not found"}, 404)
    return JSONResponse({"cancelled": _cancel(desk, [progress])})


@router.post("/jobs/cancel")
def cancel_jobs(desk: Service, body: Body) -> JSONResponse:
    wanted = _ids(body, "job_ids")
    return JSONResponse(
        {"cancelled": _cancel(desk, [one for one in desk.open() if one.prompt.id in wanted])}
    )


def _cancel(desk: Service, found: Iterable[PromptState]) -> bool:
    """Whether any of them could be cancelled."""
    ending = [progress for progress in found if not progress.status.has_ended]
    for progress in ending:
        desk.cancel(progress)
    return bool(ending)


def _summary(progress: PromptState) -> dict[str, Json]:
    kept = progress.prompt.kept if progress.status is PromptStatus.DONE else ()
    failure = progress.failure
    ended = progress.ended if progress.status.has_ended else None
    return {
        "id": progress.prompt.id,
        "status": progress.status,
        "priority": progress.prompt.number,
        "create_time": progress.started,
        "execution_start_time": None
        if progress.status is PromptStatus.PENDING
        else progress.started,
        "execution_end_time": ended,
        "execution_error": {"exception_type": failure.code, "exception_message": failure.detail}
        if failure
        else None,
        "outputs_count": len(kept),
        "preview_output": kept[0].shown | {"nodeId": kept[0].node} if kept else None,
    }


def _field(body: object, name: str) -> Json:
    return body.get(name) if isinstance(body, dict) else None


def _ids(body: object, name: str = "delete") -> set[str]:
    found = _field(body, name)
    return {str(entry) for entry in found} if isinstance(found, list) else set()
