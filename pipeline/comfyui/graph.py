"""A graph in ComfyUI's API format, and how ComfyUI says what is wrong with one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bgpipe.pipeline.errors import UsageError

Json = Any
"""What a JSON parser returns."""
Graph = dict[str, dict[str, Json]]
"""Node id -> {"class_type": ..., "inputs": {name: value or [node id, slot]}}."""


@dataclass(frozen=True, slots=True)
class NodeError:
    """One thing that is wrong with one node; `type` is one of ComfyUI's names."""

    type: str
    message: str
    details: str
    extra_info: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BadNode:
    """A node with errors, and the outputs that cannot be had because of it."""

    class_type: str
    errors: tuple[NodeError, ...]
    outputs: tuple[str, ...]


class WorkflowError(UsageError):
    """The workflow cannot be done. `type` is one of ComfyUI's names."""

    def __init__(
        self,
        type_: str,
        message: str,
        details: str = "",
        nodes: Mapping[str, BadNode] | None = None,
    ) -> None:
        self.type = type_
        self.message = message
        self.details = details
        self.nodes = nodes or {}
        super().__init__(f"workflow: {_sentence(self)}")

    @property
    def body(self) -> dict[str, Json]:
        """What POST /prompt answers with status 400."""
        error = {"type": self.type, "message": self.message, "details": self.details}
        return {"error": error | {"extra_info": {}}, "node_errors": node_errors(self.nodes)}


def no_prompt() -> WorkflowError:
    return WorkflowError("no_prompt", "No prompt provided", "No prompt provided")


def node_errors(nodes: Mapping[str, BadNode]) -> dict[str, Json]:
    """Node id -> its errors, as ComfyUI writes them."""
    return {
        node: {
            "errors": [
                {
                    "type": error.type,
                    "message": error.message,
                    "details": error.details,
                    "extra_info": dict(error.extra_info),
                }
                for error in bad.errors
            ],
            "dependent_outputs": list(bad.outputs),
            "class_type": bad.class_type,
        }
        for node, bad in nodes.items()
    }


def _sentence(refused: WorkflowError) -> str:
    """What a person reads on a terminal: the first fault of each node, if it is theirs."""
    faults = [
        f"node {node} ({bad.class_type}): {_colon(bad.errors[0].message, bad.errors[0].details)}"
        for node, bad in refused.nodes.items()
    ]
    return "; ".join(faults) or _colon(refused.message, refused.details)


def _colon(message: str, details: str) -> str:
    return f"{message}: {details}" if details and details != message else message
