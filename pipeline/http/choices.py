"""/v1/choices: what a job may be asked for with, for those who show it to people."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, get_args

from fastapi import APIRouter
from pydantic import BaseModel

from bgpipe.config.output import Format
from bgpipe.pipeline import registry
from bgpipe.pipeline.http.backend import TheBackend
from bgpipe.pipeline.http.caller import KEYED, TheCaller
from bgpipe.pipeline.http.problems import DOCUMENTED
from bgpipe.pipeline.types import Task

router = APIRouter(prefix="/v1", tags=["choices"], responses=DOCUMENTED, dependencies=KEYED)


class ModelChoice(BaseModel):
    name: str
    summary: str
    here: bool
    """Whether the weights are on the server."""


class Choices(BaseModel):
    caller: str
    """Whose jobs these are."""
    presets: dict[str, dict[str, Any]]
    preset: str
    """The one that is taken where none is named."""
    models: list[ModelChoice]
    model: str
    formats: list[str]
    files: int
    """Images of one upload at most."""
    file_bytes: int


@router.get("/choices")
def choices(backend: TheBackend, caller: TheCaller) -> Choices:
    settings = backend.settings
    cache = settings.model_folder
    return Choices(
        caller=caller.name,
        presets={name: asdict(preset) for name, preset in settings.presets.items()},
        preset=settings.refine.preset,
        models=[
            ModelChoice(
                name=name,
                summary=entry.summary,
                here=registry.locate(name, cache=cache) is not None,
            )
            for name, entry in registry.models().items()
            if entry.task is Task.SUBJECT
        ],
        model=settings.model.name,
        formats=list(get_args(Format)),
        files=settings.serve.files,
        file_bytes=settings.images.max_bytes,
    )
