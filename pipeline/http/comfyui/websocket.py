"""/ws: the events by which clients wait for their prompts.

They are made from the ledger, which is looked at again and again: so it is the same whichever server a
client is connected to, and a client that comes back after one was restarted is told what it missed.
"""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread
from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from bgpipe.pipeline.errors import BgpipeError
from bgpipe.pipeline.http.comfyui.dependencies import get_service, status
from bgpipe.pipeline.http.comfyui.history import PromptStatus

if TYPE_CHECKING:
    from bgpipe.pipeline.comfyui.graph import Json
    from bgpipe.pipeline.http.comfyui.dependencies import PromptService
    from bgpipe.pipeline.http.comfyui.history import Event, PromptState

BUSY, IDLE = 0.1, 0.5
"""Seconds between two looks, while prompts of the client are open and while none is."""
GRACE = 0.3
"""Seconds between a prompt's being seen and the first word of it: many clients begin to listen only
when they have the answer to their post."""
CLIENT = 200
"""Characters of a client's id."""

router = APIRouter()


@router.websocket("/ws")
async def events(socket: WebSocket) -> None:
    client = socket.query_params.get("clientId", "")[:CLIENT] or uuid.uuid4().hex
    await socket.accept()
    teller = EventStream(get_service(socket), client)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_listen, socket, tasks.cancel_scope)
        try:
            await _send_events(socket, teller)
        except (WebSocketDisconnect, RuntimeError):  # it left while it was told something
            tasks.cancel_scope.cancel()


class EventStream:
    """What one client is still to be told. Its calls block."""

    def __init__(self, desk: PromptService, client: str) -> None:
        self._desk = desk
        self._client = client
        self._begun: set[str] = set()
        self._seen: dict[str, float] = {}
        self.is_busy = False
        """Whether prompts of the client are open."""
        self._remaining = -1

    def new_events(self) -> list[Event]:
        """What happened since the last call."""
        events: list[Event] = []
        untold = self._desk.status(self._desk.prompts.pending_events(self._client))
        self.is_busy = bool(untold)
        now = time.monotonic()
        for progress in untold:
            if now - self._seen.setdefault(progress.prompt.id, now) >= GRACE:
                events += self._of(progress)
        remaining = self._desk.remaining()
        if remaining != self._remaining:
            sid = {"sid": self._client} if self._remaining < 0 else {}
            events.insert(0, ("status", {"status": status(remaining)} | sid))
            self._remaining = remaining
        return events

    def notified(self, prompts: list[str]) -> None:
        """The client has heard how these ended."""
        for prompt in prompts:
            self._desk.prompts.mark_notified(self._client, prompt)

    def _of(self, progress: PromptState) -> list[Event]:
        prompt = progress.prompt.id
        events: list[Event] = []
        if progress.status is not PromptStatus.PENDING and prompt not in self._begun:
            events += progress.beginning()
            self._begun.add(prompt)
        if progress.status.has_ended:
            events += progress.end()
            self._begun.discard(prompt)
            del self._seen[prompt]
        return events


async def _send_events(socket: WebSocket, teller: EventStream) -> None:
    while True:
        with suppress(BgpipeError):  # Redis is away: it will be asked again, and may repeat itself
            news = await to_thread.run_sync(teller.new_events)
            for kind, data in news:
                await socket.send_json({"type": kind, "data": data})
            ended = [data["prompt_id"] for kind, data in news if _is_end(kind, data)]
            await to_thread.run_sync(teller.notified, ended)
        await anyio.sleep(BUSY if teller.is_busy else IDLE)


def _is_end(kind: str, data: dict[str, Json]) -> bool:
    return kind == "executing" and data["node"] is None


async def _listen(socket: WebSocket, scope: anyio.CancelScope) -> None:
    """Clients say little; what matters is when they leave."""
    first = True
    try:
        while True:
            said = await socket.receive_text()
            if first and "feature_flags" in said:
                await socket.send_json({"type": "feature_flags", "data": {}})
            first = False
    except (WebSocketDisconnect, KeyError):  # a message of bytes has no text
        scope.cancel()
