"""What the command line says about the files and the finish of cutouts.

What the cutouts of a job will be made with: a model and a preset.

A ComfyUI workflow in a file, as the recipe of a job.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.errors import ItemError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.comfyui.interpreter import CutoutSpec
    from bgpipe.pipeline.types import Output, Preset, Recipe, ResolvedModel

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}|white|black")


@dataclass(frozen=True, slots=True)
class LayoutOptions:
    """Values that take the place of a preset's; None leaves them."""

    crop: bool | None = None
    margin: float | None = None
    canvas: str | None = None
    place: str | None = None
    background: str | None = None
    """A colour, or the path of an image."""
    shadow: float | None = None

    @property
    def backdrop(self) -> str | None:
        """The path, if the background is an image."""
        background = self.background
        return background if background and not _COLOUR.fullmatch(background) else None

    def assignments(self) -> Iterator[str]:
        """As `--set` takes them."""
        for name in ("crop", "margin", "canvas", "place", "shadow"):
            value = getattr(self, name)
            if value is not None:
                yield f"{name}={value}"
        if self.background and not self.backdrop:
            yield f"background={self.background}"


def choose_output(
    settings: Settings,
    *,
    file_format: str,
    compression: str,
    depth: int,
    quality: int,
    input_alpha: str,
    backdrop: str | None,
) -> Output:
    """The checked values.

    Raises:
        UsageError: a value is unknown, or the background cannot be read.
    """
    from bgpipe.pipeline.planning.recipe import explain
    from bgpipe.pipeline.types import Output

    location, sha256 = _backdrop(settings, backdrop) if backdrop else ("", "")
    try:
        return Output(
            format=file_format,  # type: ignore[arg-type]  # checked as it is made
            compression=compression,  # type: ignore[arg-type]
            depth=depth,  # type: ignore[arg-type]
            quality=quality,
            input_alpha=input_alpha,  # type: ignore[arg-type]
            backdrop=location,
            backdrop_sha256=sha256,
        )
    except ValueError as error:
        raise UsageError(explain(error)) from error


def _backdrop(settings: Settings, path: str) -> tuple[str, str]:
    """Where the image lies, for workers, and the sha256 of its content."""
    from bgpipe.pipeline.cli.endpoints import find_location
    from bgpipe.pipeline.storage.factory import StoreFactory

    location = find_location(path)
    folder, _, name = location.rpartition("/")
    try:
        data = StoreFactory(settings.s3).open(folder or "/").read(name, settings.images.max_bytes)
    except ItemError as error:
        raise UsageError(
            f"--background is no colour such as #ffffff and no image that can be read: {path}: "
            f"{error.detail}"
        ) from error
    return location, hashlib.sha256(data).hexdigest()


def choose_recipe(
    settings: Settings,
    terminal: Console,
    *,
    model: str | None,
    preset: str | Preset | None,
    assignments: Sequence[str],
    output: Output | None = None,
    matting: str | None = None,
) -> Recipe:
    """The settings' recipe with what the command line changes.

    Raises:
        UsageError: a name or a value is wrong.
        ModelUnavailable: the weights are not here and cannot be pulled.
    """
    from bgpipe.pipeline.planning import recipe
    from bgpipe.pipeline.types import Output, Recipe

    refinement = choose_preset(settings, preset or settings.refine.preset, assignments)
    weights = choose_model(settings, terminal, model or settings.model.name)
    return Recipe(
        weights.name,
        weights.sha256,
        weights.size,
        refinement,
        output or Output(),
        recipe.choose_matting(settings, matting or settings.matting.model, notify=terminal.notify),
    )


def choose_preset(settings: Settings, base: str | Preset, assignments: Sequence[str]) -> Preset:
    """A preset, or the one of this name, with single values changed, each written `field=value`."""
    from bgpipe.pipeline.planning import recipe

    preset = recipe.preset_named(settings, base) if isinstance(base, str) else base
    changes = {}
    for assignment in assignments:
        field, equals, value = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set {assignment}: write field=value")
        changes[field] = value
    try:
        return recipe.apply_changes(preset, changes)
    except UsageError as error:
        raise UsageError(f"--set {error}") from error


def choose_model(settings: Settings, terminal: Console, name: str) -> ResolvedModel:
    """The weights of `name`; where `auto` has to make do with the bundled ones, it says so."""
    from bgpipe.pipeline.models import registry
    from bgpipe.pipeline.planning import recipe

    model, degraded = recipe.choose_model(settings, name, notify=terminal.notify)
    if degraded:
        terminal.warn(
            f"warning: {registry.DEFAULT} is not on this machine and no model hub answered: using "
            f"the bundled {registry.TRIAL}, whose mattes are clearly worse. For real work run "
            f"bgpipe models pull {registry.DEFAULT} and submit again, which redoes these cutouts."
        )
    return model


LARGEST = 10_000_000
"""Bytes of a workflow."""


def load_workflow(settings: Settings, path: Path) -> CutoutSpec:
    """What the workflow of a file saves; the photo that it names is of no account.

    Raises:
        UsageError: it cannot be read or done, or saves several things.

    """
    from bgpipe.pipeline.comfyui.interpreter import read_workflow

    workflow = read_workflow(_document(path), settings.comfyui.models)
    if workflow.main is None:
        raise UsageError(f"the workflow saves several things: {path}: leave one SaveImage in it")
    return workflow.main.spec


def _document(path: Path) -> object:
    try:
        if path.stat().st_size > LARGEST:
            raise UsageError(f"too large for a workflow: {path}: {LARGEST} bytes at most")
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"the workflow cannot be read: {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"the workflow is no JSON: {path}: {error}") from error
    return document["prompt"] if isinstance(document, dict) and "prompt" in document else document
