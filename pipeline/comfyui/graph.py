"""A graph in ComfyUI's API format, and its errors in ComfyUI's shape."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bgpipe.pipeline.errors import UsageError

Json = Any
"""The result of a JSON parser."""
Graph = dict[str, dict[str, Json]]
"""Node id -> {"class_type": ..., "inputs": {name: value or [node id, slot]}}."""

MAX_NODES = 500


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


def unsupported_input(name: str, reason: str, extra: Mapping[str, Json]) -> NodeError:
    message, extra_info = "Custom validation failed for node", {"input_name": name, **extra}
    return NodeError("custom_validation_failed", message, f"{name} - {reason}", extra_info)


def no_prompt() -> WorkflowError:
    return WorkflowError("no_prompt", "No prompt provided", "No prompt provided")


def _join(message: str, details: str) -> str:
    return f"{message}: {details}" if details and details != message else message
