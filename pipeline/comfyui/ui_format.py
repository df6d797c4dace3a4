"""From a workflow saved by ComfyUI's editor (UI format) to a graph in API format.

The six widget values of a mask enhancer are read by the labels under which they were documented for
this graph, not in the order of the node's inputs, so the enhancer becomes a `BgpipeRefiner`. Links are
followed from the nodes' inputs; other entries of the table of links have no effect. As in the editor,
a node of a subgraph gets the ids of the nodes around it before its own: `19:13`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeGuard

from bgpipe.pipeline.comfyui import node_types
from bgpipe.pipeline.comfyui.graph import (
    MAX_NODES,
    Graph,
    InvalidNode,
    Json,
    NodeError,
    WorkflowError,
    invalid_outputs,
)
from bgpipe.pipeline.comfyui.node_types import NodeType

COMMENTS = frozenset(("Note", "MarkdownNote"))
REROUTE = "Reroute"
MUTED, BYPASSED = 2, 4
"""Modes of a node."""
SUBGRAPH_INPUT = "-10"
"""Id of the node that stands for the inputs of a subgraph."""

Link = int | str
Origin = tuple[str, Json] | tuple[Json] | tuple[()]
"""What a link leads to: a node and its slot, a widget's value, or nothing."""


@dataclass(frozen=True, slots=True)
class _Level:
    """The nodes of the document, or of one use of a subgraph, which is a node of `parent`."""

    definition: Mapping[str, Json]
    prefix: str = ""
    parent: _Level | None = None
    use: Mapping[str, Json] = field(default_factory=dict)
    nodes: dict[str, Json] = field(default_factory=dict)
    origins: dict[Link, tuple[str, Json]] = field(default_factory=dict)
    """Link -> its origin: node and slot."""
    inner: dict[str, _Level] = field(default_factory=dict)
    """By the ids of the nodes that use a subgraph."""

    def __post_init__(self) -> None:
        nodes = {_node_id(node): node for node in self.definition["nodes"]}
        self.nodes.update((name, node) for name, node in nodes.items() if node.get("mode") != MUTED)
        self.origins.update(_origins(self.definition, self.nodes))


def is_ui_format(document: Json) -> bool:
    return isinstance(document, dict) and isinstance(document.get("nodes"), list)


def to_graph(document: dict[str, Json]) -> Graph:
    """Convert a document in UI format.

    Raises WorkflowError if a node is malformed or bypassed, or has widget values of a wrong type.
    """
    known = node_types.make_node_types({})
    graph: Graph = {}
    for level in _levels(document):
        for name, node in level.nodes.items():
            kind = node["type"]
            if kind in COMMENTS or kind == REROUTE or name in level.inner:
                continue
            class_type = node_types.REFINE if kind == node_types.ENHANCE else kind
            graph[level.prefix + name] = {
                "class_type": class_type,
                "inputs": _widget_values(node, known.get(class_type)) | _inputs(level, node),
                "_meta": {"title": str(node.get("title") or kind)},
            }
    return graph


def _levels(document: dict[str, Json]) -> list[_Level]:
    """Return the document and every use of a subgraph, outer ones first."""
    subgraphs = {
        str(each.get("id")): each
        for each in _list_of_dicts(document.get("definitions"), "subgraphs")
        if is_ui_format(each)
    }
    levels = [_Level(document)]
    count = len(levels[0].nodes)
    for level in levels:
        for name, node in level.nodes.items():
            if node.get("mode") == BYPASSED and node["type"] not in COMMENTS | {REROUTE}:
                message = "A node is bypassed: remove it"
                raise WorkflowError("invalid_prompt", message, f"Node ID '#{level.prefix}{name}'")
            if subgraph := subgraphs.get(node["type"]):
                prefix = f"{level.prefix}{name}:"
                level.inner[name] = _Level(subgraph, prefix, level, node)
                levels.append(level.inner[name])
                count += len(level.inner[name].nodes)
                if count > MAX_NODES:  # a subgraph may use itself
                    message = f"The workflow has more than {MAX_NODES} nodes"
                    raise WorkflowError("invalid_prompt", message)
    return levels


def _node_id(node: Json) -> str:
    if not isinstance(node, dict) or "id" not in node or not isinstance(node.get("type"), str):
        raise WorkflowError("invalid_prompt", "A node has no id or no type", str(node)[:100])
    return str(node["id"])


def _origins(document: Json, nodes: Mapping[str, Json]) -> Iterator[tuple[Link, tuple[str, Json]]]:
    """Yield the origins of all links: from the table of links, then from the nodes' outputs."""
    for link in _list(document, "links"):
        match link:
            case [int() | str() as number, origin, slot, *_] | {
                "id": int() | str() as number,
                "origin_id": origin,
                "origin_slot": slot,
            }:
                yield number, (str(origin), slot)
    for name, node in nodes.items():
        for slot, output in enumerate(_list_of_dicts(node, "outputs")):
            for link in filter(_is_link, _list(output, "links")):
                yield link, (name, slot)


def _is_link(link: Json) -> TypeGuard[Link]:
    return isinstance(link, int | str)


def _inputs(level: _Level, node: Json) -> dict[str, Json]:
    """Return the inputs that a link provides."""
    inputs: dict[str, Json] = {}
    for each in _list_of_dicts(node, "inputs"):
        match _trace(level, each.get("link")):
            case (origin, slot):
                inputs[str(each.get("name"))] = [origin, slot]
            case (value,):
                inputs[str(each.get("name"))] = value
    return inputs


def _trace(level: _Level, link: Json) -> Origin:
    """Follow a link through reroutes, into subgraphs and out of them."""
    for _ in range(MAX_NODES):
        origin = level.origins.get(link) if _is_link(link) else None
        if origin is None:
            return ()
        name, slot = origin
        if name == SUBGRAPH_INPUT and level.parent:
            outer = str(_item(level.definition, "inputs", slot).get("name"))
            named = {str(each.get("name")): each for each in _list_of_dicts(level.use, "inputs")}
            link = named.get(outer, {}).get("link")
            if link is None:
                promoted = _promoted_values(level)
                return (promoted[outer],) if outer in promoted else ()
            level = level.parent
        elif name in level.inner:
            level = level.inner[name]
            links = _list(_item(level.definition, "outputs", slot), "linkIds")
            link = links[0] if links else None
        elif level.nodes.get(name, {}).get("type") == REROUTE:
            link = _item(level.nodes[name], "inputs", 0).get("link")
        else:
            return (level.prefix + name, slot)
    return ()


def _promoted_values(level: _Level) -> dict[str, Json]:
    """Return the widget values of a use of a subgraph by input; without any, those inside count."""
    values = _list(level.use, "widgets_values")
    if not values:
        return {}
    widgets = {
        each.get("link")
        for node in level.nodes.values()
        for each in _list_of_dicts(node, "inputs")
        if "widget" in each and _is_link(each.get("link"))
    }
    names = [
        str(each.get("name"))
        for each in _list_of_dicts(level.definition, "inputs")
        if not widgets.isdisjoint(filter(_is_link, _list(each, "linkIds")))
    ]
    if len(names) != len(values):
        raise _invalid_widget(level.use, "widgets_values", values, f"{len(names)} values")
    return dict(zip(names, values, strict=True))


def _item(node: Mapping[str, Json], name: str, index: Json) -> dict[str, Json]:
    items = _list_of_dicts(node, name)
    return items[index] if isinstance(index, int) and 0 <= index < len(items) else {}


def _list_of_dicts(node: Json, name: str) -> list[dict[str, Json]]:
    return [each for each in _list(node, name) if isinstance(each, dict)]


def _list(node: Json, name: str) -> list[Json]:
    values = node.get(name) if isinstance(node, dict) else None
    return values if isinstance(values, list) else []


def _widget_values(node: Json, kind: NodeType | None) -> dict[str, Json]:
    """Return the widget values by label; none of an unknown node, which validation refuses."""
    if kind is None:
        return {}
    values = node.get("widgets_values", [])
    labels = [each.name for each in kind.inputs if each.type not in node_types.LINKS]
    if not isinstance(values, list):
        raise _invalid_widget(node, "widgets_values", values, "a list")
    if kind.name == node_types.REMOVE and len(values) < len(labels):
        labels.remove("sensitivity")  # as versions had before it came
    named = dict(zip(labels, values, strict=False))
    if kind.name == node_types.REFINE:
        # Refuse anything but four numbers and two booleans: it was meant for other labels.
        if len(values) not in {0, len(labels)}:
            raise _invalid_widget(node, "widgets_values", values, f"{len(labels)} values")
        for label, value in named.items():
            is_switch = label in {"smooth", "threshold"}
            if isinstance(value, bool) is not is_switch or not isinstance(value, int | float):
                expected = "true or false" if is_switch else "a number"
                raise _invalid_widget(node, label, value, expected)
    return named


def _invalid_widget(
    node: Mapping[str, Json], label: str, value: Json, expected: str
) -> WorkflowError:
    message = f"Failed to convert an input value to {expected}"
    extra = {"input_name": label, "received_value": value}
    error = NodeError("invalid_input_type", message, f"{label}, {value}", extra)
    return invalid_outputs({str(node["id"]): InvalidNode(node["type"], [error])})
