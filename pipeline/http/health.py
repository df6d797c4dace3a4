"""Whether the server lives, and whether it can work."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from bgpipe.pipeline.http.backend import TheBackend

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: str = "ok"


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers."""
    return Health()


@router.get("/readyz")
def readyz(backend: TheBackend) -> Health:
    """Redis answers."""
    backend.session.client.ping()
    return Health()
