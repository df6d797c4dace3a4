"""The supported node types, with the names and ranges of ComfyUI's and ComfyUI-RMBG's inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = Any
"""The result of a JSON parser."""

IMAGE, MASK, MODEL = "IMAGE", "MASK", "BACKGROUND_REMOVAL"
LINKS = frozenset((IMAGE, MASK, MODEL))
"""Types of inputs that only a link can provide."""

LOAD, REMOVE, REMOVE_RMBG = "LoadImage", "BiRefNetRMBG", "RMBG"
LOAD_MODEL, REMOVE_CORE = "LoadBackgroundRemovalModel", "RemoveBackground"
ENHANCE, CONVERT = "AILab_MaskEnhancer", "AILab_ImageMaskConvert"
INVERT, JOIN, SPLIT = "InvertMask", "JoinImageWithAlpha", "SplitImageWithAlpha"
TO_IMAGE, SCALE = "MaskToImage", "ImageScale"
SAVE, PREVIEW, PREVIEW_MASK = "SaveImage", "PreviewImage", "MaskPreview"
OUTPUT_NODES = frozenset((SAVE, PREVIEW, PREVIEW_MASK))
REMOVERS = frozenset((REMOVE, REMOVE_RMBG, REMOVE_CORE))
RMBG_MODELS = frozenset(("RMBG-2.0", "INSPYRENET", "BEN", "BEN2"))
"""What the node RMBG of ComfyUI-RMBG offers."""
WEIGHTS = ".safetensors"
"""Suffix of the models that ComfyUI's own loader offers."""
DEFAULT_RESOLUTION = 1024
"""Stands for the size that the model was trained at."""
MAX_SIDE = 16384
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
    REMOVE_RMBG: (
        "Remove Background (RMBG)",
        "As BiRefNetRMBG; the settings say which model a name stands for.",
    ),
    LOAD_MODEL: ("Load Background Removal Model", "The model of a Remove Background node."),
    REMOVE_CORE: ("Remove Background", "The network's matte as a mask of the foreground."),
    INVERT: ("Invert Mask", "One minus the mask."),
    JOIN: ("Join Image with Alpha", "The image with one minus the mask as its alpha."),
    SPLIT: ("Split Image with Alpha", "The image's color, and one minus its alpha."),
    TO_IMAGE: ("Convert Mask to Image", "The mask in gray."),
    SCALE: ("Upscale Image", "The image as it is: width and height have to be 0."),
    SAVE: ("Save Image", "An RGBA PNG to keep."),
    PREVIEW: ("Preview Image", "A PNG to look at."),
    PREVIEW_MASK: ("Preview Mask", "The mask in gray, to look at."),
}
"""Display name and description of each node type."""
IMAGE_AND_MASK = ((IMAGE, "IMAGE"), (MASK, "MASK"))
OUTPUTS: Mapping[str, tuple[tuple[str, str], ...]] = {
    LOAD: IMAGE_AND_MASK,
    REMOVE: (*IMAGE_AND_MASK, (IMAGE, "MASK_IMAGE")),
    ENHANCE: IMAGE_AND_MASK[1:],
    REFINE: IMAGE_AND_MASK[1:],
    CONVERT: IMAGE_AND_MASK,
    REMOVE_RMBG: (*IMAGE_AND_MASK, (IMAGE, "MASK_IMAGE")),
    LOAD_MODEL: ((MODEL, "bg_model"),),
    REMOVE_CORE: ((MASK, "mask"),),
    INVERT: IMAGE_AND_MASK[1:],
    JOIN: IMAGE_AND_MASK[:1],
    SPLIT: IMAGE_AND_MASK,
    TO_IMAGE: IMAGE_AND_MASK[:1],
    SCALE: IMAGE_AND_MASK[:1],
    SAVE: (),
    PREVIEW: (),
    PREVIEW_MASK: ((MASK, "mask"),),
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
        """The input as in /object_info and in errors; newer nodes have their values in the options."""
        kind = self.type if isinstance(self.type, str) else list(self.type)
        if "options" in self.options:
            kind = "COMBO"
        return [kind, dict(self.options)] if self.options else [kind]


@dataclass(frozen=True, slots=True)
class NodeType:
    name: str
    inputs: tuple[NodeInput, ...]
    outputs: tuple[tuple[str, str], ...]

    @property
    def is_output(self) -> bool:
        """Whether ComfyUI keeps the node's images."""
        return self.name in OUTPUT_NODES

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
            "category": "image" if self.is_output or self.name == LOAD else "bgpipe",
            "output_node": self.is_output,
        }


def make_node_types(models: Mapping[str, str], images: Sequence[str] = ()) -> dict[str, NodeType]:
    """Return every node type by name.

    The names of `models`, of which each means one of bgpipe's, and `images` are values of inputs.
    """
    files = tuple(sorted(name for name in models if name.endswith(WEIGHTS)))
    rmbg = tuple(name for name in models if name in RMBG_MODELS)
    birefnet = tuple(name for name in models if name not in {*files, *rmbg})
    offered = {"options": list(files), "tooltip": _meanings(files, models)}
    methods = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
    image, mask = NodeInput("image", IMAGE), NodeInput("mask", MASK)
    saved = NodeInput("images", IMAGE)
    finish = (
        _optional("invert_output", "BOOLEAN", default=False),
        _optional("refine_foreground", "BOOLEAN", default=False),
        _optional("background", ("Alpha", "Color"), "Alpha"),
        _optional("background_color", "COLORCODE", "#222222"),
    )
    inputs = {
        LOAD: (NodeInput("image", tuple(images), {"image_upload": True}),),
        REMOVE: (
            image,
            NodeInput("model", birefnet, {"tooltip": _meanings(birefnet, models)}),
            _number("sensitivity", 0.0, 1.0, 1.0, 0.01),
            _number("mask_blur", 0, 64),
            _number("mask_offset", -20, 20),
            *finish,
        ),
        REMOVE_RMBG: (
            image,
            NodeInput("model", rmbg, {"tooltip": _meanings(rmbg, models)}),
            _number("sensitivity", 0.0, 1.0, 1.0, 0.01),
            _number("process_res", 256, 2048, DEFAULT_RESOLUTION, 8),
            _number("mask_blur", 0, 64),
            _number("mask_offset", -64, 64),
            *finish,
        ),
        LOAD_MODEL: (NodeInput("bg_removal_name", files, offered),),
        REMOVE_CORE: (
            NodeInput("bg_removal_model", MODEL),
            image,
            _number("resolution", 256, 4096, DEFAULT_RESOLUTION, 32),
        ),
        INVERT: (mask,),
        JOIN: (image, NodeInput("alpha", MASK)),
        SPLIT: (image,),
        TO_IMAGE: (mask,),
        SCALE: (
            image,
            NodeInput("upscale_method", methods),
            _number("width", 0, MAX_SIDE, 512, required=True),
            _number("height", 0, MAX_SIDE, 512, required=True),
            NodeInput("crop", ("disabled", "center")),
        ),
        ENHANCE: (
            mask,
            _number("sensitivity", 0.0, 1.0, 1.0, 0.01),
            _number("mask_blur", 0, 64),
            _number("mask_offset", -64, 64),
            _number("smooth", 0, 128, 0.0, 0.5),
            _optional("fill_holes", "BOOLEAN", default=False),
            _optional("invert_output", "BOOLEAN", default=False),
        ),
        REFINE: (
            mask,
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
        SAVE: (saved, NodeInput("filename_prefix", "STRING", {"default": "ComfyUI"})),
        PREVIEW: (saved,),
        PREVIEW_MASK: (mask,),
    }
    return {name: NodeType(name, each, OUTPUTS[name]) for name, each in inputs.items()}


def _meanings(names: Sequence[str], models: Mapping[str, str]) -> str:
    return "The model's weights: " + ", ".join(f"{name} is {models[name]}" for name in names)


def _optional(name: str, type_: str | tuple[str, ...], default: Json) -> NodeInput:
    return NodeInput(name, type_, {"default": default}, required=False)


def _number(
    name: str,
    minimum: float,
    maximum: float,
    default: float = 0,
    step: float = 1,
    *,
    required: bool = False,
) -> NodeInput:
    options = {"default": default, "min": minimum, "max": maximum, "step": step}
    return NodeInput(name, "INT" if isinstance(default, int) else "FLOAT", options, required)
