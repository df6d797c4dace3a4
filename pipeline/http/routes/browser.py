"""/v1/visit: a browser shows its API key once, because pictures and events cannot carry it.

The web page: files of this package, nothing from anywhere else.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated

from fastapi import APIRouter, Cookie, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from bgpipe.pipeline.http.api_keys import SESSION_SECONDS
from bgpipe.pipeline.http.dependencies import State
from bgpipe.pipeline.http.middleware import COOKIE
from bgpipe.pipeline.http.problems import DOCUMENTED, Problem

session_router = APIRouter(prefix="/v1", tags=["visit"], responses=DOCUMENTED)


class BrowserSession(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: Annotated[str, Field(min_length=1, max_length=200)]


@session_router.post("/visit", status_code=204)
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


@session_router.delete("/visit", status_code=204)
def end_session(
    backend: State, response: Response, token: Annotated[str, Cookie(alias=COOKIE)] = ""
) -> None:
    """Let this browser in no longer."""
    if token:
        backend.api_keys.end_session(token)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")


page_router = APIRouter(include_in_schema=False)

PARTS = ("index.html", "page.css", "api.js", "page.js", "sending.js", "viewer.js", "icon.svg")
SHEET = "sheet.css"
"""The contact sheet's style, which is the page's too."""
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@page_router.get("/")
def show_page() -> Response:
    return _static_file("index.html")


@page_router.get("/page/{name}")
def show_part(name: Annotated[str, Path(max_length=40)]) -> Response:
    return _static_file(name)


def _static_file(name: str) -> Response:
    if name == SHEET:
        file = files("bgpipe.pipeline.report").joinpath(SHEET)
    elif name in PARTS:
        file = files("bgpipe.pipeline.http.static").joinpath(name)
    else:
        raise Problem(404, "not-found", f"no part of the page: {name}")
    kind = TYPES[name[name.rindex(".") :]]
    return Response(file.read_bytes(), media_type=kind, headers={"Cache-Control": "no-cache"})
