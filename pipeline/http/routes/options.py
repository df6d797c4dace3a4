"""/v1/options: the presets, models and formats a job can have."""

from __future__ import annotations

from dataclasses import asdict
from typing import get_args

from fastapi import APIRouter

from bgpipe.config.output import Format
from bgpipe.pipeline.http.dependencies import KEYED, Caller, State
from bgpipe.pipeline.http.problems import DOCUMENTED
from bgpipe.pipeline.http.schemas import ModelOption, Options
from bgpipe.pipeline.models import registry
from bgpipe.pipeline.types import ModelTask

router = APIRouter(prefix="/v1", tags=["options"], responses=DOCUMENTED, dependencies=KEYED)


@router.get("/options")
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
        files=settings.serve.files,
        file_bytes=settings.images.max_bytes,
    )
