"""Validation of the settings: each error names its place, the value, and the expected or likely one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from bgpipe.config.layers import (
    DELIMITER,
    PREFIX,
    KeyPath,
    Layer,
    SettingsError,
    TomlLayer,
    dotted,
    find_layer,
    merge_layers,
)

SettingsType = TypeVar("SettingsType", bound=BaseModel)
Node = dict[str, Any]
Problem = tuple[int, int, str]
"""Index of the layer, line in it, text: sorts in reading order."""

SPECIAL = ("CONFIG", "SECRETS_DIR")
"""Variables that name a source of settings rather than a setting."""
KEY = "[key]"
"""Last element of pydantic's location if the key itself is wrong."""
TYPES = {
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "array": "a list of strings",
    "object": "a table",
}
CLOSENESS = 0.7
"""Similarity by difflib, 0 to 1, from which an unknown name counts as a misspelled known one."""


def validate_settings(settings: type[SettingsType], layers: Sequence[Layer]) -> SettingsType:
    """Merge and validate the layers.

    Raises SettingsError if names are unknown or values wrong, with a line for each, `origin: reason`.
    """
    problems = list(_unknown_variables(settings))
    try:
        validated = settings(**merge_layers(layers))
    except ValidationError as error:
        schema = SettingsSchema(settings.model_json_schema())
        problems += [_problem(details, layers, schema) for details in error.errors()]
    if problems:
        raise SettingsError("\n".join(text for *_, text in sorted(problems)))
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
    match details["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            suggestion = schema.suggest(path)
            hint = f"; did you mean {layer.spell(suggestion)}?" if suggestion else ""
            kind = f"key {dotted(path)}" if isinstance(layer, TomlLayer) else "setting"
            return f"{layer.origin(path)}: unknown {kind}{hint}"
        case "missing":
            return f"{layer.origin(path)}: {dotted(path)} is missing"
        case "value_error":  # raised by a validator of config
            return describe_problem(layer, path, str(details["ctx"]["error"]))
    if details["loc"][-1] == KEY:
        reason = "not a name: use 1 to 40 letters, digits, '_' and '-'"
        return describe_problem(layer, path, reason)
    value = "the value" if schema.is_secret(path) else json.dumps(details["input"], default=str)
    return describe_problem(layer, path, f"{value} is not {schema.expected(path)}")


def _unknown_variables(settings: type[BaseModel]) -> Iterator[Problem]:
    """Report BGPIPE_* variables of no known section, which pydantic-settings ignores."""
    known = [*map(str.upper, settings.model_fields), *SPECIAL]
    for variable in sorted(os.environ):
        name = variable.removeprefix(PREFIX)
        first, *rest = name.split(DELIMITER)
        if name != variable and first not in known:
            close = _closest(first, known)
            hint = f"; did you mean {PREFIX}{DELIMITER.join([close, *rest])}?" if close else ""
            yield 0, 0, f"{variable}: unknown setting{hint}"


def _closest(name: str, known: Iterable[str]) -> str:
    return next(iter(get_close_matches(name, set(known), n=1, cutoff=CLOSENESS)), "")


class SettingsSchema:
    """The valid values of each setting in words, from the JSON schema of the settings."""

    def __init__(self, root: Node) -> None:
        self._root = root

    def expected(self, path: KeyPath) -> str:
        """Describe the valid values at `path`: `a whole number of at least 0`."""
        match self._node(path):
            case {"enum": values}:
                return f"one of {', '.join(str(value) or 'empty' for value in values)}"
            case {"type": "string", "format": "time"}:
                return "a time of day such as 22:00"
            case {"type": "string", "pattern": pattern, **rest}:
                return str(rest.get("description", f"a string that matches {pattern}"))
            case {"type": "string", "minLength": _}:
                return "a string that is not empty"
            case {"type": "string"}:
                return "a string"
            case node:
                return TYPES.get(node.get("type", ""), "a table") + _range(node)

    def is_secret(self, path: KeyPath) -> bool:
        """Whether the value at `path` must not be shown."""
        return self._node(path).get("format") == "password" or path == ("redis_url",)

    def suggest(self, path: KeyPath) -> KeyPath | None:
        """Return the known key that resembles the unknown `path`: in its table, else anywhere."""
        *table, name = path
        if close := _closest(str(name), self._keys(*table)):
            return (*table, close)
        sections = self._keys()
        known: list[tuple[str, ...]] = [(section,) for section in sections]
        known += [(section, key) for section in sections for key in self._keys(section)]
        close = _closest(str(name), [path[-1] for path in known])
        matches = [path for path in known if path[-1] == close]
        return matches[0] if len(matches) == 1 else None

    def _keys(self, *table: str | int) -> list[str]:
        """Return the names in a table; none if they are free."""
        return list(self._node(table).get("properties", ()))

    def _node(self, path: KeyPath) -> Node:
        """Return the schema of the value at `path`, or {} if no such setting exists."""
        node = self._resolve(self._root)
        for name in path:
            node = self._resolve(_child(node, name))
        return node

    def _resolve(self, node: Node) -> Node:
        """Follow references and skip `| None`."""
        while "$ref" in node or "anyOf" in node:
            if "$ref" in node:
                node = self._root["$defs"][node["$ref"].rpartition("/")[2]]
            else:
                node = next(option for option in node["anyOf"] if option.get("type") != "null")
        return node


def _child(node: Node, name: str | int) -> Node:
    free = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]
    named = [node.get("items") if isinstance(name, int) else node.get("properties", {}).get(name)]
    return next((child for child in named + free if isinstance(child, dict)), {})


def _range(node: Node) -> str:
    match node:
        case {"minimum": low, "maximum": high}:
            return f" from {low:g} to {high:g}"
        case {"exclusiveMinimum": low, "maximum": high}:
            return f" above {low:g} and at most {high:g}"
        case {"minimum": low}:
            return f" of at least {low:g}"
        case {"exclusiveMinimum": low}:
            return f" above {low:g}"
    return ""
