"""/v1/visit: a browser shows its API key once, because pictures and events cannot carry it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Cookie, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from bgpipe.pipeline.access import SESSION_SECONDS
from bgpipe.pipeline.http.backend import State
from bgpipe.pipeline.http.gate import COOKIE
from bgpipe.pipeline.http.problems import DOCUMENTED, Problem

router = APIRouter(prefix="/v1", tags=["visit"], responses=DOCUMENTED)


class BrowserSession(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: Annotated[str, Field(min_length=1, max_length=200)]


@router.post("/visit", status_code=204)
def begin_session(
    backend: State, visit: BrowserSession, request: Request, response: Response
) -> None:
    """Let this browser in for some hours, by a cookie that no script can read."""
    if backend.api_keys.grant(visit.key) is None:
        raise Problem(401, "no-key", "this is not an API key of this server")
    response.set_cookie(
        COOKIE,
        backend.api_keys.begin_session(visit.key),
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


@router.delete("/visit", status_code=204)
def end_session(
    backend: State, response: Response, token: Annotated[str, Cookie(alias=COOKIE)] = ""
) -> None:
    """Let this browser in no longer."""
    if token:
        backend.api_keys.end_session(token)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
