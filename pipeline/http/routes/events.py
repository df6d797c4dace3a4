"""/v1/jobs/{job}/events: a job's summary as server-sent events, whenever it changes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
from anyio import to_thread
from fastapi import APIRouter, Header
from fastapi.responses import StreamingResponse

from bgpipe.pipeline.errors import BgpipeError
from bgpipe.pipeline.http.dependencies import KEYED, AppState, OwnJob, State
from bgpipe.pipeline.http.problems import DOCUMENTED
from bgpipe.pipeline.http.schemas import job_body
from bgpipe.pipeline.types import CLOSED_STATES, Job

router = APIRouter(prefix="/v1", tags=["jobs"], responses=DOCUMENTED, dependencies=KEYED)

POLL = 0.5
"""Seconds between two reads of the summary."""
KEEP_ALIVE = 15.0
"""Seconds of silence after which a comment keeps the connection open."""
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "events", "content": {"text/event-stream": {"schema": {}}}}
}


@router.get("/jobs/{job}/events", response_class=StreamingResponse, responses=STREAM)
def follow_job(
    state: State,
    job: OwnJob,
    last: Annotated[str, Header(alias="Last-Event-ID", max_length=64)] = "",
) -> StreamingResponse:
    """`summary` events with the job's summary, whenever it changes; `end` is the last one.

    Each event is complete, so a client that reconnects misses nothing. The event of Last-Event-ID is
    not repeated.
    """
    return StreamingResponse(
        _stream_events(state, job, last),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _stream_events(state: AppState, job: Job, last: str) -> AsyncIterator[str]:
    sent = time.monotonic()
    while True:
        try:
            body = await to_thread.run_sync(job_body, state, job)
        except BgpipeError:
            return  # the client reconnects and gets the error as a response
        stable = body.model_dump(mode="json", exclude={"seconds", "images_per_second"})
        event_id = hashlib.sha256(json.dumps(stable).encode()).hexdigest()[:16]
        has_ended = body.state in CLOSED_STATES
        if event_id != last or has_ended:
            last, sent = event_id, time.monotonic()
            event = "end" if has_ended else "summary"
            yield f"id: {event_id}\nevent: {event}\ndata: {body.model_dump_json()}\n\n"
        elif time.monotonic() - sent >= KEEP_ALIVE:
            sent = time.monotonic()
            yield ": keep-alive\n\n"
        if has_ended:
            return
        await anyio.sleep(POLL)
