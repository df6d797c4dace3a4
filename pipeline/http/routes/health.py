"""Whether the server lives, and whether it can work."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel

from bgpipe.pipeline.http.dependencies import KEYED, Caller, State
from bgpipe.pipeline.http.problems import DOCUMENTED, Problem
from bgpipe.pipeline.monitoring.exporter import CONTENT_TYPE, render_metrics

router = APIRouter(tags=["health"], responses=DOCUMENTED)

TEXT: dict[int | str, dict[str, Any]] = {
    200: {"description": "metrics", "content": {"text/plain": {"schema": {"type": "string"}}}}
}


class Health(BaseModel):
    status: str = "ok"


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers."""
    return Health()


@router.get("/readyz")
def readyz(backend: State) -> Health:
    """Redis answers."""
    backend.session.client.ping()
    return Health()


@router.get("/metrics", response_class=Response, responses=TEXT, dependencies=KEYED)
def metrics(backend: State, caller: Caller) -> Response:
    """What Prometheus reads of the whole cluster, for keys that see everything."""
    if not caller.everything:
        raise Problem(403, "not-allowed", "metrics tell of all jobs: bgpipe keys add --everything")
    return Response(render_metrics(backend.cluster), media_type=CONTENT_TYPE)
