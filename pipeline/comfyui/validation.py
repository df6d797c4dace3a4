"""Validates a graph as ComfyUI does before execution, and converts its values.

Each input is checked in the order of its node: presence, link, type, conversion, range. A node whose
source is invalid gets no error of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from bgpipe.pipeline.comfyui import node_types
from bgpipe.pipeline.comfyui.graph import InvalidNode, Json, NodeError, WorkflowError
from bgpipe.pipeline.comfyui.node_types import NodeInput, NodeType

MAX_NODES = 500
MAX_DEPTH = 100
"""Longest chain of nodes; a longer one is taken for a cycle."""


@dataclass(frozen=True, slots=True)
class ValidatedGraph:
    """The nodes' types and values, converted and complete, and the errors of some nodes."""

    types: Mapping[str, NodeType]
    """Node id -> its type."""
    values: Mapping[str, Mapping[str, Json]]
    invalid: dict[str, InvalidNode] = field(default_factory=dict)

    @property
    def output_nodes(self) -> list[str]:
        return [name for name, kind in self.types.items() if kind.is_output]

    @property
    def valid_outputs(self) -> list[str]:
        """The output nodes that depend on no invalid node."""
        failed = {output for node in self.invalid.values() for output in node.outputs}
        return [name for name in self.output_nodes if name not in failed]

    def type_name(self, node: str) -> str:
        return self.types[node].name

    def add_error(self, node: str, error: NodeError, output: str) -> None:
        """Record that `output` fails because of `node`."""
        known = self.invalid.get(node, InvalidNode(self.type_name(node), (), ()))
        errors = known.errors if error in known.errors else (*known.errors, error)
        outputs = known.outputs if output in known.outputs else (*known.outputs, output)
        self.invalid[node] = InvalidNode(known.class_type, errors, outputs)


def validate_graph(
    graph: Json, known: Mapping[str, NodeType], has_image: Callable[[str], bool] | None
) -> ValidatedGraph:
    """Validate every output of `graph` by the `known` node types.

    `has_image` says whether an image was uploaded; None if the images come from elsewhere.

    Raises:
        WorkflowError: it is not a graph, has no outputs, or its nodes are unknown or form a cycle.

    """
    types = {name: _node_type(name, node, known) for name, node in _nodes(graph)}
    inputs = {name: _inputs(graph[name]) for name in types}
    values = {name: _complete(types[name], inputs[name]) for name in types}
    validated = ValidatedGraph(types, values)
    if not validated.output_nodes:
        raise WorkflowError("prompt_no_outputs", "Prompt has no outputs")
    for output in validated.output_nodes:
        for node in _dependencies(output, validated):
            for error in _errors(node, inputs[node], validated, has_image):
                validated.add_error(node, error, output)
    return validated


def failed_outputs(validated: ValidatedGraph) -> WorkflowError:
    """Return the error of unsupported outputs; `details` are the output nodes' own errors."""
    invalid = [
        validated.invalid[name] for name in validated.output_nodes if name in validated.invalid
    ]
    errors = [error for node in invalid for error in node.errors]
    return WorkflowError(
        "prompt_outputs_failed_validation",
        "Prompt outputs failed validation",
        "\n".join(f"{error.message}: {error.details}" for error in errors),
        validated.invalid,
    )


def _nodes(graph: Json) -> list[tuple[str, Json]]:
    if not isinstance(graph, dict) or len(graph) > MAX_NODES:
        message = f"The prompt is not a graph of up to {MAX_NODES} nodes"
        raise WorkflowError("invalid_prompt", message)
    return list(graph.items())


def _node_type(name: str, node: Json, known: Mapping[str, NodeType]) -> NodeType:
    details = f"Node ID '#{name}'"
    if not isinstance(node, dict) or "class_type" not in node:
        message = "Cannot execute because a node is missing the class_type property."
        raise WorkflowError("invalid_prompt", message, details)
    kind = node["class_type"]
    if not isinstance(kind, str) or kind not in known:
        message = f"Cannot execute because node {kind} does not exist."
        raise WorkflowError("invalid_prompt", message, details)
    return known[kind]


def _inputs(node: dict[str, Json]) -> dict[str, Json]:
    inputs = node.get("inputs")
    return inputs if isinstance(inputs, dict) else {}


def _complete(kind: NodeType, inputs: Mapping[str, Json]) -> dict[str, Json]:
    """Return the known inputs, converted where possible, with the defaults of the others."""
    values = {}
    for each in kind.inputs:
        if each.name in inputs:
            values[each.name] = _convert(each, inputs[each.name])
        elif not each.required and "default" in each.options:
            values[each.name] = each.options["default"]
    return values


def _convert(input_: NodeInput, value: Json) -> Json:
    try:
        return value if isinstance(value, list) else _CONVERSIONS[input_.type](value)
    except (KeyError, ValueError, TypeError, OverflowError):
        return value


def _dependencies(output: str, validated: ValidatedGraph) -> list[str]:
    """Return the output and the nodes that it depends on, the furthest first."""
    nodes: list[str] = []
    layer = [output]
    for _ in range(MAX_DEPTH):
        nodes += [node for node in layer if node not in nodes]
        layer = list(
            dict.fromkeys(source for node in layer for source in _sources(node, validated))
        )
        if not layer:
            return nodes[::-1]
    raise WorkflowError("invalid_prompt", "The nodes form a cycle", f"'#{output}'")


def _sources(node: str, validated: ValidatedGraph) -> list[str]:
    links = [value for value in validated.values[node].values() if _is_link(value)]
    return [link[0] for link in links if link[0] in validated.types]


def _errors(
    node: str,
    inputs: Mapping[str, Json],
    validated: ValidatedGraph,
    has_image: Callable[[str], bool] | None,
) -> Iterator[NodeError]:
    kind, values = validated.types[node], validated.values[node]
    for each in kind.inputs:
        error = None
        if each.name not in values:
            error = _missing_error(each) if each.required else None
        elif isinstance(values[each.name], list):
            error = _link_error(each, values[each.name], validated)
        elif kind.name == node_types.LOAD:
            error = _image_error(values[each.name], has_image)
        else:
            value = values[each.name]
            error = _value_error(each, value, inputs.get(each.name, value))
        if error:
            yield error


def _missing_error(input_: NodeInput) -> NodeError:
    message = "Required input is missing"
    extra = {"input_name": input_.name}
    return NodeError("required_input_missing", message, input_.name, extra)


def _link_error(input_: NodeInput, link: list[Json], validated: ValidatedGraph) -> NodeError | None:
    extra = {"input_name": input_.name, "input_config": input_.config}
    if not _is_link(link):
        message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
        return NodeError("bad_linked_input", message, input_.name, extra | {"received_value": link})
    origin = validated.types.get(link[0])
    if origin is None or not 0 <= link[1] < len(origin.outputs):
        return NodeError(
            "exception_during_inner_validation",
            "Exception when validating inner node",
            f"{input_.name}: there is no output {link[1]} of a node {link[0]!r}",
            extra | {"linked_node": link},
        )
    received = origin.outputs[link[1]][0]
    if received == input_.type:
        return None
    expected = input_.type if isinstance(input_.type, str) else "COMBO"
    return NodeError(
        "return_type_mismatch",
        "Return type mismatch between linked nodes",
        f"{input_.name}, received_type({received}) mismatch input_type({expected})",
        extra | {"received_type": received, "linked_node": link},
    )


def _image_error(value: Json, has_image: Callable[[str], bool] | None) -> NodeError | None:
    if has_image is None or (isinstance(value, str) and has_image(value)):
        return None
    return NodeError(
        "custom_validation_failed",
        "Custom validation failed for node",
        f"image - Invalid image file: {value}",
        {"input_name": "image", "received_value": value},
    )


def _value_error(input_: NodeInput, value: Json, received: Json) -> NodeError | None:
    name = input_.name
    extra = {"input_name": name, "input_config": input_.config, "received_value": received}
    if isinstance(input_.type, tuple):
        if value in input_.type:
            return None
        details = f"{name}: {received!r} not in [{', '.join(map(repr, input_.type))}]"
        return NodeError("value_not_in_list", "Value not in list", details, extra)
    if reason := _conversion_failure(input_, value):
        message = f"Failed to convert an input value to a {input_.type} value"
        details = f"{name}, {received}, {reason}"
        return NodeError(
            "invalid_input_type", message, details, extra | {"exception_message": reason}
        )
    minimum, maximum = input_.options.get("min"), input_.options.get("max")
    if minimum is not None and value < minimum:
        message = f"Value {value} smaller than min of {minimum}"
        return NodeError("value_smaller_than_min", message, name, extra)
    if maximum is not None and value > maximum:
        message = f"Value {value} bigger than max of {maximum}"
        return NodeError("value_bigger_than_max", message, name, extra)
    return None


def _conversion_failure(input_: NodeInput, value: Json) -> str:
    """Return why the value cannot have the input's type, or nothing if it can."""
    if input_.type in {node_types.IMAGE, node_types.MASK}:
        return "only a link to another node can provide it"
    try:
        converted = _CONVERSIONS[input_.type](value)
    except (ValueError, TypeError, OverflowError) as error:
        return str(error)
    is_finite = not isinstance(converted, float) or math.isfinite(converted)
    return "" if is_finite else "the value is not finite"


def _is_link(value: Json) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
    )


_CONVERSIONS: dict[str | tuple[str, ...], Callable[[Json], Json]] = {
    "INT": int,
    "FLOAT": float,
    "STRING": str,
    "BOOLEAN": bool,
    "COLORCODE": str,
}
