"""The node types that are understood: inputs in their order, ranges, outputs.

The inputs of the five nodes of ComfyUI and ComfyUI-RMBG bear their names and have their ranges, so
that a script written for them finds what it knows in /object_info. `BgpipeRefiner` is ours: the mask
enhancer by the labels under which its six widget values were documented.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from bgpipe.pipeline.comfyui.graph import Json

IMAGE, MASK = "IMAGE", "MASK"

LOAD, REMOVE = "LoadImage", "BiRefNetRMBG"
ENHANCE, CONVERT = "AILab_MaskEnhancer", "AILab_ImageMaskConvert"
SAVE, PREVIEW = "SaveImage", "PreviewImage"
REFINE = "BgpipeRefiner"


@dataclass(frozen=True, slots=True)
class NodeInput:
    """`type` is ComfyUI's name of a type, or the values that there are to choose from."""

    name: str
    type: str | tuple[str, ...]
    options: Mapping[str, Json] = field(default_factory=lambda: MappingProxyType({}))
    required: bool = True

    @property
    def config(self) -> list[Json]:
        """As /object_info and the errors show it."""
        kind = self.type if isinstance(self.type, str) else list(self.type)
        return [kind, dict(self.options)] if self.options else [kind]


@dataclass(frozen=True, slots=True)
class NodeType:
    """`outputs` are pairs of a type and a name; `is_output`: its images are kept."""

    name: str
    display_name: str
    description: str
    inputs: tuple[NodeInput, ...]
    outputs: tuple[tuple[str, str], ...] = ()
    is_output: bool = False

    @property
    def info(self) -> dict[str, Json]:
        """As /object_info shows it."""
        groups = {
            group: [entry for entry in self.inputs if entry.required is required]
            for group, required in (("required", True), ("optional", False))
        }
        groups = {group: inputs for group, inputs in groups.items() if inputs}
        return {
            "input": {
                group: {entry.name: entry.config for entry in inputs}
                for group, inputs in groups.items()
            },
            "input_order": {
                group: [entry.name for entry in inputs] for group, inputs in groups.items()
            },
            "output": [kind for kind, _ in self.outputs],
            "output_is_list": [False] * len(self.outputs),
            "output_name": [name for _, name in self.outputs],
            "name": self.name,
            "display_name": self.display_name,
            "description": self.description,
            "python_module": "bgpipe",
            "category": "image" if self.name in {LOAD, SAVE, PREVIEW} else "bgpipe",
            "output_node": self.is_output,
        }


def make_node_types(models: Sequence[str], images: Sequence[str] = ()) -> dict[str, NodeType]:
    """Every node type; `models` and `images` are what their inputs offer to choose from."""
    types = (
        NodeType(
            LOAD,
            "Load Image",
            "An uploaded photo.",
            (NodeInput("image", tuple(images), {"image_upload": True}),),
            ((IMAGE, "IMAGE"), (MASK, "MASK")),
        ),
        NodeType(
            REMOVE,
            "Remove Background (BiRefNet)",
            "The photo with the network's matte as its alpha.",
            (
                NodeInput("image", IMAGE),
                NodeInput("model", tuple(models), {"tooltip": "Which weights."}),
                _sensitivity(required=False),
                _integer("mask_blur", 0, 64),
                _integer("mask_offset", -20, 20),
                _flag("invert_output"),
                _flag("refine_foreground"),
                NodeInput("background", ("Alpha", "Color"), {"default": "Alpha"}, required=False),
                NodeInput("background_color", "COLORCODE", {"default": "#222222"}, required=False),
            ),
            ((IMAGE, "IMAGE"), (MASK, "MASK"), (IMAGE, "MASK_IMAGE")),
        ),
        NodeType(
            ENHANCE,
            "Mask Enhancer",
            "What ComfyUI-RMBG's node of this name does, step for step.",
            (
                NodeInput("mask", MASK),
                _sensitivity(required=False),
                _integer("mask_blur", 0, 64),
                _integer("mask_offset", -64, 64),
                _number("smooth", 0, 128, 0.0, 0.5),
                _flag("fill_holes"),
                _flag("invert_output"),
            ),
            ((MASK, "MASK"),),
        ),
        NodeType(
            REFINE,
            "Mask Refiner (bgpipe)",
            "The fields of bgpipe's presets; lengths in pixels of the photo.",
            (
                NodeInput("mask", MASK),
                _number("contrast", 0.1, 4, 1.0, 0.05),
                _number("dilate", 0, 64, 0.0, 0.05),
                _number("erode", 0, 64, 0.0, 0.05),
                _number("blur", 0, 10, 0.0, 0.1),
                _flag("smooth"),
                _flag("threshold"),
            ),
            ((MASK, "MASK"),),
        ),
        NodeType(
            CONVERT,
            "Image Mask Convert",
            "An image and a mask: the image with the mask as its alpha.",
            (
                NodeInput("image", IMAGE, required=False),
                NodeInput("mask", MASK, required=False),
                NodeInput(
                    "mask_channel",
                    ("alpha", "red", "green", "blue"),
                    {"default": "alpha"},
                    required=False,
                ),
            ),
            ((IMAGE, "IMAGE"), (MASK, "MASK")),
        ),
        NodeType(
            SAVE,
            "Save Image",
            "An RGBA PNG that is kept.",
            (
                NodeInput("images", IMAGE),
                NodeInput("filename_prefix", "STRING", {"default": "ComfyUI"}),
            ),
            is_output=True,
        ),
        NodeType(
            PREVIEW,
            "Preview Image",
            "A PNG to look at.",
            (NodeInput("images", IMAGE),),
            is_output=True,
        ),
    )
    return {node.name: node for node in types}


def _sensitivity(*, required: bool) -> NodeInput:
    options = {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}
    return NodeInput("sensitivity", "FLOAT", options, required)


def _integer(name: str, least: int, most: int) -> NodeInput:
    options = {"default": 0, "min": least, "max": most, "step": 1}
    return NodeInput(name, "INT", options, required=False)


def _number(name: str, least: float, most: float, default: float, step: float) -> NodeInput:
    options = {"default": default, "min": least, "max": most, "step": step}
    return NodeInput(name, "FLOAT", options, required=False)


def _flag(name: str) -> NodeInput:
    return NodeInput(name, "BOOLEAN", {"default": False}, required=False)
