"""/ws: the events by which clients wait for their prompts, derived from the jobs in Redis."""

import time
import uuid
from contextlib import suppress

import anyio
from anyio import to_thread
from fastapi import WebSocket, WebSocketDisconnect

from bgpipe.pipeline.comfyui.graph import Json
from bgpipe.pipeline.errors import BgpipeError
from bgpipe.pipeline.http.comfyui.dependencies import get_service
from bgpipe.pipeline.http.comfyui.prompt_store import PromptStore
from bgpipe.pipeline.http.comfyui.prompts import CLIENT_ID_LENGTH, Event, PromptState, PromptStatus

BUSY_POLL, IDLE_POLL = 0.1, 0.5
"""Seconds between two reads, with and without open prompts of the client."""
GRACE = 0.2
"""Seconds before the first event of a prompt, and again before those of its end.

Many clients listen only once they have its id, and for outputs only after its first event.
"""


def exec_info(remaining: int) -> dict[str, Json]:
    """Return the response of GET /prompt, also a part of the event `status`."""
    return {"exec_info": {"queue_remaining": remaining}}


async def send_events(socket: WebSocket) -> None:
    """Serve /ws until the client disconnects."""
    client = socket.query_params.get("clientId", "")[:CLIENT_ID_LENGTH] or uuid.uuid4().hex
    await socket.accept()
    stream = EventStream(get_service(socket).prompts, client)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_receive, socket, tasks.cancel_scope)
        try:
            await _send_all(socket, stream)
        except (WebSocketDisconnect, RuntimeError):  # disconnected while sending
            tasks.cancel_scope.cancel()


class EventStream:
    """The unsent events of one client. Its calls block."""

    def __init__(self, prompts: PromptStore, client: str) -> None:
        self._prompts = prompts
        self._client = client
        self._seen: dict[str, float] = {}
        self._started: dict[str, float] = {}
        self._remaining = -1
        self.has_open_prompts = False

    def next_events(self) -> list[Event]:
        """Return the events since the last call; a shorter queue comes after the ends of prompts."""
        states = self._prompts.unreported(self._client)
        self.has_open_prompts = bool(states)
        events = [event for state in states for event in self._events_of(state)]
        remaining = self._prompts.count_open()
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
                self._prompts.mark_notified(self._client, data["prompt_id"])

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
        self._prompts.mark_ended(prompt_id)  # clients look at the history at the last event
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
