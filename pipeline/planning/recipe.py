"""What cutouts will be made with: a preset with single values changed, and a model's weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from pydantic import ValidationError

from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.models import registry
from bgpipe.pipeline.models.hub import Hub
from bgpipe.pipeline.planning.targets import NameTemplate
from bgpipe.pipeline.types import Matting, ModelTask, Preset, Recipe, ResolvedModel

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.logging import Notify


def preset_named(settings: Settings, name: str) -> Preset:
    """The preset of the settings.

    Raises:
        UsageError: there is none of this name.

    """
    if name not in settings.presets:
        raise UsageError(f"unknown preset: {name} (there are {', '.join(settings.presets)})")
    return settings.presets[name]


def apply_changes(preset: Preset, changes: Mapping[str, object]) -> Preset:
    """`preset` with other values; words such as `1.2` and `true` are read as what they say.

    Raises:
        UsageError: a field is unknown, or a value is out of range.

    """
    values = asdict(preset)
    for field, value in changes.items():
        if field not in values:
            raise UsageError(f"unknown value of a preset: {field} (there are {', '.join(values)})")
        values[field] = value
    try:
        return Preset(**values)
    except ValueError as error:
        raise UsageError(explain(error)) from error


def choose_model(
    settings: Settings, name: str, *, pull: bool = True, notify: Notify | None = None
) -> tuple[ResolvedModel, bool]:
    """The weights of `name`, and whether the bundled ones had to take the place of `auto`'s.

    `pull`: fetch those that are not here; `notify` gets a line about what takes long.

    Raises:
        UsageError: there is no such model.
        ModelUnavailable: its weights are not here and cannot be pulled.

    """
    cache = settings.model_folder
    hub = Hub(timeout=settings.model.hub_timeout, notify=notify) if pull else None
    if name != registry.AUTO:
        return registry.resolve(name, cache=cache, hub=hub, task=ModelTask.SUBJECT), False
    return registry.resolve_auto(embedded=settings.embedded, cache=cache, hub=hub)


def choose_matting(
    settings: Settings, name: str, *, pull: bool = True, notify: Notify | None = None
) -> Matting | None:
    """What solves the edges of mattes again; None for `none`. Raises as `choose_model`."""
    model = choose_edges(settings, name, pull=pull, notify=notify)
    return matting_with(settings, model) if model else None


def choose_edges(
    settings: Settings, name: str, *, pull: bool = True, notify: Notify | None = None
) -> ResolvedModel | None:
    """The weights that `choose_matting` chooses."""
    if name == registry.NO_MATTING:
        return None
    hub = Hub(timeout=settings.model.hub_timeout, notify=notify) if pull else None
    return registry.resolve(name, cache=settings.model_folder, hub=hub, task=ModelTask.EDGES)


def matting_with(settings: Settings, model: ResolvedModel) -> Matting:
    return Matting(model.name, model.sha256, model.size, settings.matting.band)


def check_output(recipe: Recipe, naming: str) -> None:
    """Refuse what no file can hold, and a template of names that is none.

    Raises:
        UsageError: the recipe contradicts itself.

    """
    if naming:
        NameTemplate(naming, recipe.output.suffix, recipe.model).check_distinct()
    output, preset = recipe.output, recipe.preset
    grounded = bool(preset.background or output.backdrop)
    framed = bool(preset.crop or preset.margin or preset.canvas)
    if output.depth == 16 and (output.format != "png" or grounded or framed or preset.shadow):
        raise UsageError("--depth 16 is written as PNG, and without crop, canvas or background")
    if output.format == "mask" and (grounded or preset.shadow):
        raise UsageError("a mask has no background and no shadow: leave them out, or --format png")


def explain(error: ValueError) -> str:
    """What is wrong with a value, in one line, if pydantic found it."""
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(f"{item['loc'][0]}: {item['msg'].lower()}" for item in error.errors())
