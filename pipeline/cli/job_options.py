"""The recipe of a job from the options of the command line."""

import json
from collections.abc import Sequence
from pathlib import Path

from bgpipe.config.settings import Settings
from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.comfyui.interpreter import CutoutSpec, read_workflow
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.models import registry
from bgpipe.pipeline.planning import recipe
from bgpipe.pipeline.types import ResolvedModel

MAX_WORKFLOW = 10_000_000
"""Bytes of a workflow."""


def parse_assignments(assignments: Sequence[str]) -> dict[str, str]:
    """Parse the values of --set. Raises UsageError: one is not of the form `field=value`."""
    for assignment in assignments:
        if "=" not in assignment:
            raise UsageError(f"not of the form field=value: --set {assignment}")
    return dict(assignment.split("=", 1) for assignment in assignments)


def accept_licences(settings: Settings, names: Sequence[str] | None) -> Settings:
    """Return the settings with the values of --accept-licence."""
    accepted = {"accept_licences": [*settings.model.accept_licences, *(names or ())]}
    return settings.model_copy(update={"model": settings.model.model_copy(update=accepted)})


def choose_model(settings: Settings, console: Console, name: str) -> ResolvedModel:
    """Return the weights of `name`, pulled if need be; warns if the bundled ones replace `auto`'s.

    Raises as `recipe.build_recipe`.
    """
    model, is_degraded = recipe.choose_model(settings, name, notify=console.notify)
    if is_degraded:
        warn_degraded(console)
    return model


def warn_degraded(console: Console) -> None:
    """Warn that the bundled model replaces that of `auto`."""
    console.warn(
        f"warning: {registry.DEFAULT} is not on this machine and the model hub is unreachable: using "
        f"the bundled {registry.TRIAL}, whose mattes are clearly worse. For real work run "
        f"bgpipe models pull {registry.DEFAULT} and submit again, which redoes these cutouts."
    )


def load_workflow(settings: Settings, path: Path) -> CutoutSpec:
    """Read what a workflow's file saves; the photo that it names is ignored. Raises UsageError."""
    try:
        if path.stat().st_size > MAX_WORKFLOW:
            raise UsageError(f"workflow exceeds {MAX_WORKFLOW} bytes: {path}")
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"workflow is not readable: {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"workflow is not valid JSON: {path}: {error}") from error
    if isinstance(document, dict):
        document = document.get("prompt", document)
    workflow = read_workflow(document, settings.comfyui.models)
    if workflow.main is None:
        raise UsageError(f"the workflow saves several images: {path}: leave one SaveImage in it")
    return workflow.main.spec
