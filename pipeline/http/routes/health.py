"""/healthz, /readyz and /metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from bgpipe.pipeline.http.dependencies import KEYED, Caller, State
from bgpipe.pipeline.http.problems import DOCUMENTED, Problem
from bgpipe.pipeline.http.schemas import Health

router = APIRouter(tags=["health"], responses=DOCUMENTED)

TEXT: dict[int | str, dict[str, Any]] = {
    200: {"description": "metrics", "content": {"text/plain": {"schema": {"type": "string"}}}}
}


@router.get("/healthz")
async def healthz() -> Health:
    """The process responds."""
    return Health()


@router.get("/readyz")
def readyz(state: State) -> Health:
    """Redis responds."""
    state.session.client.ping()
    return Health()


@router.get("/metrics", response_class=Response, responses=TEXT, dependencies=KEYED)
def metrics(state: State, caller: Caller) -> Response:
    """Prometheus metrics of the whole cluster, for keys that see everything."""
    if not caller.everything:
        raise Problem(403, "not-allowed", "metrics cover all jobs: bgpipe keys add --everything")
    return Response(generate_latest(state.cluster), media_type=CONTENT_TYPE_LATEST)
