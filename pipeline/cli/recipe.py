"""What the cutouts of a job will be made with: a model and a preset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bgpipe.pipeline.cli.terminal import Console
from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.types import Output, Preset, Recipe, ResolvedModel


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
    from bgpipe.pipeline import recipes
    from bgpipe.pipeline.types import Output, Recipe

    refinement = choose_preset(settings, preset or settings.refine.preset, assignments)
    weights = choose_model(settings, terminal, model or settings.model.name)
    return Recipe(
        weights.name,
        weights.sha256,
        weights.size,
        refinement,
        output or Output(),
        recipes.choose_matting(settings, matting or settings.matting.model, notify=terminal.notify),
    )


def choose_preset(settings: Settings, base: str | Preset, assignments: Sequence[str]) -> Preset:
    """A preset, or the one of this name, with single values changed, each written `field=value`."""
    from bgpipe.pipeline import recipes

    preset = recipes.preset_named(settings, base) if isinstance(base, str) else base
    changes = {}
    for assignment in assignments:
        field, equals, value = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set {assignment}: write field=value")
        changes[field] = value
    try:
        return recipes.apply_changes(preset, changes)
    except UsageError as error:
        raise UsageError(f"--set {error}") from error


def choose_model(settings: Settings, terminal: Console, name: str) -> ResolvedModel:
    """The weights of `name`; where `auto` has to make do with the bundled ones, it says so."""
    from bgpipe.pipeline import recipes, registry

    model, degraded = recipes.choose_model(settings, name, notify=terminal.notify)
    if degraded:
        terminal.warn(
            f"warning: {registry.DEFAULT} is not on this machine and no model hub answered: using "
            f"the bundled {registry.TRIAL}, whose mattes are clearly worse. For real work run "
            f"bgpipe models pull {registry.DEFAULT} and submit again, which redoes these cutouts."
        )
    return model
