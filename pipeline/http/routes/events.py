"""/v1/jobs/{job}/events: a job's books as server-sent events, one whenever they change."""

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
from bgpipe.pipeline.http.dependencies import KEYED, AppState, Caller, State
from bgpipe.pipeline.http.problems import DOCUMENTED
from bgpipe.pipeline.http.schemas import body_of
from bgpipe.pipeline.types import CLOSED_STATES, Job

router = APIRouter(prefix="/v1", tags=["jobs"], responses=DOCUMENTED, dependencies=KEYED)

POLL = 0.5
"""Seconds between two looks at the books."""
SIGN = 15.0
"""Seconds of silence after which a comment shows that the connection lives."""
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "events", "content": {"text/event-stream": {"schema": {}}}}
}


@router.get("/jobs/{job}/events", response_class=StreamingResponse, responses=STREAM)
def follow_job(
    backend: State,
    caller: Caller,
    job: str,
    last: Annotated[str, Header(alias="Last-Event-ID", max_length=64)] = "",
) -> StreamingResponse:
    """`books` events with the job's summary, whenever it changes; `over` is the last one.

    Each holds all there is to know, so that whoever comes back has missed nothing: only what is as
    Last-Event-ID says is not sent again.
    """
    order = backend.job(caller, job)
    return StreamingResponse(
        _events(backend, order, last),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(backend: AppState, job: Job, last: str) -> AsyncIterator[str]:
    told = time.monotonic()
    while True:
        try:
            body = await to_thread.run_sync(body_of, backend, job)
        except BgpipeError:
            return  # forgotten, or Redis is away: the caller asks again and learns which
        steady = body.model_dump(mode="json", exclude={"seconds", "images_per_second"})
        name = hashlib.sha256(json.dumps(steady).encode()).hexdigest()[:16]
        over = body.state in CLOSED_STATES
        if name != last or over:
            last, told = name, time.monotonic()
            kind = "over" if over else "books"
            yield f"id: {name}\nevent: {kind}\ndata: {body.model_dump_json()}\n\n"
        elif time.monotonic() - told >= SIGN:
            told = time.monotonic()
            yield ": still here\n\n"
        if over:
            return
        await anyio.sleep(POLL)
