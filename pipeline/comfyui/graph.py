"""A graph in ComfyUI's API format: validated as ComfyUI does before execution, with errors in its shape."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field

from bgpipe.pipeline.comfyui import node_types
from bgpipe.pipeline.comfyui.node_types import Json as Json  # re-exported, for users of graphs
from bgpipe.pipeline.comfyui.node_types import NodeInput, NodeType
from bgpipe.pipeline.errors import UsageError

Graph = dict[str, dict[str, Json]]
"""Node id -> {"class_type": ..., "inputs": {name: value or [node id, slot]}}."""

HasImage = Callable[[str], bool] | None
"""Whether an image was uploaded; None if the images come from elsewhere."""

MAX_NODES = 500
CONVERSIONS: Mapping[str, Callable[[Json], Json]] = {"INT": int, "FLOAT": float, "BOOLEAN": bool}
"""Of an input's value by its type; others are texts."""
MAX_DEPTH = 100
"""Longest chain of nodes; a longer one is taken for a cycle."""


@dataclass(frozen=True, slots=True)
class NodeError:
    """An error of a node; `type` is one of ComfyUI's."""

    type: str
    message: str
    details: str
    extra_info: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InvalidNode:
    """A node with errors, and the outputs that depend on it; as a dict it has ComfyUI's shape."""

    class_type: str
    errors: list[NodeError] = field(default_factory=list)
    dependent_outputs: list[str] = field(default_factory=list)


class WorkflowError(UsageError):
    """The workflow is invalid or not supported. `type` is one of ComfyUI's."""

    def __init__(
        self,
        type_: str,
        message: str,
        details: str = "",
        nodes: Mapping[str, InvalidNode] | None = None,
        hint: str = "",
    ) -> None:
        self.type = type_
        self.message = _join(message, hint)
        self.details = details
        self.nodes = nodes or {}
        # The first error of each node, or else the workflow's own.
        errors = [
            f"node {name} ({node.class_type}): {_join(error.message, error.details)}"
            for name, node in self.nodes.items()
            for error in node.errors[:1]
        ]
        reasons = [*filter(None, [hint]), *errors] or [_join(message, details)]
        super().__init__(f"workflow: {'; '.join(reasons)}")

    @property
    def body(self) -> dict[str, Json]:
        """The response of POST /prompt with status 400."""
        return {
            "error": asdict(NodeError(self.type, self.message, self.details)),
            "node_errors": {name: asdict(node) for name, node in self.nodes.items()},
        }


@dataclass(frozen=True, slots=True)
class ValidatedGraph:
    """By node id: types, values that are converted and complete, and the errors of some nodes."""

    types: Mapping[str, NodeType]
    values: Mapping[str, Mapping[str, Json]]
    invalid: dict[str, InvalidNode] = field(default_factory=dict)

    @property
    def output_nodes(self) -> list[str]:
        return [name for name, kind in self.types.items() if kind.is_output]

    @property
    def valid_outputs(self) -> list[str]:
        """The output nodes that depend on no invalid node."""
        failed = {output for node in self.invalid.values() for output in node.dependent_outputs}
        return [name for name in self.output_nodes if name not in failed]

    def add_error(self, node: str, error: NodeError, output: str) -> None:
        """Record that `output` fails because of `node`."""
        invalid = self.invalid.setdefault(node, InvalidNode(self.types[node].name))
        if error not in invalid.errors:
            invalid.errors.append(error)
        if output not in invalid.dependent_outputs:
            invalid.dependent_outputs.append(output)


def validate_graph(
    graph: Json, known: Mapping[str, NodeType], has_image: HasImage
) -> ValidatedGraph:
    """Validate every output of `graph` by the `known` node types, each input in order.

    A node whose source is invalid gets no error of its own.

    Raises WorkflowError if it is not a graph, has no outputs, or its nodes are unknown or form a cycle.
    """
    if not isinstance(graph, dict) or len(graph) > MAX_NODES:
        message = f"The prompt is not a graph of up to {MAX_NODES} nodes"
        raise WorkflowError("invalid_prompt", message)
    types = {name: _node_type(name, node, known) for name, node in graph.items()}
    inputs = {name: node.get("inputs") for name, node in graph.items()}
    received = {name: each if isinstance(each, dict) else {} for name, each in inputs.items()}
    values = {name: _complete(types[name], received[name]) for name in types}
    validated = ValidatedGraph(types, values)
    if not validated.output_nodes:
        raise WorkflowError("prompt_no_outputs", "Prompt has no outputs")
    for output in validated.output_nodes:
        for node in _dependencies(output, validated):
            for error in _errors(node, received[node], validated, has_image):
                validated.add_error(node, error, output)
    return validated


def failed_outputs(validated: ValidatedGraph) -> WorkflowError:
    """Return the error of unsupported outputs; `details` are the output nodes' own errors."""
    invalid = validated.invalid
    outputs = [invalid[name] for name in validated.output_nodes if name in invalid]
    errors = [error for node in outputs for error in node.errors]
    details = "\n".join(f"{error.message}: {error.details}" for error in errors)
    return invalid_outputs(invalid, details)


def invalid_outputs(nodes: Mapping[str, InvalidNode], details: str = "") -> WorkflowError:
    message = "Prompt outputs failed validation"
    return WorkflowError("prompt_outputs_failed_validation", message, details, nodes)


def unsupported_input(name: str, reason: str, extra: Mapping[str, Json]) -> NodeError:
    message, extra_info = "Custom validation failed for node", {"input_name": name, **extra}
    return NodeError("custom_validation_failed", message, f"{name} - {reason}", extra_info)


def no_prompt() -> WorkflowError:
    return WorkflowError("no_prompt", "No prompt provided", "No prompt provided")


def _node_type(name: str, node: Json, known: Mapping[str, NodeType]) -> NodeType:
    message = "Cannot execute because a node is missing the class_type property."
    if isinstance(node, dict) and "class_type" in node:
        kind = node["class_type"]
        if isinstance(kind, str) and kind in known:
            return known[kind]
        message = f"Cannot execute because node {kind} does not exist."
    raise WorkflowError("invalid_prompt", message, f"Node ID '#{name}'")


def _complete(kind: NodeType, inputs: Mapping[str, Json]) -> dict[str, Json]:
    """Return the known inputs, converted where possible, with the defaults of the others."""
    values = {}
    for each in kind.inputs:
        if each.name in inputs:
            values[each.name] = _convert(each, inputs[each.name])[0]
        elif not each.required and "default" in each.options:
            values[each.name] = each.options["default"]
    return values


def _convert(input_: NodeInput, value: Json) -> tuple[Json, str]:
    """Return the value as the input's type, or as it is with the reason why it cannot have it."""
    if isinstance(value, list) or isinstance(input_.type, tuple):
        return value, ""
    if input_.type in node_types.LINKS:
        return value, "only a link to another node can provide it"
    try:
        converted = CONVERSIONS.get(input_.type, str)(value)
    except (ValueError, TypeError, OverflowError) as error:
        return value, str(error)
    is_finite = not isinstance(converted, float) or math.isfinite(converted)
    return converted, "" if is_finite else "the value is not finite"


def _dependencies(output: str, validated: ValidatedGraph) -> list[str]:
    """Return the output and the nodes that it depends on, the furthest first."""
    nodes: list[str] = []
    layer = [output]
    for _ in range(MAX_DEPTH):
        nodes += [node for node in layer if node not in nodes]
        values = [value for node in layer for value in validated.values[node].values()]
        origins = [value[0] for value in values if _is_link(value)]
        layer = [node for node in dict.fromkeys(origins) if node in validated.types]
        if not layer:
            return nodes[::-1]
    raise WorkflowError("invalid_prompt", "The nodes form a cycle", f"'#{output}'")


def _errors(
    node: str,
    inputs: Mapping[str, Json],
    validated: ValidatedGraph,
    has_image: HasImage,
) -> Iterator[NodeError]:
    kind, values = validated.types[node], validated.values[node]
    for each in kind.inputs:
        name = each.name
        error = None
        if name not in values and each.required:
            message = "Required input is missing"
            error = NodeError("required_input_missing", message, name, {"input_name": name})
        elif isinstance(values.get(name), list):
            error = _link_error(each, values[name], validated)
        elif name in values and kind.name == node_types.LOAD:
            image = values[name]
            if has_image and not (isinstance(image, str) and has_image(image)):
                reason = f"Invalid image file: {image}"
                error = unsupported_input(name, reason, {"received_value": image})
        elif name in values:
            error = _value_error(each, values[name], inputs.get(name, values[name]))
        if error:
            yield error


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


def _value_error(input_: NodeInput, value: Json, received: Json) -> NodeError | None:
    name, options = input_.name, input_.options
    extra = {"input_name": name, "input_config": input_.config, "received_value": received}
    if isinstance(input_.type, tuple):
        if value in input_.type:
            return None
        details = f"{name}: {received!r} not in [{', '.join(map(repr, input_.type))}]"
        return NodeError("value_not_in_list", "Value not in list", details, extra)
    if reason := _convert(input_, value)[1]:
        message = f"Failed to convert an input value to a {input_.type} value"
        extra["exception_message"] = reason
        return NodeError("invalid_input_type", message, f"{name}, {received}, {reason}", extra)
    if "min" in options and value < options["min"]:
        message = f"Value {value} smaller than min of {options['min']}"
        return NodeError("value_smaller_than_min", message, name, extra)
    if "max" in options and value > options["max"]:
        message = f"Value {value} bigger than max of {options['max']}"
        return NodeError("value_bigger_than_max", message, name, extra)
    return None


def _is_link(value: Json) -> bool:
    match value:
        case [str(), int()]:
            return True
    return False


def _join(message: str, details: str) -> str:
    return f"{message}: {details}" if details and details != message else message
