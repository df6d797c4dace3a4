"""The recipe of a job: checked values of preset and output, and the weights of its models."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from bgpipe.config.presets import BACKGROUND
from bgpipe.config.settings import Settings
from bgpipe.pipeline.errors import ItemError, UsageError
from bgpipe.pipeline.logging import Notify
from bgpipe.pipeline.models import registry
from bgpipe.pipeline.models.hub import Hub
from bgpipe.pipeline.planning.targets import check_template, literal
from bgpipe.pipeline.storage.factory import StoreFactory, find_location
from bgpipe.pipeline.types import (
    JobOutput,
    Matting,
    ModelTask,
    Output,
    Preset,
    Recipe,
    ResolvedModel,
)

PATCH = 32
"""Pixels; the sides of a model's input are multiples of it."""


@dataclass(frozen=True, slots=True)
class BuiltRecipe:
    """A checked recipe and the weights of its models.

    `is_degraded`: the bundled model replaces that of `auto`, which is not available.
    """

    recipe: Recipe
    model: ResolvedModel
    matting: ResolvedModel | None
    is_degraded: bool


def build_recipe(
    settings: Settings,
    *,
    model: str | ResolvedModel = "",
    preset: Preset | str = "",
    changes: Mapping[str, Any] | None = None,
    output: Output | None = None,
    matting: str = "",
    naming: str = "",
    resolution: int = 0,
    pull: bool = True,
    notify: Notify | None = None,
) -> BuiltRecipe:
    """Assemble and check a recipe; empty names are those of the settings.

    `resolution` is the side of a square model input, in pixels; 0: the size that the model was
    trained at. `changes` are as in `apply_changes`; `pull` downloads missing weights; `notify` gets a
    line about every long step.

    Raises:
        UsageError: a name is unknown, or the values contradict each other.
        ModelUnavailable: weights are not on this machine and cannot be pulled.
    """
    if not isinstance(preset, Preset):
        preset = preset_named(settings, preset or settings.refine.preset)
    preset = apply_changes(preset, changes or {})
    output = output or Output()
    _check_output(preset, output)
    if naming:
        check_template(naming)
    is_degraded = False
    if not isinstance(model, ResolvedModel):
        name = model or settings.model.name
        model, is_degraded = choose_model(settings, name, pull=pull, notify=notify)
    edges = choose_edges(settings, matting or settings.matting.model, pull=pull, notify=notify)
    with_edges = matting_with(settings, edges) if edges else None
    size = _input_size(model, resolution)
    recipe = Recipe(model.name, model.sha256, size, preset, output, with_edges)
    return BuiltRecipe(recipe, model, edges, is_degraded)


def build_outputs(
    settings: Settings, names: Sequence[str], recipe: Recipe, naming: str = ""
) -> tuple[JobOutput, ...]:
    """Build the named outputs of the settings; what one leaves out is as in `recipe`.

    `naming` is the job's template of names.

    Raises UsageError if a name is unknown or given twice, or a value is wrong.
    """
    for name in names:
        if name not in settings.outputs:
            known = ", ".join(settings.outputs) or "none"
            raise UsageError(f"unknown output: {name} (the settings declare: {known})")
        if names.count(name) > 1:
            raise UsageError(f"output named twice: {name}")
    return tuple(_build_job_output(settings, name, recipe, naming) for name in names)


def _build_job_output(settings: Settings, name: str, recipe: Recipe, naming: str) -> JobOutput:
    named = settings.outputs[name]
    values = {key: value for key, value in named.model_dump().items() if value is not None}
    preset, base = recipe.preset, asdict(recipe.output)
    if "background" in values or named.format == "mask":
        base |= {"backdrop": "", "backdrop_sha256": ""}
    try:
        if named.preset:
            preset = preset_named(settings, named.preset)
        if named.format == "mask":  # the alpha alone: an inherited finish would be refused
            preset = replace(preset, background="", shadow=0, outline="")
        preset = apply_changes(preset, named.set | preset_changes(values))
        compression = {"compression": named.png} if named.png else {}
        output = build_output(settings, base | values | compression)
        _check_output(preset, output)
        suffix = f"-{name}" if named.suffix is None else named.suffix
        template = named.name or (naming and naming + literal(suffix))
        if template:
            check_template(template)
    except UsageError as error:
        raise UsageError(f"outputs.{name}: {error}") from error
    built = replace(recipe, preset=preset, output=output)
    return JobOutput(name, built, "" if template else suffix, template)


def build_output(settings: Settings, options: Mapping[str, Any]) -> Output:
    """Build an output from its fields in `options`, and from `background` if that is an image's path.

    Raises UsageError if a value is unknown, or the image cannot be read.
    """
    values = {field.name: options[field.name] for field in fields(Output) if field.name in options}
    if path := _backdrop(options):
        values["backdrop"] = find_location(path)
        folder, _, name = values["backdrop"].rpartition("/")
        store = StoreFactory(settings.s3).open(folder or "/")
        try:
            data = store.read(name, settings.images.max_bytes)
        except ItemError as error:
            raise UsageError(
                "--background is no color such as #ffffff, no blur:RADIUS and no readable image: "
                f"{path}: {error.detail}"
            ) from error
        values["backdrop_sha256"] = hashlib.sha256(data).hexdigest()
    try:
        return Output(**values)
    except ValueError as error:
        raise UsageError(explain(error)) from error


def preset_changes(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `Preset` that `options` set; a background unless it is an image's path."""
    names = {field.name for field in fields(Preset)}
    if _backdrop(options):
        names.remove("background")
    return {name: options[name] for name in names if options.get(name) is not None}


def _backdrop(options: Mapping[str, Any]) -> str:
    """Return the path of a background image, or nothing."""
    background: str = options.get("background") or ""
    return "" if re.fullmatch(BACKGROUND, background) else background


def preset_named(settings: Settings, name: str) -> Preset:
    """Return the preset of the settings; UsageError if its name is unknown."""
    if name not in settings.presets:
        raise UsageError(f"unknown preset: {name} (there are {', '.join(settings.presets)})")
    return settings.presets[name]


def apply_changes(preset: Preset, changes: Mapping[str, Any]) -> Preset:
    """Return `preset` with other values; words such as `1.2` and `true` are parsed.

    Raises UsageError if a field is unknown, or a value is out of range.
    """
    names = [field.name for field in fields(Preset)]
    if unknown := sorted(changes.keys() - set(names)):
        raise UsageError(f"unknown value of a preset: {unknown[0]} (there are {', '.join(names)})")
    try:
        return replace(preset, **changes)
    except ValueError as error:
        raise UsageError(explain(error)) from error


def choose_model(
    settings: Settings, name: str, *, pull: bool = True, notify: Notify | None = None
) -> tuple[ResolvedModel, bool]:
    """Return the weights of `name`, and whether the bundled ones replace those of `auto`.

    Raises as `build_recipe`.
    """
    cache, hub = settings.model_folder, _hub(settings, pull, notify)
    if name == registry.AUTO:
        return registry.resolve_auto(embedded=settings.embedded, cache=cache, hub=hub)
    return registry.resolve(name, cache=cache, hub=hub, task=ModelTask.SUBJECT), False


def choose_edges(
    settings: Settings, name: str, *, pull: bool = True, notify: Notify | None = None
) -> ResolvedModel | None:
    """Return the weights that refine edges; None for `none`. Raises as `build_recipe`."""
    if name == registry.NO_MATTING:
        return None
    cache, hub = settings.model_folder, _hub(settings, pull, notify)
    return registry.resolve(name, cache=cache, hub=hub, task=ModelTask.EDGES)


def matting_with(settings: Settings, model: ResolvedModel) -> Matting:
    return Matting(model.name, model.sha256, model.size, settings.matting.band)


def _hub(settings: Settings, pull: bool, notify: Notify | None) -> Hub | None:
    return Hub.from_settings(settings.model, notify) if pull else None


def _input_size(model: ResolvedModel, resolution: int) -> tuple[int, int]:
    """Return the size of the input: a larger one takes memory that no worker has planned for."""
    size = (resolution, resolution)
    if resolution == 0 or size == model.size:
        return model.size
    if resolution % PATCH or resolution > min(model.size):
        largest = "x".join(map(str, model.size))
        raise UsageError(
            f"not a resolution of {model.name}: {resolution}: use {largest}, or a smaller multiple of {PATCH}"
        )
    return size


def _check_output(preset: Preset, output: Output) -> None:
    has_background = bool(preset.background or output.backdrop or preset.outline)
    has_layout = bool(preset.crop or preset.margin or preset.canvas or preset.size)
    if output.depth == 16 and (
        output.format != "png" or has_background or has_layout or preset.shadow
    ):
        raise UsageError("--depth 16 is written as PNG, and without crop, canvas or background")
    if output.format == "mask" and (has_background or preset.shadow):
        raise UsageError(
            "a mask has no background, outline or shadow: leave them out, or --format png"
        )
    if preset.size and "x" in preset.canvas:
        raise UsageError("--size and a --canvas in pixels are mutually exclusive: drop one")


def explain(error: ValueError) -> str:
    """Return the reason in one line, also of a validation error of pydantic."""
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(map(_explain_value, error.errors()))


def _explain_value(problem: ErrorDetails) -> str:
    name = str(problem["loc"][0])
    if problem["type"] == "string_pattern_mismatch":
        known = TypeAdapter(Preset).json_schema()["properties"]
        if expected := known.get(name, {}).get("description"):
            return f"{name} is not {expected}: {problem['input']}"
    return f"{name}: {problem['msg'].lower()}"
