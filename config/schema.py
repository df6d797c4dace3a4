"""The valid values of each setting in words, from the JSON schema of the settings."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from bgpipe.config.toml_file import KeyPath

Node = dict[str, Any]

TYPES = {
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "array": "a list of strings",
    "object": "a table",
}
CLOSENESS = 0.7
"""Similarity by difflib, 0 to 1, from which an unknown name counts as a misspelled known one."""


class SettingsSchema:
    def __init__(self, root: Node) -> None:
        self._root = root

    def expected(self, path: KeyPath) -> str:
        """Describe the valid values at `path`: `a whole number of at least 0`."""
        node = self._node(path)
        if "enum" in node:
            return f"one of {', '.join(str(value) or 'empty' for value in node['enum'])}"
        if node.get("type") == "string":
            return _text(node)
        return TYPES.get(node.get("type", ""), "a table") + _range(node)

    def is_secret(self, path: KeyPath) -> bool:
        """Whether the value at `path` must not be shown."""
        return self._node(path).get("format") == "password" or path == ("redis_url",)

    def suggest(self, path: KeyPath) -> KeyPath | None:
        """Return the known key that resembles the unknown `path`: in its table, else anywhere."""
        *table, name = path
        if close := _closest(str(name), self._keys(tuple(table))):
            return (*table, close)
        sections = self._keys(())
        known: list[tuple[str, ...]] = [(section,) for section in sections]
        known += [(section, key) for section in sections for key in self._keys((section,))]
        close = _closest(str(name), [path[-1] for path in known])
        matches = [path for path in known if path[-1] == close]
        return matches[0] if len(matches) == 1 else None

    def _keys(self, table: KeyPath) -> list[str]:
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


def _closest(name: str, known: list[str]) -> str:
    return next(iter(get_close_matches(name, set(known), n=1, cutoff=CLOSENESS)), "")


def _child(node: Node, name: str | int) -> Node:
    if isinstance(name, int):
        items: Node = node.get("items", {})
        return items
    free = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]
    child: Node | bool = node.get("properties", {}).get(name) or next(filter(None, free), {})
    return child if isinstance(child, dict) else {}


def _text(node: Node) -> str:
    if node.get("format") == "time":
        return "a time of day such as 22:00"
    if "pattern" in node:
        return str(node.get("description", f"a string that matches {node['pattern']}"))
    return "a string that is not empty" if node.get("minLength") else "a string"


def _range(node: Node) -> str:
    minimum, above = node.get("minimum"), node.get("exclusiveMinimum")
    maximum = node.get("maximum")
    if minimum is not None and maximum is not None:
        return f" from {minimum:g} to {maximum:g}"
    if above is not None and maximum is not None:
        return f" above {above:g} and at most {maximum:g}"
    if minimum is not None:
        return f" of at least {minimum:g}"
    return f" above {above:g}" if above is not None else ""
