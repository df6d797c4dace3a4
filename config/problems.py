"""Validation of the settings: each error names its place, the value, and the expected or likely one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings

from bgpipe.config.layers import DELIMITER, PREFIX, Layer, TomlLayer, find_layer, merge_layers
from bgpipe.config.schema import CLOSENESS, SettingsSchema
from bgpipe.config.toml_file import KeyPath, SettingsError, dotted

SettingsType = TypeVar("SettingsType", bound=BaseSettings)

SPECIAL = ("CONFIG", "SECRETS_DIR")
"""Variables that name a source of settings rather than a setting."""
UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
KEY = "[key]"
"""Last element of pydantic's location if the key itself is wrong."""

Problem = tuple[int, int, str]
"""Index of the layer, line in it, text: sorts in reading order."""


def validate_settings(settings: type[SettingsType], layers: Sequence[Layer]) -> SettingsType:
    """Merge and validate the layers.

    Raises:
        SettingsError: names are unknown or values wrong; reports all of them at once.

    """
    problems = list(_unknown_variables(settings))
    try:
        validated = settings(**merge_layers(layers))
    except ValidationError as error:
        schema = SettingsSchema(settings.model_json_schema())
        problems += [_problem(details, layers, schema) for details in error.errors()]
    if problems:
        raise SettingsError([text for *_, text in sorted(problems)])
    return validated


def describe_problem(layer: Layer, path: KeyPath, reason: str) -> str:
    """Return `origin: key: reason`, without the key if the origin contains it."""
    key = f"{dotted(path)}: " if isinstance(layer, TomlLayer) else ""
    return f"{layer.origin(path)}: {key}{reason}"


def _problem(details: ErrorDetails, layers: Sequence[Layer], schema: SettingsSchema) -> Problem:
    path = details["loc"]
    if path[-1] == KEY:
        path = path[:-1]
    layer = find_layer(layers, path if details["type"] != "missing" else path[:-1]) or layers[-1]
    line = layer.line(path) if isinstance(layer, TomlLayer) else 0
    return layers.index(layer), line, _text(details, path, layer, schema)


def _text(details: ErrorDetails, path: KeyPath, layer: Layer, schema: SettingsSchema) -> str:
    kind = details["type"]
    if kind in UNKNOWN:
        return _unknown_key(layer, path, schema.suggest(path))
    if kind == "missing":
        return f"{layer.origin(path)}: {dotted(path)} is missing"
    if details["loc"][-1] == KEY:
        reason = "not a name: use 1 to 40 letters, digits, '_' and '-'"
        return describe_problem(layer, path, reason)
    if kind == "value_error":  # raised by a validator of config
        return describe_problem(layer, path, str(details["ctx"]["error"]))
    value = "the value" if schema.is_secret(path) else json.dumps(details["input"], default=str)
    return describe_problem(layer, path, f"{value} is not {schema.expected(path)}")


def _unknown_key(layer: Layer, path: KeyPath, suggestion: KeyPath | None) -> str:
    hint = f"; did you mean {layer.spell(suggestion)}?" if suggestion else ""
    if isinstance(layer, TomlLayer):
        return f"{layer.origin(path)}: unknown key {layer.spell(path)}{hint}"
    return f"{layer.origin(path)}: unknown setting{hint}"


def _unknown_variables(settings: type[BaseSettings]) -> Iterator[Problem]:
    """Report BGPIPE_* variables of no known section, which pydantic-settings ignores."""
    known = [*map(str.upper, settings.model_fields), *SPECIAL]
    for variable in sorted(os.environ):
        name = variable.removeprefix(PREFIX)
        first, *rest = name.split(DELIMITER)
        if name == variable or first in known:
            continue
        close = get_close_matches(first, known, n=1, cutoff=CLOSENESS)
        hint = f"; did you mean {PREFIX}{DELIMITER.join([*close, *rest])}?" if close else ""
        yield 0, 0, f"{variable}: unknown setting{hint}"
