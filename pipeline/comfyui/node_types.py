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
IMAGE_AND_MASK = ((IMAGE, "IMAGE"), (MASK, "MASK"))
"""Types and names of the outputs of most nodes."""

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
        groups: dict[str, dict[str, Json]] = {}
        for each in sorted(self.inputs, key=lambda each: not each.required):
            group = "required" if each.required else "optional"
            groups.setdefault(group, {})[each.name] = each.config
        return {
            "input": groups,
            "input_order": {group: list(inputs) for group, inputs in groups.items()},
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
            IMAGE_AND_MASK,
        ),
        NodeType(
            REMOVE,
            "Remove Background (BiRefNet)",
            "The photo with the network's matte as its alpha.",
            (
                NodeInput("image", IMAGE),
                NodeInput("model", tuple(models), {"tooltip": "The model's weights."}),
                _number("sensitivity", 0.0, 1.0, 1.0, 0.01),
                _number("mask_blur", 0, 64),
                _number("mask_offset", -20, 20),
                _bool("invert_output"),
                _bool("refine_foreground"),
                _optional("background", ("Alpha", "Color"), "Alpha"),
                _optional("background_color", "COLORCODE", "#222222"),
            ),
            (*IMAGE_AND_MASK, (IMAGE, "MASK_IMAGE")),
        ),
        NodeType(
            ENHANCE,
            "Mask Enhancer",
            "The same steps as ComfyUI-RMBG's node of this name.",
            (
                NodeInput("mask", MASK),
                _number("sensitivity", 0.0, 1.0, 1.0, 0.01),
                _number("mask_blur", 0, 64),
                _number("mask_offset", -64, 64),
                _number("smooth", 0, 128, 0.0, 0.5),
                _bool("fill_holes"),
                _bool("invert_output"),
            ),
            IMAGE_AND_MASK[1:],
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
                _bool("smooth"),
                _bool("threshold"),
            ),
            IMAGE_AND_MASK[1:],
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
            IMAGE_AND_MASK,
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


def _number(
    name: str, minimum: float, maximum: float, default: float = 0, step: float = 1
) -> NodeInput:
    options = {"default": default, "min": minimum, "max": maximum, "step": step}
    return NodeInput(name, "INT" if step == 1 else "FLOAT", options, required=False)


def _bool(name: str) -> NodeInput:
    return _optional(name, "BOOLEAN", default=False)
