"""The supported node types, with the names and ranges of ComfyUI's and ComfyUI-RMBG's inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bgpipe.pipeline.comfyui.graph import Json

IMAGE, MASK = "IMAGE", "MASK"

LOAD, REMOVE = "LoadImage", "BiRefNetRMBG"
ENHANCE, CONVERT = "AILab_MaskEnhancer", "AILab_ImageMaskConvert"
SAVE, PREVIEW = "SaveImage", "PreviewImage"
REFINE = "BgpipeRefiner"
"""Our own: the mask enhancer with the six labels under which its widget values were documented."""

TEXTS = {
    LOAD: ("Load Image", "An uploaded photo."),
    REMOVE: ("Remove Background (BiRefNet)", "The photo with the network's matte as its alpha."),
    ENHANCE: ("Mask Enhancer", "The same steps as ComfyUI-RMBG's node of this name."),
    REFINE: (
        "Mask Refiner (bgpipe)",
        "The fields of bgpipe's presets; lengths in pixels of the photo.",
    ),
    CONVERT: ("Image Mask Convert", "An image and a mask: the image with the mask as its alpha."),
    SAVE: ("Save Image", "An RGBA PNG to keep."),
    PREVIEW: ("Preview Image", "A PNG to look at."),
}
"""Display name and description of each node type."""
IMAGE_AND_MASK = ((IMAGE, "IMAGE"), (MASK, "MASK"))
OUTPUTS: Mapping[str, tuple[tuple[str, str], ...]] = {
    LOAD: IMAGE_AND_MASK,
    REMOVE: (*IMAGE_AND_MASK, (IMAGE, "MASK_IMAGE")),
    ENHANCE: IMAGE_AND_MASK[1:],
    REFINE: IMAGE_AND_MASK[1:],
    CONVERT: IMAGE_AND_MASK,
    SAVE: (),
    PREVIEW: (),
}
"""Type and name of each output."""


@dataclass(frozen=True, slots=True)
class NodeInput:
    """`type` is the name of one of ComfyUI's types, or the permitted values."""

    name: str
    type: str | tuple[str, ...]
    options: Mapping[str, Json] = field(default_factory=dict)
    required: bool = True

    @property
    def config(self) -> list[Json]:
        """The input as in /object_info and in errors."""
        kind = self.type if isinstance(self.type, str) else list(self.type)
        return [kind, dict(self.options)] if self.options else [kind]


@dataclass(frozen=True, slots=True)
class NodeType:
    name: str
    inputs: tuple[NodeInput, ...]

    @property
    def outputs(self) -> tuple[tuple[str, str], ...]:
        return OUTPUTS[self.name]

    @property
    def is_output(self) -> bool:
        """Whether ComfyUI keeps the node's images."""
        return not self.outputs

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
            "display_name": TEXTS[self.name][0],
            "description": TEXTS[self.name][1],
            "python_module": "bgpipe",
            "category": "image" if self.name in {LOAD, SAVE, PREVIEW} else "bgpipe",
            "output_node": self.is_output,
        }


def make_node_types(models: Sequence[str], images: Sequence[str] = ()) -> dict[str, NodeType]:
    """Return every node type by name; `models` and `images` are the values of their inputs."""
    inputs = {
        LOAD: (NodeInput("image", tuple(images), {"image_upload": True}),),
        REMOVE: (
            NodeInput("image", IMAGE),
            NodeInput("model", tuple(models), {"tooltip": "The model's weights."}),
            _number("sensitivity", 0.0, 1.0, 1.0, 0.01),
            _number("mask_blur", 0, 64),
            _number("mask_offset", -20, 20),
            _optional("invert_output", "BOOLEAN", default=False),
            _optional("refine_foreground", "BOOLEAN", default=False),
            _optional("background", ("Alpha", "Color"), "Alpha"),
            _optional("background_color", "COLORCODE", "#222222"),
        ),
        ENHANCE: (
            NodeInput("mask", MASK),
            _number("sensitivity", 0.0, 1.0, 1.0, 0.01),
            _number("mask_blur", 0, 64),
            _number("mask_offset", -64, 64),
            _number("smooth", 0, 128, 0.0, 0.5),
            _optional("fill_holes", "BOOLEAN", default=False),
            _optional("invert_output", "BOOLEAN", default=False),
        ),
        REFINE: (
            NodeInput("mask", MASK),
            _number("contrast", 0.1, 4, 1.0, 0.05),
            _number("dilate", 0, 64, 0.0, 0.05),
            _number("erode", 0, 64, 0.0, 0.05),
            _number("blur", 0, 10, 0.0, 0.1),
            _optional("smooth", "BOOLEAN", default=False),
            _optional("threshold", "BOOLEAN", default=False),
        ),
        CONVERT: (
            NodeInput("image", IMAGE, required=False),
            NodeInput("mask", MASK, required=False),
            _optional("mask_channel", ("alpha", "red", "green", "blue"), "alpha"),
        ),
        SAVE: (
            NodeInput("images", IMAGE),
            NodeInput("filename_prefix", "STRING", {"default": "ComfyUI"}),
        ),
        PREVIEW: (NodeInput("images", IMAGE),),
    }
    return {name: NodeType(name, each) for name, each in inputs.items()}


def _optional(name: str, type_: str | tuple[str, ...], default: Json) -> NodeInput:
    return NodeInput(name, type_, {"default": default}, required=False)


def _number(
    name: str, minimum: float, maximum: float, default: float = 0, step: float = 1
) -> NodeInput:
    options = {"default": default, "min": minimum, "max": maximum, "step": step}
    return NodeInput(name, "INT" if step == 1 else "FLOAT", options, required=False)
