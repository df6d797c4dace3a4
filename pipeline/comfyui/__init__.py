"""Node graphs of ComfyUI that remove a background, read as what bgpipe makes.

    document  --ui.py-->  graph  --checks.py-->  checked values  --meaning.py-->  outputs
    UI format             API format                                              preset, model, photo

Nothing is executed as a graph: every output that can be had is one cutout or mask of one photo, by
one model and one preset. What cannot be had is refused in ComfyUI's own error shape.
"""

from __future__ import annotations

from bgpipe.pipeline.comfyui.graph import Graph, NodeError, WorkflowError
from bgpipe.pipeline.comfyui.interpreter import CutoutSpec, OutputNode, Workflow, read_workflow
from bgpipe.pipeline.comfyui.node_types import NodeType, make_node_types

__all__ = [
    "CutoutSpec",
    "Graph",
    "NodeError",
    "NodeType",
    "OutputNode",
    "Workflow",
    "WorkflowError",
    "make_node_types",
    "read_workflow",
]
