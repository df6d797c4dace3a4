"""ComfyUI's routes under / and under /api: prompts, their events, and what the server supports."""

import importlib.metadata
import os
import platform
import time
import uuid
from contextlib import suppress

import anyio
from anyio import to_thread
from fastapi import APIRouter, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse

from bgpipe.pipeline.comfyui.graph import Json
from bgpipe.pipeline.comfyui.node_types import make_node_types
from bgpipe.pipeline.errors import BgpipeError
from bgpipe.pipeline.http.comfyui import files
from bgpipe.pipeline.http.comfyui.dependencies import Body, ComfyRoute, Service, get_service
from bgpipe.pipeline.http.comfyui.prompt_service import HISTORY, PromptService
from bgpipe.pipeline.http.comfyui.prompts import CLIENT_ID_LENGTH, Event, PromptState, PromptStatus
from bgpipe.pipeline.http.comfyui.submission import submit_prompt
from bgpipe.pipeline.monitoring.heartbeat import read_heartbeats

COMFYUI_VERSION = "0.3.64"
"""The version of ComfyUI whose interface this is."""
BUSY_POLL, IDLE_POLL = 0.1, 0.5
"""Seconds between two reads, with and without open prompts of the client."""
GRACE = 0.2
"""Seconds before the first event of a prompt, and again before those of its end.

Many clients listen only once they have its id, and for outputs only after its first event.
"""


router = APIRouter(route_class=ComfyRoute, include_in_schema=False)
router.include_router(files.router)


@router.post("/prompt")
def post_prompt(service: Service, body: Body) -> JSONResponse:
    prompt, errors = submit_prompt(service, body)
    return JSONResponse({"prompt_id": prompt.id, "number": prompt.number, "node_errors": errors})


@router.get("/prompt")
def show_prompt(service: Service) -> JSONResponse:
    return JSONResponse(exec_info(service.count_open()))


@router.get("/queue")
def show_queue(service: Service) -> JSONResponse:
    queue: dict[str, list[Json]] = {"queue_running": [], "queue_pending": []}
    for state in service.open():
        is_running = state.status is PromptStatus.RUNNING
        queue["queue_running" if is_running else "queue_pending"].append(state.prompt.queue_item)
    return JSONResponse(queue)


@router.post("/queue")
def edit_queue(service: Service, body: Body) -> Response:
    """Remove pending prompts; running ones stay."""
    states = service.open()
    pending = [state for state in states if state.status is PromptStatus.PENDING]
    for state in _select(pending, body):
        service.cancel(state.prompt)
        service.forget(state.prompt)
    return Response()


@router.post("/interrupt")
def interrupt(service: Service, body: Body) -> Response:
    """Cancel one running prompt, or all of the caller's."""
    prompt_id = body.get("prompt_id") if isinstance(body, dict) else None
    for state in service.open():
        if state.status is PromptStatus.RUNNING and prompt_id in (None, state.prompt.id):
            service.cancel(state.prompt)
    return Response()


@router.get("/history")
def show_history(service: Service, max_items: int = HISTORY, offset: int = -1) -> JSONResponse:
    """The newest entries, or those from `offset` on if that is not negative; oldest first."""
    ended = service.ended()
    count = min(max(max_items, 0), HISTORY)
    first = max(len(ended) - count, 0) if offset < 0 else offset
    page = ended[first : first + count]
    return JSONResponse({state.prompt.id: state.history_entry for state in page})


@router.get("/history/{prompt}")
def show_entry(service: Service, prompt: str) -> JSONResponse:
    state = service.find(prompt)
    return JSONResponse({prompt: state.history_entry} if state and state.has_ended else {})


@router.post("/history")
def edit_history(service: Service, body: Body) -> Response:
    """Remove entries; their files stay until they expire."""
    for state in _select(service.ended(), body):
        service.forget(state.prompt)
    return Response()


def _select(states: list[PromptState], body: object) -> list[PromptState]:
    """Return all for a body with `clear`, else those whose ids are in its `delete`."""
    if not isinstance(body, dict):
        return []
    ids = body.get("delete")
    deleted = set(map(str, ids)) if isinstance(ids, list) else set()
    return [state for state in states if body.get("clear") or state.prompt.id in deleted]


def exec_info(remaining: int) -> dict[str, Json]:
    """Return the response of GET /prompt, also a part of the event `status`."""
    return {"exec_info": {"queue_remaining": remaining}}


@router.websocket("/ws")
async def send_events(socket: WebSocket) -> None:
    """Serve /ws until the client disconnects."""
    client = socket.query_params.get("clientId", "")[:CLIENT_ID_LENGTH] or uuid.uuid4().hex
    await socket.accept()
    stream = EventStream(get_service(socket), client)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_receive, socket, tasks.cancel_scope)
        try:
            await _send_all(socket, stream)
        except (WebSocketDisconnect, RuntimeError):  # disconnected while sending
            tasks.cancel_scope.cancel()


class EventStream:
    """The unsent events of one client. Its calls block."""

    def __init__(self, service: PromptService, client: str) -> None:
        self._service = service
        self._client = client
        self._seen: dict[str, float] = {}
        self._started: dict[str, float] = {}
        self._remaining = -1
        self.has_open_prompts = False

    def next_events(self) -> list[Event]:
        """Return the events since the last call; a shorter queue comes after the ends of prompts."""
        states = self._service.unreported(self._client)
        self.has_open_prompts = bool(states)
        events = [event for state in states for event in self._events_of(state)]
        remaining = self._service.count_open()
        if remaining != self._remaining:
            sid = {"sid": self._client} if self._remaining < 0 else {}
            is_shorter = remaining < self._remaining
            status = ("status", {"status": exec_info(remaining)} | sid)
            events.insert(len(events) if is_shorter else 0, status)
            self._remaining = remaining
        return events

    def mark_notified(self, events: list[Event]) -> None:
        """Record that the client has received the events, among them the ends of prompts."""
        for kind, data in events:
            if kind == "executing" and data["node"] is None:
                self._service.mark_notified(self._client, data["prompt_id"])

    def _events_of(self, state: PromptState) -> list[Event]:
        prompt_id, now = state.prompt.id, time.monotonic()
        if prompt_id not in self._started:
            seen = self._seen.setdefault(prompt_id, now)
            if state.status is PromptStatus.PENDING or now - seen < GRACE:
                return []
            self._started[prompt_id] = now
            return list(state.start_events())
        if not state.has_ended or now - self._started[prompt_id] < GRACE:
            return []
        self._service.mark_ended(prompt_id)  # clients look at the history at the last event
        del self._seen[prompt_id], self._started[prompt_id]
        return list(state.end_events())


async def _send_all(socket: WebSocket, stream: EventStream) -> None:
    while True:
        with suppress(BgpipeError):  # Redis is away: retried, and events may repeat
            events = await to_thread.run_sync(stream.next_events)
            for kind, data in events:
                await socket.send_json({"type": kind, "data": data})
            await to_thread.run_sync(stream.mark_notified, events)
        await anyio.sleep(BUSY_POLL if stream.has_open_prompts else IDLE_POLL)


async def _receive(socket: WebSocket, scope: anyio.CancelScope) -> None:
    """Answer the client's feature flags, and cancel `scope` when it disconnects."""
    try:
        if "feature_flags" in await socket.receive_text():
            await socket.send_json({"type": "feature_flags", "data": {}})
        while True:
            await socket.receive_text()
    except (WebSocketDisconnect, KeyError):  # a binary message has no text
        scope.cancel()


@router.get("/object_info")
def show_nodes(service: Service) -> JSONResponse:
    models = service.state.settings.comfyui.models
    node_types = make_node_types(models, service.images.names())
    return JSONResponse({name: node_type.info for name, node_type in node_types.items()})


@router.get("/object_info/{name}")
def show_node(service: Service, name: str) -> JSONResponse:
    models = service.state.settings.comfyui.models
    node_type = make_node_types(models, service.images.names()).get(name)
    return JSONResponse({name: node_type.info} if node_type else {})


@router.get("/system_stats")
def show_system(service: Service) -> JSONResponse:
    """The server's machine, and the workers of the cluster, of whose devices the memory is unknown."""
    torch_version = ""
    with suppress(importlib.metadata.PackageNotFoundError):  # a machine without workers
        torch_version = importlib.metadata.version("torch")
    system = {
        "os": os.name,
        "ram_total": _memory("SC_PHYS_PAGES"),
        "ram_free": _memory("SC_AVPHYS_PAGES"),
        "comfyui_version": COMFYUI_VERSION,
        "required_frontend_version": "",
        "installed_templates_version": "",
        "required_templates_version": "",
        "python_version": platform.python_version(),
        "pytorch_version": torch_version,
        "embedded_python": False,
        "argv": ["bgpipe", "serve"],
        "bgpipe_version": importlib.metadata.version("bgpipe"),
    }
    memory = dict.fromkeys(("vram_total", "vram_free", "torch_vram_total", "torch_vram_free"), 0)
    workers = [heartbeat.worker for heartbeat in read_heartbeats(service.client)]
    devices: list[Json] = [
        {"name": name, "type": "cpu" if name.startswith("cpu") else "cuda", "index": index} | memory
        for index, name in enumerate(workers)
    ]
    return JSONResponse({"system": system, "devices": devices})


def _memory(pages: str) -> int:
    """Return the bytes of `pages`, or 0 where the system does not report them."""
    try:
        return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0
