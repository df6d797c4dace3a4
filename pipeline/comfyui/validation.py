"""Checks a graph as ComfyUI does before it runs one, and converts its values.

Each input in the order of its node's: is it there, is its link one, does the type fit, can the value
be converted, is it in range. A node whose source is wrong has no error of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bgpipe.pipeline.comfyui import node_types
from bgpipe.pipeline.comfyui.graph import BadNode, Json, NodeError, WorkflowError
from bgpipe.pipeline.comfyui.node_types import NodeInput, NodeType

MOST_NODES = 500
DEEPEST = 100
"""Nodes one behind the other; more is a circle."""


@dataclass(frozen=True, slots=True)
class ValidatedGraph:
    """The values of the nodes, converted and complete, and what is wrong with some."""

    types: Mapping[str, NodeType]
    """Node id -> its type."""
    values: Mapping[str, Mapping[str, Json]]
    bad: dict[str, BadNode] = field(default_factory=dict)

    @property
    def outputs(self) -> list[str]:
        """The output nodes that have nothing wrong behind them, in the graph's order."""
        wanting = {output for bad in self.bad.values() for output in bad.outputs}
        return [name for name in self.ends if name not in wanting]

    @property
    def ends(self) -> list[str]:
        """All output nodes, in the graph's order."""
        return [name for name, kind in self.types.items() if kind.is_output]

    def add_error(self, node: str, error: NodeError, output: str) -> None:
        """Note that `output` cannot be had because of `node`."""
        known = self.bad.get(node)
        errors = known.errors if known else ()
        outputs = known.outputs if known else ()
        self.bad[node] = BadNode(
            self.types[node].name,
            errors if error in errors else (*errors, error),
            outputs if output in outputs else (*outputs, output),
        )


def validate_graph(
    graph: Json, known: Mapping[str, NodeType], has_image: Callable[[str], bool] | None
) -> ValidatedGraph:
    """Check every output of `graph` by the node types that are `known`.

    `has_image` says whether a photo was uploaded; None where the photos come from elsewhere.

    Raises:
        Refused: it is no graph, or has no outputs.

    """
    types = {name: _type(name, node, known) for name, node in _nodes(graph)}
    given = {name: _inputs(graph[name]) for name in types}
    values = {name: _complete(types[name], given[name]) for name in types}
    checked = ValidatedGraph(types, values)
    if not checked.ends:
        raise WorkflowError("prompt_no_outputs", "Prompt has no outputs")
    for output in checked.ends:
        for node in _behind(output, checked):
            for error in _faults(node, given[node], checked, has_image):
                checked.add_error(node, error, output)
    return checked


def failed_outputs(checked: ValidatedGraph) -> WorkflowError:
    """That outputs cannot be had; `details` are the errors of the outputs themselves."""
    own = [error for node in checked.ends if (bad := checked.bad.get(node)) for error in bad.errors]
    return WorkflowError(
        "prompt_outputs_failed_validation",
        "Prompt outputs failed validation",
        "\n".join(f"{error.message}: {error.details}" for error in own),
        checked.bad,
    )


def _nodes(graph: Json) -> list[tuple[str, Json]]:
    if not isinstance(graph, dict) or len(graph) > MOST_NODES:
        raise WorkflowError("invalid_prompt", f"The prompt is no graph of up to {MOST_NODES} nodes")
    return list(graph.items())


def _type(name: str, node: Json, known: Mapping[str, NodeType]) -> NodeType:
    where = f"Node ID '#{name}'"
    if not isinstance(node, dict) or "class_type" not in node:
        missing = "Cannot execute because a node is missing the class_type property."
        raise WorkflowError("invalid_prompt", missing, where)
    kind = node["class_type"]
    if not isinstance(kind, str) or kind not in known:
        raise WorkflowError(
            "invalid_prompt", f"Cannot execute because node {kind} does not exist.", where
        )
    return known[kind]


def _inputs(node: dict[str, Json]) -> dict[str, Json]:
    inputs = node.get("inputs")
    return inputs if isinstance(inputs, dict) else {}


def _complete(kind: NodeType, given: Mapping[str, Json]) -> dict[str, Json]:
    """The inputs that the type knows, converted where they can be, with the defaults of the others."""
    values = {}
    for entry in kind.inputs:
        if entry.name in given:
            values[entry.name] = _converted(entry, given[entry.name])
        elif not entry.required and "default" in entry.options:
            values[entry.name] = entry.options["default"]
    return values


def _converted(entry: NodeInput, value: Json) -> Json:
    try:
        return value if isinstance(value, list) else _CONVERSIONS[entry.type](value)
    except (KeyError, ValueError, TypeError, OverflowError):
        return value


def _behind(output: str, checked: ValidatedGraph) -> list[str]:
    """The output and all nodes that it depends on, the furthest first."""
    found: list[str] = []
    layer = [output]
    for _ in range(DEEPEST):
        found += [node for node in layer if node not in found]
        sources = (origin for node in layer for origin in _sources(node, checked))
        layer = list(dict.fromkeys(sources))
        if not layer:
            return found[::-1]
    raise WorkflowError(
        "invalid_prompt", "The nodes depend on each other in a circle", f"'#{output}'"
    )


def _sources(node: str, checked: ValidatedGraph) -> list[str]:
    links = [link for link in checked.values[node].values() if _is_link(link)]
    return [link[0] for link in links if link[0] in checked.types]


def _faults(
    node: str,
    given: Mapping[str, Json],
    checked: ValidatedGraph,
    has_image: Callable[[str], bool] | None,
) -> list[NodeError]:
    kind, values = checked.types[node], checked.values[node]
    faults = []
    for entry in kind.inputs:
        if entry.name not in values:
            if entry.required:
                faults.append(_missing(entry))
            continue
        value = values[entry.name]
        if isinstance(value, list):
            fault = _fault_of_link(entry, value, checked)
        elif kind.name == node_types.LOAD:
            fault = _fault_of_image(value, has_image)
        else:
            fault = _fault_of_value(entry, value, given.get(entry.name, value))
        if fault:
            faults.append(fault)
    return faults


def _missing(entry: NodeInput) -> NodeError:
    return NodeError(
        "required_input_missing",
        "Required input is missing",
        entry.name,
        {"input_name": entry.name},
    )


def _fault_of_link(entry: NodeInput, link: list[Json], checked: ValidatedGraph) -> NodeError | None:
    about = {"input_name": entry.name, "input_config": entry.config}
    if not _is_link(link):
        return NodeError(
            "bad_linked_input",
            "Bad linked input, must be a length-2 list of [node_id, slot_index]",
            entry.name,
            about | {"received_value": link},
        )
    origin = checked.types.get(link[0])
    if origin is None or not 0 <= link[1] < len(origin.outputs):
        return NodeError(
            "exception_during_inner_validation",
            "Exception when validating inner node",
            f"{entry.name}: there is no output {link[1]} of a node {link[0]!r}",
            about | {"linked_node": link},
        )
    received = origin.outputs[link[1]][0]
    if received == entry.type:
        return None
    return NodeError(
        "return_type_mismatch",
        "Return type mismatch between linked nodes",
        f"{entry.name}, received_type({received}) mismatch input_type({_shown(entry)})",
        about | {"received_type": received, "linked_node": link},
    )


def _fault_of_image(value: Json, has_image: Callable[[str], bool] | None) -> NodeError | None:
    if has_image is None or (isinstance(value, str) and has_image(value)):
        return None
    return NodeError(
        "custom_validation_failed",
        "Custom validation failed for node",
        f"image - Invalid image file: {value}",
        {"input_name": "image", "received_value": value},
    )


def _fault_of_value(entry: NodeInput, value: Json, received: Json) -> NodeError | None:
    about = {"input_name": entry.name, "input_config": entry.config, "received_value": received}
    if isinstance(entry.type, tuple):
        if value in entry.type:
            return None
        choices = ", ".join(repr(choice) for choice in entry.type)
        details = f"{entry.name}: {received!r} not in [{choices}]"
        return NodeError("value_not_in_list", "Value not in list", details, about)
    if reason := _unconverted(entry, value):
        message = f"Failed to convert an input value to a {entry.type} value"
        details = f"{entry.name}, {received}, {reason}"
        about |= {"exception_message": reason}
        return NodeError("invalid_input_type", message, details, about)
    least, most = entry.options.get("min"), entry.options.get("max")
    if least is not None and value < least:
        message = f"Value {value} smaller than min of {least}"
        return NodeError("value_smaller_than_min", message, entry.name, about)
    if most is not None and value > most:
        message = f"Value {value} bigger than max of {most}"
        return NodeError("value_bigger_than_max", message, entry.name, about)
    return None


def _unconverted(entry: NodeInput, value: Json) -> str:
    """Why the value is none of the input's type; empty if it is one."""
    if entry.type in {node_types.IMAGE, node_types.MASK}:
        return "only another node gives one"
    try:
        converted = _CONVERSIONS[entry.type](value)
    except (ValueError, TypeError, OverflowError) as error:
        return str(error)
    finite = not isinstance(converted, float) or math.isfinite(converted)
    return "" if finite else "it is not finite"


def _is_link(value: Json) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
    )


def _shown(entry: NodeInput) -> str:
    return entry.type if isinstance(entry.type, str) else "COMBO"


_CONVERSIONS: dict[str | tuple[str, ...], Callable[[Json], Json]] = {
    "INT": int,
    "FLOAT": float,
    "STRING": str,
    "BOOLEAN": bool,
    "COLORCODE": str,
}
