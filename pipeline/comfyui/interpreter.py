"""The outputs of a graph as cutouts: each of one photo, by one model and one preset.

A preset starts without refinement: a graph that sets nothing yields the network's own alpha. Where an
image and a mask meet in a convert node, the mask becomes the image's alpha, which such graphs intend.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace

from bgpipe.config.presets import Enhancement
from bgpipe.pipeline.comfyui import node_types
from bgpipe.pipeline.comfyui.graph import (
    Graph,
    HasImage,
    Json,
    ValidatedGraph,
    WorkflowError,
    failed_outputs,
    unsupported_input,
    validate_graph,
)
from bgpipe.pipeline.comfyui.ui_format import is_ui_format, to_graph
from bgpipe.pipeline.types import Preset

COLOR = re.compile(r"(#[0-9a-fA-F]{6})(ff)?")
REFINEMENT = ("contrast", "dilate", "erode", "blur", "smooth", "threshold")
ENHANCEMENT = ("sensitivity", "smooth", "fill_holes", "mask_blur", "mask_offset")
PREFIX_LENGTH = 200
CUT = re.compile(r'"(@\{|System\.(Collections|Object))')
"""What PowerShell writes for whatever is deeper than it converts: two levels by default."""
CUT_HINT = "the JSON is cut: convert it with ConvertTo-Json -Depth 20"

_PART = r"(?![. ])[\w .-]+(?<! )"
_PREFIX = re.compile(rf"{_PART}(/{_PART})*")


@dataclass(frozen=True, slots=True)
class CutoutSpec:
    """A photo, or its cutout.

    `model` is bgpipe's name of a model; empty for the photo itself. `is_mask`: the alpha alone, in gray.
    `resolution` is the side of the model's input; 0: the size that it was trained at.
    """

    photo: str
    model: str = ""
    preset: Preset = field(default_factory=Preset)
    is_mask: bool = False
    resolution: int = 0

    @property
    def is_inverted(self) -> bool:
        inversions = [self.preset.invert, *(step.invert for step in self.preset.enhance)]
        return sum(inversions) % 2 == 1

    @property
    def is_cutout(self) -> bool:
        """Whether it has a matte as its alpha."""
        return bool(self.model) and not self.is_mask and not self.preset.background


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
    document: Json, models: Mapping[str, str], has_image: HasImage = None
) -> Workflow:
    """Read a workflow in API format or in UI format.

    `models`: name in a graph -> bgpipe's name.

    Raises WorkflowError if it is invalid, or an output that it saves is not supported.
    """
    try:
        graph = to_graph(document) if is_ui_format(document) else document
        return _read_graph(graph, models, has_image)
    except WorkflowError as error:
        if not CUT.search(json.dumps(document)):
            raise
        raise WorkflowError(
            error.type, error.message, error.details, error.nodes, CUT_HINT
        ) from error


def _read_graph(graph: Json, models: Mapping[str, str], has_image: HasImage) -> Workflow:
    validated = validate_graph(graph, node_types.make_node_types(models), has_image)
    interpreter = _Interpreter(validated, models)
    supported: list[OutputNode] = []
    for node in validated.valid_outputs:
        try:
            supported.append(interpreter.read_output(node))
        except _Unsupported as unsupported:
            validated.add_error(unsupported.node, unsupported.error, node)
    saved = {name for name, kind in validated.types.items() if kind.name == node_types.SAVE}
    if not supported or not saved <= set(validated.valid_outputs):
        raise failed_outputs(validated)
    errors = {name: asdict(node) for name, node in validated.invalid.items()}
    return Workflow(graph, tuple(supported), errors)


class _Unsupported(Exception):
    """An input of a node is not supported."""

    def __init__(self, node: str, input_: str, reason: str) -> None:
        super().__init__(reason)
        self.node = node
        self.error = unsupported_input(input_, reason, {})


class _Interpreter:
    """Follows the links from an output back to its photo."""

    def __init__(self, validated: ValidatedGraph, models: Mapping[str, str]) -> None:
        self._validated = validated
        self._models = models
        self._specs: dict[tuple[str, int], CutoutSpec] = {}
        self._readers: dict[str, Callable[[str, int], CutoutSpec]] = {
            node_types.LOAD: self._read_load,
            node_types.REMOVE: self._read_remove,
            node_types.REMOVE_RMBG: self._read_remove,
            node_types.REMOVE_CORE: self._read_remove_core,
            node_types.INVERT: lambda node, _: _invert(self._read_input(node, "mask")),
            node_types.JOIN: self._read_join,
            node_types.SPLIT: self._read_split,
            node_types.TO_IMAGE: self._read_mask_as_image,
            node_types.PREVIEW_MASK: lambda node, _: self._read_input(node, "mask"),
            node_types.SCALE: self._read_scale,
            node_types.ENHANCE: self._read_mask,
            node_types.REFINE: self._read_mask,
            node_types.CONVERT: self._read_convert,
        }

    def read_output(self, node: str) -> OutputNode:
        if self._validated.types[node].name == node_types.PREVIEW_MASK:
            return OutputNode(node, self._read_mask_as_image(node, 0), "", is_saved=False)
        spec = self._read_input(node, "images")
        if not spec.model:
            raise _Unsupported(node, "images", "no node removes the background of this image")
        if self._validated.types[node].name != node_types.SAVE:
            return OutputNode(node, spec, "", is_saved=False)
        # It may have folders and never leaves them.
        prefix: str = self._validated.values[node]["filename_prefix"]
        if len(prefix) > PREFIX_LENGTH or not _PREFIX.fullmatch(prefix):
            reason = f"use letters, digits, ., _, - and spaces: {prefix!r}"
            raise _Unsupported(node, "filename_prefix", reason)
        return OutputNode(node, spec, prefix, is_saved=True)

    def _read_input(self, node: str, input_: str) -> CutoutSpec:
        origin, slot = self._validated.values[node][input_]
        if (origin, slot) not in self._specs:  # cached: shared nodes would be read repeatedly
            read = self._readers[self._validated.types[origin].name]
            self._specs[origin, slot] = read(origin, slot)
        return self._specs[origin, slot]

    def _read_load(self, node: str, slot: int) -> CutoutSpec:
        if slot != 0:
            raise _Unsupported(node, "image", "the photo's own alpha cannot be used as a mask")
        return CutoutSpec(self._validated.values[node]["image"])

    def _read_remove(self, node: str, slot: int) -> CutoutSpec:
        values = self._validated.values[node]
        image = self._read_photo(node)
        preset = Preset(foreground=values["refine_foreground"])
        if self._validated.types[node].name == node_types.REMOVE_RMBG:  # which applies it twice
            twice = {"sensitivity": values["sensitivity"], "invert_output": False}
            preset = _add_enhancement(preset, twice)
        preset = _add_enhancement(preset, values)
        if values["background"] == "Color":
            color = COLOR.fullmatch(values["background_color"])
            if not color:
                reason = f"write it as #rrggbb: {values['background_color']!r}"
                raise _Unsupported(node, "background_color", reason)
            preset = replace(preset, background=color[1])
        model, resolution = self._models[values["model"]], _resolution(values.get("process_res", 0))
        return CutoutSpec(image.photo, model, preset, slot == 2, resolution)

    def _read_remove_core(self, node: str, _slot: int) -> CutoutSpec:
        values = self._validated.values[node]
        loader, _ = values["bg_removal_model"]
        model = self._models[self._validated.values[loader]["bg_removal_name"]]
        resolution = _resolution(values["resolution"])
        photo = self._read_photo(node).photo
        return CutoutSpec(photo, model, Preset(foreground=False), resolution=resolution)

    def _read_photo(self, node: str) -> CutoutSpec:
        image = self._read_input(node, "image")
        if image.model:
            raise _Unsupported(node, "image", "its background is removed already")
        return image

    def _read_mask_as_image(self, node: str, _slot: int) -> CutoutSpec:
        return replace(self._read_input(node, "mask"), is_mask=True)

    def _read_join(self, node: str, _slot: int) -> CutoutSpec:
        image, alpha = self._read_input(node, "image"), self._read_input(node, "alpha")
        if image.model and not image.is_cutout:
            raise _Unsupported(node, "image", "only a photo or a cutout can be given an alpha")
        return replace(_join_mask(node, "alpha", image, _invert(alpha)), is_mask=False)

    def _read_split(self, node: str, slot: int) -> CutoutSpec:
        image = self._read_input(node, "image")
        if not image.is_cutout:
            raise _Unsupported(node, "image", "only a cutout has an alpha")
        if slot == 1:
            return _invert(image)
        if image.preset.foreground:
            raise _Unsupported(node, "image", "its color is estimated for its own alpha only")
        return CutoutSpec(image.photo)

    def _read_scale(self, node: str, _slot: int) -> CutoutSpec:
        values = self._validated.values[node]
        for side in ("width", "height"):
            if values[side]:
                raise _Unsupported(node, side, "images keep their size: set it to 0")
        return self._read_input(node, "image")

    def _read_mask(self, node: str, _slot: int) -> CutoutSpec:
        values, mask = self._validated.values[node], self._read_input(node, "mask")
        if _is_refined(mask.preset):
            raise _Unsupported(node, "mask", "the mask is refined already: enhance it before")
        if self._validated.types[node].name == node_types.ENHANCE:
            return replace(mask, preset=_add_enhancement(mask.preset, values))
        refinement = {name: values[name] for name in REFINEMENT}
        guided = Preset(**refinement) != Preset()  # as in the presets that refine
        return replace(mask, preset=replace(mask.preset, guided=guided, **refinement))

    def _read_convert(self, node: str, slot: int) -> CutoutSpec:
        values = self._validated.values[node]
        image = self._read_input(node, "image") if "image" in values else None
        mask = self._read_input(node, "mask") if "mask" in values else None
        if image and mask:
            return replace(_join_mask(node, "mask", image, mask), is_mask=False)
        if mask:
            return replace(mask, is_mask=slot == 0)
        if image is None:
            raise _Unsupported(node, "image", "neither an image nor a mask is connected")
        if slot == 1 and (values["mask_channel"] != "alpha" or image.is_mask):
            raise _Unsupported(node, "mask_channel", "only the alpha of an image is a mask")
        return image


def _join_mask(node: str, input_: str, image: CutoutSpec, mask: CutoutSpec) -> CutoutSpec:
    origins = [(each.photo, each.model, each.resolution) for each in (image, mask)]
    if image.photo != mask.photo or (image.model and len(set(origins)) > 1):
        raise _Unsupported(node, input_, "image and mask come from different nodes")
    if not image.model:
        return replace(mask, preset=replace(mask.preset, background=""))
    background, foreground = image.preset.background, image.preset.foreground
    return replace(mask, preset=replace(mask.preset, background=background, foreground=foreground))


def _resolution(side: int) -> int:
    return 0 if side == node_types.DEFAULT_RESOLUTION else side


def _is_refined(preset: Preset) -> bool:
    return any(getattr(preset, name) != getattr(Preset(), name) for name in REFINEMENT)


def _invert(mask: CutoutSpec) -> CutoutSpec:
    """Return one minus the mask; twice is not at all."""
    preset, inversion = mask.preset, Enhancement(invert=True)
    if _is_refined(preset):  # inverted after, enhanced before
        preset = replace(preset, invert=not preset.invert)
    elif preset.enhance[-1:] == (inversion,):
        preset = replace(preset, enhance=preset.enhance[:-1])
    else:
        preset = replace(preset, enhance=(*preset.enhance, inversion))
    return replace(mask, preset=preset)


def _add_enhancement(preset: Preset, values: Mapping[str, Json]) -> Preset:
    given = {name: values[name] for name in ENHANCEMENT if name in values}
    enhancement = Enhancement(**given, invert=values["invert_output"])
    is_none = enhancement == Enhancement()
    return preset if is_none else replace(preset, enhance=(*preset.enhance, enhancement))
