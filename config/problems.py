"""Wrong settings in words: the place, the value, and what is expected or was probably meant."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings

from bgpipe.config.layers import DELIMITER, PREFIX, Layer, TomlLayer, merged, source_of
from bgpipe.config.schema import CLOSENESS, Schema
from bgpipe.config.toml_file import KeyPath, SettingsError, dotted

Settings = TypeVar("Settings", bound=BaseSettings)

SPECIAL = ("CONFIG", "SECRETS_DIR")
"""Variables that are no settings but name where some are."""
UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
KEY = "[key]"
"""Ends pydantic's location of a name that is wrong itself."""


def validated(settings: type[Settings], layers: Sequence[Layer]) -> Settings:
    """The settings that `layers` make.

    Raises:
        SettingsError: names are unknown or values wrong; all of them at once.

    """
    problems = list(_unknown_variables(settings))
    try:
        made = settings(**merged(layers))
    except ValidationError as error:
        schema = Schema(settings.model_json_schema())
        problems += [_problem(details, layers, schema) for details in error.errors()]
    if problems:
        raise SettingsError([text for *_, text in sorted(problems)])
    return made


def line_about(layer: Layer, path: KeyPath, reason: str) -> str:
    """A line about the value at `path`; where the origin does not name the key, the line does."""
    name = f"{dotted(path)}: " if isinstance(layer, TomlLayer) else ""
    return f"{layer.origin(path)}: {name}{reason}"


Problem = tuple[int, int, str]
"""Rank of the layer, line in it, text: in the order in which they are read."""


def _problem(details: ErrorDetails, layers: Sequence[Layer], schema: Schema) -> Problem:
    path = details["loc"]
    if path[-1] == KEY:
        path = path[:-1]
    layer = source_of(layers, path if details["type"] != "missing" else path[:-1]) or layers[-1]
    return _placed(layers, layer, path, _text(details, path, layer, schema))


def _placed(layers: Sequence[Layer], layer: Layer, path: KeyPath, text: str) -> Problem:
    line = layer.line(path) if isinstance(layer, TomlLayer) else 0
    return layers.index(layer), line, text


def _text(details: ErrorDetails, path: KeyPath, layer: Layer, schema: Schema) -> str:
    kind = details["type"]
    if kind in UNKNOWN:
        return _unknown(layer, path, schema.suggest(path))
    if kind == "missing":
        return f"{layer.origin(path)}: {dotted(path)} is missing"
    if details["loc"][-1] == KEY:
        return line_about(layer, path, "not a name: use 1 to 40 letters, digits, '_' and '-'")
    if kind == "value_error":  # raised by a check of ours
        return line_about(layer, path, str(details["ctx"]["error"]))
    value = "the value" if schema.is_secret(path) else json.dumps(details["input"], default=str)
    return line_about(layer, path, f"{value} is not {schema.expected(path)}")


def _unknown(layer: Layer, path: KeyPath, suggestion: KeyPath | None) -> str:
    hint = f"; did you mean {layer.spell(suggestion)}?" if suggestion else ""
    if isinstance(layer, TomlLayer):
        return f"{layer.origin(path)}: unknown key {layer.spell(path)}{hint}"
    return f"{layer.origin(path)}: unknown setting{hint}"


def _unknown_variables(settings: type[BaseSettings]) -> Iterator[Problem]:
    """The BGPIPE_* variables that begin like no setting, which pydantic-settings overlooks."""
    known = [*map(str.upper, settings.model_fields), *SPECIAL]
    for variable in sorted(os.environ):
        name = variable.removeprefix(PREFIX)
        first, *rest = name.split(DELIMITER)
        if name == variable or first in known:
            continue
        close = get_close_matches(first, known, n=1, cutoff=CLOSENESS)
        hint = f"; did you mean {PREFIX}{DELIMITER.join([*close, *rest])}?" if close else ""
        yield 0, 0, f"{variable}: unknown setting{hint}"
