"""From a workflow saved by ComfyUI's editor (UI format) to a graph in API format.

The six widget values of a mask enhancer are read by the labels under which they were documented for
this graph, not in the order of the node's inputs, so the enhancer becomes a `BgpipeRefiner`. Links are
followed from the nodes' inputs; other entries of the table of links have no effect.
"""

from collections.abc import Mapping
from typing import TypeGuard

from bgpipe.pipeline.comfyui import node_types
from bgpipe.pipeline.comfyui.graph import Graph, InvalidNode, Json, NodeError, WorkflowError
from bgpipe.pipeline.comfyui.node_types import NodeType

COMMENTS = frozenset(("Note", "MarkdownNote"))
REROUTE = "Reroute"
MUTED, BYPASSED = 2, 4
"""Modes of a node."""

Link = int | str
Origins = dict[Link, tuple[str, Json]]
"""Link -> its origin: node and slot."""


def is_ui_format(document: Json) -> bool:
    return isinstance(document, dict) and isinstance(document.get("nodes"), list)


def to_graph(document: dict[str, Json]) -> Graph:
    """Convert a document in UI format.

    Raises WorkflowError if a node is malformed or bypassed, or has widget values of a wrong type.
    """
    nodes = {_node_id(node): node for node in document["nodes"]}
    nodes = {name: node for name, node in nodes.items() if node.get("mode", 0) != MUTED}
    origins = _origins(document, nodes)
    known = node_types.make_node_types(())
    graph: Graph = {}
    for name, node in nodes.items():
        kind = node["type"]
        if kind in COMMENTS or kind == REROUTE:
            continue
        if node.get("mode", 0) == BYPASSED:
            message = "A node is bypassed: remove it"
            raise WorkflowError("invalid_prompt", message, f"Node ID '#{name}'")
        class_type = node_types.REFINE if kind == node_types.ENHANCE else kind
        inputs = {
            str(each.get("name")): list(origin)
            for each in _list_of_dicts(node, "inputs")
            if (origin := _follow_reroutes(each.get("link"), nodes, origins))
        }
        graph[name] = {
            "class_type": class_type,
            "inputs": inputs | _widget_values(node, known.get(class_type)),
            "_meta": {"title": str(node.get("title") or kind)},
        }
    return graph


def _node_id(node: Json) -> str:
    if not isinstance(node, dict) or "id" not in node or not isinstance(node.get("type"), str):
        raise WorkflowError("invalid_prompt", "A node has no id or no type", str(node)[:100])
    return str(node["id"])


def _origins(document: Json, nodes: Mapping[str, Json]) -> Origins:
    """Return the origins of all links, from the nodes' outputs or else from the table of links."""
    table = document.get("links")
    origins = {
        link[0]: (str(link[1]), link[2])
        for link in (table if isinstance(table, list) else ())
        if isinstance(link, list) and len(link) >= 3 and _is_link(link[0])
    }
    for name, node in nodes.items():
        for slot, output in enumerate(_list_of_dicts(node, "outputs")):
            links = output.get("links")
            for link in filter(_is_link, links if isinstance(links, list) else ()):
                origins[link] = (name, slot)
    return origins


def _is_link(link: Json) -> TypeGuard[Link]:
    return isinstance(link, int | str)


def _follow_reroutes(
    link: Json, nodes: Mapping[str, Json], origins: Origins
) -> tuple[str, Json] | None:
    for _ in range(len(nodes) + 1):
        origin = origins.get(link) if _is_link(link) else None
        if origin is None or nodes.get(origin[0], {}).get("type") != REROUTE:
            return origin
        link = next(iter(_list_of_dicts(nodes[origin[0]], "inputs")), {}).get("link")
    return None


def _list_of_dicts(node: Json, name: str) -> list[dict[str, Json]]:
    values = node.get(name)
    return [each for each in values if isinstance(each, dict)] if isinstance(values, list) else []


def _widget_values(node: Json, kind: NodeType | None) -> dict[str, Json]:
    """Return the widget values by label; none of an unknown node, which validation refuses."""
    if kind is None:
        return {}
    values, links = node.get("widgets_values", []), {node_types.IMAGE, node_types.MASK}
    labels = [each.name for each in kind.inputs if each.type not in links]
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


def _invalid_widget(node: Json, label: str, value: Json, expected: str) -> WorkflowError:
    error = NodeError(
        "invalid_input_type",
        f"Failed to convert an input value to {expected}",
        f"{label}, {value}",
        {"input_name": label, "received_value": value},
    )
    return WorkflowError(
        "prompt_outputs_failed_validation",
        "Prompt outputs failed validation",
        nodes={str(node["id"]): InvalidNode(node["type"], [error])},
    )
