"""The supported node types: inputs in order, their ranges, outputs.

The inputs of the nodes of ComfyUI and ComfyUI-RMBG have their names and ranges, so that existing
scripts find them in /object_info. `BgpipeRefiner` is our own: the mask enhancer with the six labels
under which its widget values were documented.
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
    """`type` is the name of one of ComfyUI's types, or the permitted values."""

    name: str
    type: str | tuple[str, ...]
    options: Mapping[str, Json] = field(default_factory=lambda: MappingProxyType({}))
    required: bool = True

    @property
    def config(self) -> list[Json]:
        """The input as in /object_info and in errors."""
        kind = self.type if isinstance(self.type, str) else list(self.type)
        return [kind, dict(self.options)] if self.options else [kind]


@dataclass(frozen=True, slots=True)
class NodeType:
    """`outputs` are pairs of type and name; `is_output`: ComfyUI keeps the node's images."""

    name: str
    display_name: str
    description: str
    inputs: tuple[NodeInput, ...]
    outputs: tuple[tuple[str, str], ...] = ()
    is_output: bool = False

    @property
    def info(self) -> dict[str, Json]:
        """The node as in /object_info."""
        groups = {
            "required": [each for each in self.inputs if each.required],
            "optional": [each for each in self.inputs if not each.required],
        }
        groups = {group: inputs for group, inputs in groups.items() if inputs}
        return {
            "input": {
                group: {each.name: each.config for each in inputs}
                for group, inputs in groups.items()
            },
            "input_order": {
                group: [each.name for each in inputs] for group, inputs in groups.items()
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
    """Return every node type by name; `models` and `images` are the values of their inputs."""
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
                NodeInput("model", tuple(models), {"tooltip": "The model's weights."}),
                _float("sensitivity", 0.0, 1.0, 1.0, 0.01),
                _int("mask_blur", 0, 64),
                _int("mask_offset", -20, 20),
                _bool("invert_output"),
                _bool("refine_foreground"),
                _optional("background", ("Alpha", "Color"), "Alpha"),
                _optional("background_color", "COLORCODE", "#222222"),
            ),
            ((IMAGE, "IMAGE"), (MASK, "MASK"), (IMAGE, "MASK_IMAGE")),
        ),
        NodeType(
            ENHANCE,
            "Mask Enhancer",
            "The same steps as ComfyUI-RMBG's node of this name.",
            (
                NodeInput("mask", MASK),
                _float("sensitivity", 0.0, 1.0, 1.0, 0.01),
                _int("mask_blur", 0, 64),
                _int("mask_offset", -64, 64),
                _float("smooth", 0, 128, 0.0, 0.5),
                _bool("fill_holes"),
                _bool("invert_output"),
            ),
            ((MASK, "MASK"),),
        ),
        NodeType(
            REFINE,
            "Mask Refiner (bgpipe)",
            "The fields of bgpipe's presets; lengths in pixels of the photo.",
            (
                NodeInput("mask", MASK),
                _float("contrast", 0.1, 4, 1.0, 0.05),
                _float("dilate", 0, 64, 0.0, 0.05),
                _float("erode", 0, 64, 0.0, 0.05),
                _float("blur", 0, 10, 0.0, 0.1),
                _bool("smooth"),
                _bool("threshold"),
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
                _optional("mask_channel", ("alpha", "red", "green", "blue"), "alpha"),
            ),
            ((IMAGE, "IMAGE"), (MASK, "MASK")),
        ),
        NodeType(
            SAVE,
            "Save Image",
            "An RGBA PNG to keep.",
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


def _optional(name: str, type_: str | tuple[str, ...], default: Json) -> NodeInput:
    return NodeInput(name, type_, {"default": default}, required=False)


def _int(name: str, minimum: int, maximum: int) -> NodeInput:
    options = {"default": 0, "min": minimum, "max": maximum, "step": 1}
    return NodeInput(name, "INT", options, required=False)


def _float(name: str, minimum: float, maximum: float, default: float, step: float) -> NodeInput:
    options = {"default": default, "min": minimum, "max": maximum, "step": step}
    return NodeInput(name, "FLOAT", options, required=False)


def _bool(name: str) -> NodeInput:
    return _optional(name, "BOOLEAN", default=False)
