"""A workflow as ComfyUI's editor saves it becomes a graph in API format.

Widget values are positions without names. The six of a mask enhancer are read by the labels under
which they were documented for this graph (contrast, dilate, erode, blur, smooth, threshold), not by
the order of the node's inputs: so the enhancer becomes a `BgpipeRefiner`. Links are followed from each
node's own inputs; what else the table of links lists joins nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

from bgpipe.pipeline.comfyui import node_types
from bgpipe.pipeline.comfyui.graph import BadNode, Graph, Json, NodeError, WorkflowError

REMARKS = frozenset(("Note", "MarkdownNote"))
REROUTE = "Reroute"
MUTED, BYPASSED = 2, 4
"""Modes of a node."""
SENSITIVITY_SINCE = 8
"""Widget values of the removal node since it has a sensitivity; there were seven before."""

Link = int | str
Origins = dict[Link, tuple[str, Json]]
"""Link -> the node and the slot that it comes from."""

_REMOVAL = (
    "model",
    "sensitivity",
    "mask_blur",
    "mask_offset",
    "invert_output",
    "refine_foreground",
    "background",
    "background_color",
)
_WIDGETS: dict[str, tuple[str, ...]] = {
    node_types.LOAD: ("image",),
    node_types.REMOVE: _REMOVAL,
    node_types.ENHANCE: ("contrast", "dilate", "erode", "blur", "smooth", "threshold"),
    node_types.CONVERT: ("mask_channel",),
    node_types.SAVE: ("filename_prefix",),
    node_types.PREVIEW: (),
}


def is_ui_format(document: Json) -> bool:
    return isinstance(document, dict) and isinstance(document.get("nodes"), list)


def to_graph(document: dict[str, Json]) -> Graph:
    """The graph of a document in UI format.

    Raises:
        Refused: a node is unknown, bypassed or not as it should be.

    """
    drawn = {_id(node): node for node in document["nodes"]}
    drawn = {name: node for name, node in drawn.items() if node.get("mode", 0) != MUTED}
    origins = _origins(document, drawn)
    graph: Graph = {}
    for name, node in drawn.items():
        kind = node.get("type")
        if kind in REMARKS or kind == REROUTE:
            continue
        if node.get("mode", 0) == BYPASSED:
            raise WorkflowError(
                "invalid_prompt", "A node is bypassed: remove it", f"Node ID '#{name}'"
            )
        graph[name] = {
            "class_type": node_types.REFINE if kind == node_types.ENHANCE else kind,
            "inputs": _linked(node, drawn, origins) | _widgets(name, node),
            "_meta": {"title": str(node.get("title") or kind)},
        }
    return graph


def _id(node: Json) -> str:
    if not isinstance(node, dict) or "id" not in node or not isinstance(node.get("type"), str):
        raise WorkflowError("invalid_prompt", "A node has no id or no type", str(node)[:100])
    return str(node["id"])


def _origins(document: Json, drawn: dict[str, Json]) -> Origins:
    """By the nodes' outputs, else by the table of links."""
    table = document.get("links")
    origins = {
        link[0]: (str(link[1]), link[2])
        for link in (table if isinstance(table, list) else ())
        if isinstance(link, list) and len(link) >= 3 and _is_link(link[0])
    }
    for name, node in drawn.items():
        for slot, output in enumerate(_parts(node, "outputs")):
            origins.update((link, (name, slot)) for link in _links(output.get("links")))
    return origins


def _links(found: Json) -> list[Link]:
    """Those of a list that can be ids of links."""
    return [link for link in found if _is_link(link)] if isinstance(found, list) else []


def _is_link(link: Json) -> TypeGuard[Link]:
    return isinstance(link, int | str)


def _linked(node: Json, drawn: dict[str, Json], origins: Origins) -> dict[str, Json]:
    inputs = {}
    for entry in _parts(node, "inputs"):
        origin = _through_reroutes(entry.get("link"), drawn, origins)
        if origin:
            inputs[str(entry.get("name"))] = list(origin)
    return inputs


def _through_reroutes(
    link: Json, drawn: dict[str, Json], origins: Origins
) -> tuple[str, Json] | None:
    for _ in range(len(drawn) + 1):
        origin = origins.get(link) if _is_link(link) else None
        if origin is None or drawn.get(origin[0], {}).get("type") != REROUTE:
            return origin
        entry = next(iter(_parts(drawn[origin[0]], "inputs")), {})
        link = entry.get("link")
    return None


def _parts(node: Json, name: str) -> list[dict[str, Json]]:
    found = node.get(name)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _widgets(name: str, node: Json) -> dict[str, Json]:
    """The widget values by their labels."""
    kind, values = node["type"], node.get("widgets_values", [])
    if kind not in _WIDGETS:
        return {}  # an unknown node, which the checks refuse
    if not isinstance(values, list):
        raise _bad(name, kind, "widgets_values", values, "a list")
    labels = _WIDGETS[kind]
    if kind == node_types.REMOVE and len(values) < SENSITIVITY_SINCE:
        labels = tuple(label for label in labels if label != "sensitivity")
    if kind == node_types.ENHANCE:
        _check_labelled(name, kind, labels, values)
    return dict(zip(labels, values, strict=False))


def _check_labelled(name: str, kind: str, labels: Sequence[str], values: Sequence[Json]) -> None:
    """Four numbers and two booleans: anything else was meant for other labels."""
    if len(values) not in {0, len(labels)}:
        raise _bad(name, kind, "widgets_values", values, f"{len(labels)} values")
    for label, value in zip(labels, values, strict=False):
        if label in {"smooth", "threshold"}:
            if not isinstance(value, bool):
                raise _bad(name, kind, label, value, "true or false")
        elif not _is_number(value):
            raise _bad(name, kind, label, value, "a number")


def _is_number(value: Json) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _bad(node: str, kind: str, label: str, value: Json, wanted: str) -> WorkflowError:
    error = NodeError(
        "invalid_input_type",
        f"Failed to convert an input value to {wanted}",
        f"{label}, {value}",
        {"input_name": label, "received_value": value},
    )
    return WorkflowError(
        "prompt_outputs_failed_validation",
        "Prompt outputs failed validation",
        nodes={node: BadNode(kind, (error,), ())},
    )
