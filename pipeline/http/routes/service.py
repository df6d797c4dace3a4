"""/healthz, /readyz, /metrics, and /v1/options: the presets, models and formats a job can have."""

from dataclasses import asdict
from typing import get_args

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from bgpipe.config.output import Format
from bgpipe.pipeline.http.dependencies import KEYED, Caller, State
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.http.schemas import Health, ModelOption, Options
from bgpipe.pipeline.models import registry
from bgpipe.pipeline.types import ModelTask

router = APIRouter()


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
                name=name,
                summary=model.summary,
                here=registry.locate(name, cache=cache) is not None,
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
