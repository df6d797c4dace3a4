"""The web page, and /v1/session: a cookie for the API key, which images and events cannot carry."""

from importlib.resources import files
from typing import Annotated

from fastapi import APIRouter, Cookie, Path, Request, Response

from bgpipe.pipeline.http.api_keys import SESSION_SECONDS
from bgpipe.pipeline.http.dependencies import State
from bgpipe.pipeline.http.middleware import COOKIE
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.http.schemas import BrowserSession
from bgpipe.pipeline.report.contact_sheet import MODULES, read_asset

router = APIRouter()

SHARED = ("theme.css", "viewer.css", *MODULES)
"""What the page shares with contact sheets."""
MEDIA_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
    "webp": "image/webp",
}


@router.post("/v1/session", tags=["session"], status_code=204)
def begin_session(
    state: State, session: BrowserSession, request: Request, response: Response
) -> None:
    """Admit this browser for some hours, by a cookie that no script can read."""
    if state.api_keys.find(session.key) is None:
        raise Problem(401, "no-key", "not an API key of this server")
    response.set_cookie(
        COOKIE,
        state.api_keys.begin_session(session.key),
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure="https" in (request.url.scheme, state.settings.serve.public_url[:5]),
    )


@router.delete("/v1/session", tags=["session"], status_code=204)
def end_session(
    state: State, response: Response, token: Annotated[str, Cookie(alias=COOKIE)] = ""
) -> None:
    if token:
        state.api_keys.end_session(token)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")


@router.get("/", include_in_schema=False)
def show_page() -> Response:
    return show_file("index.html")


@router.get("/page/{name}", include_in_schema=False)
def show_file(name: Annotated[str, Path(max_length=40)]) -> Response:
    file = files("bgpipe.pipeline.http.static").joinpath(name)
    media_type = MEDIA_TYPES.get(name.rpartition(".")[2])
    if media_type is None or not (name in SHARED or file.is_file()):
        raise Problem(404, "not-found", f"not a file of the page: {name}")
    content = read_asset(name) if name in SHARED else file.read_bytes()
    return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})
