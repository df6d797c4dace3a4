"""What each setting may be, in words, from the JSON schema of the settings."""

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
"""Of difflib, from 0 to 1, above which an unknown name was probably meant to be a known one."""


class Schema:
    def __init__(self, root: Node) -> None:
        self._root = root

    def expected(self, path: KeyPath) -> str:
        """What the value at `path` must be: `a whole number of at least 0`."""
        node = self.node(path)
        if "enum" in node:
            return f"one of {', '.join(str(each) or 'empty' for each in node['enum'])}"
        if node.get("type") == "string":
            return _text(node)
        return TYPES.get(node.get("type", ""), "a table") + _range(node)

    def is_secret(self, path: KeyPath) -> bool:
        """Whether the value at `path` must not be shown."""
        return self.node(path).get("format") == "password" or path == ("redis_url",)

    def suggest(self, path: KeyPath) -> KeyPath | None:
        """The key that the unknown `path` was probably meant to be."""
        *table, name = path
        close = get_close_matches(str(name), self.keys(tuple(table)), n=1, cutoff=CLOSENESS)
        if close:
            return (*table, close[0])
        known = self._known()
        names = get_close_matches(str(name), {path[-1] for path in known}, n=1, cutoff=CLOSENESS)
        elsewhere = [path for path in known if path[-1] in names]
        return elsewhere[0] if len(elsewhere) == 1 else None

    def keys(self, table: KeyPath) -> list[str]:
        """The names that a table has; none where they are free."""
        return list(self.node(table).get("properties", ()))

    def node(self, path: KeyPath) -> Node:
        """The schema of the value at `path`; empty where there is no such setting."""
        node = self._resolved(self._root)
        for name in path:
            node = self._resolved(_child(node, name))
        return node

    def _known(self) -> list[tuple[str, ...]]:
        """The keys outside and inside of sections."""
        sections = self.keys(())
        inside = [(section, key) for section in sections for key in self.keys((section,))]
        return [*((name,) for name in sections), *inside]

    def _resolved(self, node: Node) -> Node:
        """Behind references and `| None`."""
        while "$ref" in node or "anyOf" in node:
            if "$ref" in node:
                node = self._root["$defs"][node["$ref"].rpartition("/")[2]]
            else:
                node = next(each for each in node["anyOf"] if each.get("type") != "null")
        return node


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
    least, above = node.get("minimum"), node.get("exclusiveMinimum")
    most = node.get("maximum")
    if least is not None and most is not None:
        return f" from {least:g} to {most:g}"
    parts = [
        f" of at least {least:g}" if least is not None else "",
        f" above {above:g}" if above is not None else "",
        f" and at most {most:g}" if above is not None and most is not None else "",
    ]
    return "".join(parts)
