"""/v1/choices: what a job may be asked for with, for those who show it to people."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, get_args

from fastapi import APIRouter
from pydantic import BaseModel

from bgpipe.config.output import Format
from bgpipe.pipeline.http.dependencies import KEYED, Caller, State
from bgpipe.pipeline.http.problems import DOCUMENTED
from bgpipe.pipeline.models import registry
from bgpipe.pipeline.types import ModelTask

router = APIRouter(prefix="/v1", tags=["choices"], responses=DOCUMENTED, dependencies=KEYED)


class ModelOption(BaseModel):
    name: str
    summary: str
    here: bool
    """Whether the weights are on the server."""


class Options(BaseModel):
    caller: str
    """Whose jobs these are."""
    presets: dict[str, dict[str, Any]]
    preset: str
    """The one that is taken where none is named."""
    models: list[ModelOption]
    model: str
    formats: list[str]
    files: int
    """Images of one upload at most."""
    file_bytes: int


@router.get("/choices")
def show_options(backend: State, caller: Caller) -> Options:
    settings = backend.settings
    cache = settings.model_folder
    return Options(
        caller=caller.name,
        presets={name: asdict(preset) for name, preset in settings.presets.items()},
        preset=settings.refine.preset,
        models=[
            ModelOption(
                name=name,
                summary=entry.summary,
                here=registry.locate(name, cache=cache) is not None,
            )
            for name, entry in registry.read_models().items()
            if entry.task is ModelTask.SUBJECT
        ],
        model=settings.model.name,
        formats=list(get_args(Format)),
        files=settings.serve.files,
        file_bytes=settings.images.max_bytes,
    )
