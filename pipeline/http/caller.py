"""Who asks: what the gate found out, for endpoints."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from fastapi.requests import HTTPConnection

from bgpipe.pipeline.access import Grant


def get_caller(connection: HTTPConnection) -> Grant:
    """Whoever the gate let in (bgpipe.pipeline.http.gate), by request or websocket."""
    grant: Grant = connection.scope["state"]["grant"]
    return grant


TheCaller = Annotated[Grant, Depends(get_caller)]
