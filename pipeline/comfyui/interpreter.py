"""What the outputs of a graph are: views of a photo, by one model and one preset.

Presets begin without any refinement, so that a graph with nothing set gives the network's own alpha.
An image and a mask that meet in a convert node are joined: the mask becomes the image's alpha, which
is what such graphs were drawn for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from bgpipe.config.presets import Enhancement
from bgpipe.pipeline.comfyui import node_types
from bgpipe.pipeline.comfyui.graph import Graph, Json, NodeError, node_errors
from bgpipe.pipeline.comfyui.node_types import make_node_types
from bgpipe.pipeline.comfyui.ui_format import is_ui_format, to_graph
from bgpipe.pipeline.comfyui.validation import ValidatedGraph, failed_outputs, validate_graph
from bgpipe.pipeline.types import Preset

COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
REFINED = ("contrast", "dilate", "erode", "blur", "smooth", "threshold")


@dataclass(frozen=True, slots=True)
class CutoutSpec:
    """A photo, or what is made of it.

    `model` is bgpipe's name of one; empty: the photo as it is. `is_mask`: the alpha alone, as grey.
    """

    photo: str
    model: str = ""
    preset: Preset = field(default_factory=Preset)
    is_mask: bool = False


@dataclass(frozen=True, slots=True)
class OutputNode:
    """What an output node keeps. `prefix` begins its file's name; empty for a preview."""

    node: str
    spec: CutoutSpec
    prefix: str
    is_saved: bool


@dataclass(frozen=True, slots=True)
class Workflow:
    """A graph, and the outputs that it has."""

    graph: Graph
    outputs: tuple[OutputNode, ...]
    errors: Mapping[str, Json]
    """Node id -> ComfyUI's errors, of previews that cannot be had."""

    @property
    def main(self) -> OutputNode | None:
        """The only thing that it saves, or shows if it saves nothing; None if there are several."""
        kept = [output for output in self.outputs if output.is_saved] or self.outputs
        views = {output.spec for output in kept}
        return kept[0] if len(views) == 1 else None


def read_workflow(
    document: Json, models: Mapping[str, str], has_image: Callable[[str], bool] | None = None
) -> Workflow:
    """Read a workflow in API format or in UI format.

    `models`: the name in a graph -> bgpipe's. `has_image`: as of `check`.

    Raises:
        Refused: it is none, or something that it saves cannot be had.

    """
    graph = to_graph(document) if is_ui_format(document) else document
    checked = validate_graph(graph, make_node_types(tuple(models)), has_image)
    reader = _Interpreter(checked, models)
    outputs = [reader.output(node) for node in checked.outputs]
    kept = [output for output in outputs if output]
    saves = [node for node in checked.ends if checked.types[node].name == node_types.SAVE]
    if not kept or any(node not in checked.outputs for node in saves):
        raise failed_outputs(checked)
    return Workflow(graph, tuple(kept), node_errors(checked.bad))


class _Impossible(Exception):
    """What a node asks for cannot be had."""

    def __init__(self, node: str, input_: str, reason: str) -> None:
        super().__init__(reason)
        self.node = node
        details = f"{input_} - {reason}"
        message = "Custom validation failed for node"
        self.error = NodeError("custom_validation_failed", message, details, {"input_name": input_})


class _Interpreter:
    """Follows the links from an output back to its photo."""

    def __init__(self, checked: ValidatedGraph, models: Mapping[str, str]) -> None:
        self._checked = checked
        self._models = models
        self._views: dict[tuple[str, int], CutoutSpec] = {}
        self._readers: dict[str, Callable[[str, int], CutoutSpec]] = {
            node_types.LOAD: self._loaded,
            node_types.REMOVE: self._removed,
            node_types.ENHANCE: self._enhanced,
            node_types.REFINE: self._refined,
            node_types.CONVERT: self._converted,
        }

    def output(self, node: str) -> OutputNode | None:
        """What the output node keeps; None if that cannot be had, and the reason is noted."""
        try:
            return OutputNode(node, self._shown(node), self._prefix(node), self._is_save(node))
        except _Impossible as error:
            self._checked.add_error(error.node, error.error, node)
            return None

    def _shown(self, node: str) -> CutoutSpec:
        view = self._source(node, "images")
        if not view.model:
            raise _Impossible(node, "images", "no background is removed on the way here")
        return view

    def _is_save(self, node: str) -> bool:
        return self._checked.types[node].name == node_types.SAVE

    def _prefix(self, node: str) -> str:
        """The name's beginning, which may have folders and never leaves them."""
        if not self._is_save(node):
            return ""
        prefix: str = self._checked.values[node]["filename_prefix"]
        parts = prefix.split("/")
        if not prefix or len(prefix) > 200 or any(not _is_plain(part) for part in parts):
            raise _Impossible(
                node, "filename_prefix", f"use letters, digits, ., _, - and spaces: {prefix!r}"
            )
        return prefix

    def _source(self, node: str, input_: str) -> CutoutSpec:
        origin, slot = self._checked.values[node][input_]
        if (origin, slot) not in self._views:  # else a node that is used twice were read twice
            reader = self._readers[self._checked.types[origin].name]
            self._views[origin, slot] = reader(origin, slot)
        return self._views[origin, slot]

    def _loaded(self, node: str, slot: int) -> CutoutSpec:
        if slot != 0:
            raise _Impossible(node, "image", "the photo's own alpha is no mask to go on with")
        return CutoutSpec(self._checked.values[node]["image"])

    def _removed(self, node: str, slot: int) -> CutoutSpec:
        values = self._checked.values[node]
        photo = self._source(node, "image")
        if photo.model:
            raise _Impossible(node, "image", "its background is removed already")
        step = Enhancement(
            sensitivity=values["sensitivity"],
            mask_blur=values["mask_blur"],
            mask_offset=values["mask_offset"],
            invert=values["invert_output"],
        )
        preset = _enhanced(Preset(foreground=values["refine_foreground"]), step)
        if values["background"] == "Color":
            preset = replace(preset, background=self._colour(node, values["background_color"]))
        return CutoutSpec(photo.photo, self._models[values["model"]], preset, is_mask=slot == 2)

    def _colour(self, node: str, colour: str) -> str:
        opaque = colour.removesuffix("ff") if len(colour) == 9 else colour
        if not COLOUR.fullmatch(opaque):
            raise _Impossible(node, "background_color", f"write it as #rrggbb: {colour!r}")
        return opaque

    def _enhanced(self, node: str, _slot: int) -> CutoutSpec:
        values, mask = self._checked.values[node], self._source(node, "mask")
        if any(getattr(mask.preset, name) != getattr(Preset(), name) for name in REFINED):
            raise _Impossible(
                node, "mask", "a refined mask cannot be enhanced: the other way round"
            )
        step = Enhancement(
            sensitivity=values["sensitivity"],
            smooth=values["smooth"],
            fill_holes=values["fill_holes"],
            mask_blur=values["mask_blur"],
            mask_offset=values["mask_offset"],
            invert=values["invert_output"],
        )
        return replace(mask, preset=_enhanced(mask.preset, step))

    def _refined(self, node: str, _slot: int) -> CutoutSpec:
        values, mask = self._checked.values[node], self._source(node, "mask")
        if _is_refined(mask.preset):
            raise _Impossible(node, "mask", "it is refined already")
        named = {name: values[name] for name in REFINED}
        guided = Preset(**named) != Preset()  # as in the presets that refine anything
        return replace(mask, preset=replace(mask.preset, guided=guided, **named))

    def _converted(self, node: str, slot: int) -> CutoutSpec:
        given = self._checked.values[node]
        image = self._source(node, "image") if "image" in given else None
        mask = self._source(node, "mask") if "mask" in given else None
        if image and mask:
            return replace(self._joined(node, image, mask), is_mask=False)
        if mask:
            return replace(mask, is_mask=slot == 0)
        if image is None:
            raise _Impossible(node, "image", "neither an image nor a mask is connected")
        if slot == 1 and (given["mask_channel"] != "alpha" or image.is_mask):
            raise _Impossible(node, "mask_channel", "of an image only its alpha is a mask")
        return image

    def _joined(self, node: str, image: CutoutSpec, mask: CutoutSpec) -> CutoutSpec:
        if image.photo != mask.photo or (image.model and image.model != mask.model):
            raise _Impossible(node, "mask", "image and mask come from different nodes")
        if not image.model:
            return mask
        background, foreground = image.preset.background, image.preset.foreground
        return replace(
            mask, preset=replace(mask.preset, background=background, foreground=foreground)
        )


def _enhanced(preset: Preset, step: Enhancement) -> Preset:
    if step == Enhancement():
        return preset
    return replace(preset, enhance=(*preset.enhance, step))


def _is_refined(preset: Preset) -> bool:
    return any(getattr(preset, name) != getattr(Preset(), name) for name in REFINED)


def _is_plain(part: str) -> bool:
    """Whether a part of a path is nothing but a name."""
    return (
        bool(re.fullmatch(r"[\w .-]+", part)) and not part.startswith(".") and part.strip() == part
    )
