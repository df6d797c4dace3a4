"""The outputs of a graph as cutouts: each of one photo, by one model and one preset.

A preset starts without refinement: a graph that sets nothing yields the network's own alpha. Where an
image and a mask meet in a convert node, the mask becomes the image's alpha, which such graphs intend.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from bgpipe.config.presets import Enhancement
from bgpipe.pipeline.comfyui import node_types
from bgpipe.pipeline.comfyui.graph import Graph, Json, NodeError, node_errors
from bgpipe.pipeline.comfyui.ui_format import is_ui_format, to_graph
from bgpipe.pipeline.comfyui.validation import ValidatedGraph, failed_outputs, validate_graph
from bgpipe.pipeline.types import Preset

COLOR = re.compile(r"#[0-9a-fA-F]{6}")
REFINEMENT = ("contrast", "dilate", "erode", "blur", "smooth", "threshold")
PREFIX_LENGTH = 200


@dataclass(frozen=True, slots=True)
class CutoutSpec:
    """A photo, or its cutout.

    `model` is bgpipe's name of a model; empty for the photo itself. `is_mask`: the alpha alone, in gray.
    """

    photo: str
    model: str = ""
    preset: Preset = field(default_factory=Preset)
    is_mask: bool = False


@dataclass(frozen=True, slots=True)
class OutputNode:
    """An output node and its cutout. `prefix` starts its file's name; empty for a preview."""

    node: str
    spec: CutoutSpec
    prefix: str
    is_saved: bool


@dataclass(frozen=True, slots=True)
class Workflow:
    """A graph and its supported outputs."""

    graph: Graph
    outputs: tuple[OutputNode, ...]
    errors: Mapping[str, Json]
    """Node id -> ComfyUI's errors, of unsupported previews."""

    @property
    def main(self) -> OutputNode | None:
        """The only cutout that is saved, or previewed if none is saved; None for several."""
        outputs = [output for output in self.outputs if output.is_saved] or self.outputs
        return outputs[0] if len({output.spec for output in outputs}) == 1 else None


def read_workflow(
    document: Json, models: Mapping[str, str], has_image: Callable[[str], bool] | None = None
) -> Workflow:
    """Read a workflow in API format or in UI format.

    `models`: name in a graph -> bgpipe's name. `has_image`: see `validate_graph`.

    Raises:
        WorkflowError: it is invalid, or an output that it saves is not supported.

    """
    graph = to_graph(document) if is_ui_format(document) else document
    validated = validate_graph(graph, node_types.make_node_types(tuple(models)), has_image)
    interpreter = _Interpreter(validated, models)
    outputs = [interpreter.read_output(node) for node in validated.valid_outputs]
    supported = [output for output in outputs if output]
    saved = [
        node for node in validated.output_nodes if validated.type_name(node) == node_types.SAVE
    ]
    if not supported or not set(saved) <= set(validated.valid_outputs):
        raise failed_outputs(validated)
    return Workflow(graph, tuple(supported), node_errors(validated.invalid))


class _Unsupported(Exception):
    """An input of a node is not supported."""

    def __init__(self, node: str, input_: str, reason: str) -> None:
        super().__init__(reason)
        self.node = node
        details = f"{input_} - {reason}"
        message = "Custom validation failed for node"
        self.error = NodeError("custom_validation_failed", message, details, {"input_name": input_})


class _Interpreter:
    """Follows the links from an output back to its photo."""

    def __init__(self, validated: ValidatedGraph, models: Mapping[str, str]) -> None:
        self._validated = validated
        self._models = models
        self._specs: dict[tuple[str, int], CutoutSpec] = {}
        self._readers: dict[str, Callable[[str, int], CutoutSpec]] = {
            node_types.LOAD: self._read_load,
            node_types.REMOVE: self._read_remove,
            node_types.ENHANCE: self._read_enhance,
            node_types.REFINE: self._read_refine,
            node_types.CONVERT: self._read_convert,
        }

    def read_output(self, node: str) -> OutputNode | None:
        """Return the node's output, or None and record an error if it is not supported."""
        try:
            spec = self._read_cutout(node)
            is_saved = self._validated.type_name(node) == node_types.SAVE
            return OutputNode(node, spec, self._prefix(node) if is_saved else "", is_saved)
        except _Unsupported as error:
            self._validated.add_error(error.node, error.error, node)
            return None

    def _read_cutout(self, node: str) -> CutoutSpec:
        spec = self._read_input(node, "images")
        if not spec.model:
            raise _Unsupported(node, "images", "no node removes the background of this image")
        return spec

    def _prefix(self, node: str) -> str:
        """Return the start of the file's name, which may have folders and never leaves them."""
        prefix: str = self._validated.values[node]["filename_prefix"]
        if not 0 < len(prefix) <= PREFIX_LENGTH or not all(map(_is_plain, prefix.split("/"))):
            raise _Unsupported(
                node, "filename_prefix", f"use letters, digits, ., _, - and spaces: {prefix!r}"
            )
        return prefix

    def _read_input(self, node: str, input_: str) -> CutoutSpec:
        origin, slot = self._validated.values[node][input_]
        if (origin, slot) not in self._specs:  # cached: shared nodes would be read repeatedly
            read = self._readers[self._validated.type_name(origin)]
            self._specs[origin, slot] = read(origin, slot)
        return self._specs[origin, slot]

    def _read_load(self, node: str, slot: int) -> CutoutSpec:
        if slot != 0:
            raise _Unsupported(node, "image", "the photo's own alpha cannot be used as a mask")
        return CutoutSpec(self._validated.values[node]["image"])

    def _read_remove(self, node: str, slot: int) -> CutoutSpec:
        values = self._validated.values[node]
        image = self._read_input(node, "image")
        if image.model:
            raise _Unsupported(node, "image", "its background is removed already")
        enhancement = Enhancement(
            sensitivity=values["sensitivity"],
            mask_blur=values["mask_blur"],
            mask_offset=values["mask_offset"],
            invert=values["invert_output"],
        )
        preset = _add_enhancement(Preset(foreground=values["refine_foreground"]), enhancement)
        if values["background"] == "Color":
            preset = replace(preset, background=_opaque_color(node, values["background_color"]))
        return CutoutSpec(image.photo, self._models[values["model"]], preset, is_mask=slot == 2)

    def _read_enhance(self, node: str, _slot: int) -> CutoutSpec:
        values, mask = self._validated.values[node], self._read_input(node, "mask")
        if _is_refined(mask.preset):
            raise _Unsupported(node, "mask", "the mask is refined already: enhance it before")
        enhancement = Enhancement(
            sensitivity=values["sensitivity"],
            smooth=values["smooth"],
            fill_holes=values["fill_holes"],
            mask_blur=values["mask_blur"],
            mask_offset=values["mask_offset"],
            invert=values["invert_output"],
        )
        return replace(mask, preset=_add_enhancement(mask.preset, enhancement))

    def _read_refine(self, node: str, _slot: int) -> CutoutSpec:
        values, mask = self._validated.values[node], self._read_input(node, "mask")
        if _is_refined(mask.preset):
            raise _Unsupported(node, "mask", "the mask is refined already")
        refinement = {name: values[name] for name in REFINEMENT}
        guided = Preset(**refinement) != Preset()  # as in the presets that refine
        return replace(mask, preset=replace(mask.preset, guided=guided, **refinement))

    def _read_convert(self, node: str, slot: int) -> CutoutSpec:
        values = self._validated.values[node]
        image = self._read_input(node, "image") if "image" in values else None
        mask = self._read_input(node, "mask") if "mask" in values else None
        if image and mask:
            return replace(_join_mask(node, image, mask), is_mask=False)
        if mask:
            return replace(mask, is_mask=slot == 0)
        if image is None:
            raise _Unsupported(node, "image", "neither an image nor a mask is connected")
        if slot == 1 and (values["mask_channel"] != "alpha" or image.is_mask):
            raise _Unsupported(node, "mask_channel", "only the alpha of an image is a mask")
        return image


def _join_mask(node: str, image: CutoutSpec, mask: CutoutSpec) -> CutoutSpec:
    if image.photo != mask.photo or (image.model and image.model != mask.model):
        raise _Unsupported(node, "mask", "image and mask come from different nodes")
    if not image.model:
        return mask
    background, foreground = image.preset.background, image.preset.foreground
    return replace(mask, preset=replace(mask.preset, background=background, foreground=foreground))


def _opaque_color(node: str, color: str) -> str:
    opaque = color.removesuffix("ff") if len(color) == 9 else color
    if not COLOR.fullmatch(opaque):
        raise _Unsupported(node, "background_color", f"write it as #rrggbb: {color!r}")
    return opaque


def _add_enhancement(preset: Preset, enhancement: Enhancement) -> Preset:
    if enhancement == Enhancement():
        return preset
    return replace(preset, enhance=(*preset.enhance, enhancement))


def _is_refined(preset: Preset) -> bool:
    return any(getattr(preset, name) != getattr(Preset(), name) for name in REFINEMENT)


def _is_plain(part: str) -> bool:
    """Whether a part of a path is a file name of plain characters."""
    is_safe = re.fullmatch(r"[\w .-]+", part) and not part.startswith(".")
    return bool(is_safe) and part.strip() == part
