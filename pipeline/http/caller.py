"""Who asks: what the gate found out, for endpoints."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from fastapi.requests import HTTPConnection
from fastapi.security import HTTPBearer

from bgpipe.pipeline.access import ApiKey


def get_caller(connection: HTTPConnection) -> ApiKey:
    """Whoever the gate let in (bgpipe.pipeline.http.gate), by request or websocket."""
    grant: ApiKey = connection.scope["state"]["grant"]
    return grant


# Only says in the OpenAPI document how a key is shown; the gate has looked at it before.
KEYED = [Depends(HTTPBearer(auto_error=False, description="an API key: bgpipe keys add NAME"))]
Caller = Annotated[ApiKey, Depends(get_caller)]
