"""Health, metrics, and /v1/options: the presets, models and formats a job can have; the web page.

/v1/session gives the page a cookie for the API key, which images and events cannot carry.
"""

from dataclasses import asdict
from importlib.resources import files
from typing import Annotated, get_args

from fastapi import APIRouter, Cookie, Path, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from bgpipe.config.output import Format
from bgpipe.pipeline.http.api_keys import SESSION_SECONDS
from bgpipe.pipeline.http.dependencies import KEYED, Caller, State
from bgpipe.pipeline.http.middleware import COOKIE
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.http.schemas import BrowserSession, Health, ModelOption, Options
from bgpipe.pipeline.models import registry
from bgpipe.pipeline.report.contact_sheet import MODULES, read_asset
from bgpipe.pipeline.types import ModelTask

router = APIRouter()

SHARED = ("theme.css", "viewer.css", *MODULES)
"""What the page shares with contact sheets."""
PAGE_MEDIA_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
    "webp": "image/webp",
}


@router.get("/healthz", tags=["health"])
async def healthz() -> Health:
    """The process responds."""
    return Health()


@router.get("/readyz", tags=["health"])
def readyz(state: State) -> Health:
    """Redis responds."""
    state.session.client.ping()
    return Health()


@router.get("/metrics", tags=["health"], response_class=PlainTextResponse, dependencies=KEYED)
def metrics(state: State, caller: Caller) -> PlainTextResponse:
    """Prometheus metrics of the whole cluster, for keys that see everything."""
    if not caller.everything:
        raise Problem(403, "not-allowed", "metrics cover all jobs: bgpipe keys add --everything")
    return PlainTextResponse(generate_latest(state.cluster), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/options", tags=["options"], dependencies=KEYED)
def show_options(state: State, caller: Caller) -> Options:
    settings = state.settings
    cache = settings.model_folder
    return Options(
        caller=caller.name,
        presets={name: asdict(preset) for name, preset in settings.presets.items()},
        preset=settings.refine.preset,
        models=[
            ModelOption(
                name=name, summary=model.summary, here=bool(registry.locate(name, cache=cache))
            )
            for name, model in registry.read_models().items()
            if model.task is ModelTask.SUBJECT
        ],
        model=settings.model.name,
        formats=list(get_args(Format)),
        outputs=list(settings.outputs),
        files=settings.serve.files,
        file_bytes=settings.images.max_bytes,
    )


@router.post("/v1/session", tags=["session"], status_code=204)
def begin_session(state: State, body: BrowserSession, request: Request, response: Response) -> None:
    """Admit this browser for some hours, by a cookie that no script can read."""
    if state.api_keys.find(body.key) is None:
        raise Problem(401, "no-key", "not an API key of this server")
    response.set_cookie(
        COOKIE,
        state.api_keys.begin_session(body.key),
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
    media_type = PAGE_MEDIA_TYPES.get(name.rpartition(".")[2])
    if media_type is None or not (name in SHARED or file.is_file()):
        raise Problem(404, "not-found", f"not a file of the page: {name}")
    content = read_asset(name) if name in SHARED else file.read_bytes()
    return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})
