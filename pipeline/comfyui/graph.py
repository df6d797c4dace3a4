"""A graph in ComfyUI's API format, and its errors in ComfyUI's shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bgpipe.pipeline.errors import UsageError

Json = Any
"""The result of a JSON parser."""
Graph = dict[str, dict[str, Json]]
"""Node id -> {"class_type": ..., "inputs": {name: value or [node id, slot]}}."""


@dataclass(frozen=True, slots=True)
class NodeError:
    """An error of a node; `type` is one of ComfyUI's."""

    type: str
    message: str
    details: str
    extra_info: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InvalidNode:
    """A node with errors, and the outputs that depend on it."""

    class_type: str
    errors: tuple[NodeError, ...]
    outputs: tuple[str, ...]


class WorkflowError(UsageError):
    """The workflow is invalid or not supported. `type` is one of ComfyUI's."""

    def __init__(
        self,
        type_: str,
        message: str,
        details: str = "",
        nodes: Mapping[str, InvalidNode] | None = None,
    ) -> None:
        self.type = type_
        self.message = message
        self.details = details
        self.nodes = nodes or {}
        super().__init__(f"workflow: {self._describe()}")

    @property
    def body(self) -> dict[str, Json]:
        """The response of POST /prompt with status 400."""
        error = {"type": self.type, "message": self.message, "details": self.details}
        return {"error": error | {"extra_info": {}}, "node_errors": node_errors(self.nodes)}

    def _describe(self) -> str:
        """Return the first error of each node, or else the workflow's own."""
        errors = [
            f"node {name} ({node.class_type}): "
            f"{_join(node.errors[0].message, node.errors[0].details)}"
            for name, node in self.nodes.items()
        ]
        return "; ".join(errors) or _join(self.message, self.details)


def no_prompt() -> WorkflowError:
    return WorkflowError("no_prompt", "No prompt provided", "No prompt provided")


def node_errors(nodes: Mapping[str, InvalidNode]) -> dict[str, Json]:
    """Return node id -> its errors, in ComfyUI's shape."""
    return {
        name: {
            "errors": [asdict(error) for error in node.errors],
            "dependent_outputs": list(node.outputs),
            "class_type": node.class_type,
        }
        for name, node in nodes.items()
    }


def _join(message: str, details: str) -> str:
    return f"{message}: {details}" if details and details != message else message
