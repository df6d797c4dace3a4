"""Presets: validated values that refine a matte and finish a cutout."""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Enhancement:
    """One pass of ComfyUI-RMBG's mask enhancer, with its names and ranges. Lengths are pixels.

    `bgpipe.pipeline.matting.mask_enhancer` applies it.

    Raises pydantic.ValidationError if a value is out of range.
    """

    sensitivity: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The mask is multiplied by 2 - sensitivity."""
    smooth: Annotated[float, Field(ge=0, le=128)] = 0.0
    """Sigma of a Gaussian between two thresholds at 0.5: the mask becomes binary."""
    fill_holes: bool = False
    mask_blur: Annotated[int, Field(ge=0, le=64)] = 0
    """Sigma of a Gaussian."""
    mask_offset: Annotated[int, Field(ge=-64, le=64)] = 0
    """Dilation by a square, or erosion if negative."""
    invert: bool = False


Radius = Annotated[float, Field(ge=0, le=64)]
Anchor = Literal["middle", "top", "bottom", "left", "right"]
_SIZE = r"[1-9]\d{0,3}"
COLOR = "#[0-9a-fA-F]{6}|white|black"
BLUR = "blur:"
"""Begins a background that is the photo itself, blurred."""
BACKGROUND = rf"{COLOR}|{BLUR}[1-9]\d{{0,2}}"


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Preset:
    """Lengths are pixels of the original image; `bgpipe.pipeline.matting` applies the values.

    Raises pydantic.ValidationError if a value is out of range.
    """

    guided: bool = False
    """Follow the image's edges if it has more pixels than the network's matte."""
    contrast: Annotated[float, Field(ge=0.1, le=4)] = 1.0
    dilate: Radius = 0.0
    erode: Radius = 0.0
    blur: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Sigma of a Gaussian."""
    smooth: bool = False
    """Smooth the edge but keep fine strands: by `blur`, or by one pixel if that is 0."""
    threshold: bool = False
    """Binarize the matte at 0.5."""
    fill_holes: bool = False
    invert: bool = False
    foreground: bool = True
    """Estimate the subject's color where it mixes with the background."""
    crop: bool = False
    """Crop to the subject; faint pixels and specks do not count."""
    margin: Annotated[float, Field(ge=0, le=100)] = 0.0
    """On every side, in percent of the longer side after `crop`."""
    canvas: Annotated[
        str,
        Field(
            pattern=rf"^({_SIZE}[x:]{_SIZE})?$", description="WIDTHxHEIGHT, WIDTH:HEIGHT or empty"
        ),
    ] = ""
    """`2000x2000`: scaled to fit into that size; `4:5`: extended to that aspect ratio."""
    place: Anchor = "middle"
    """Position on the canvas."""
    background: Annotated[
        str,
        Field(
            pattern=f"^({BACKGROUND})?$", description="white, black, #RRGGBB, blur:RADIUS or empty"
        ),
    ] = ""
    """Color behind the subject, in sRGB, or the photo blurred by a Gaussian of this sigma, in pixels of the
    photo; empty: transparent."""
    shadow: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Opacity of a soft shadow on the ground below the subject."""
    enhance: tuple[Enhancement, ...] = ()
    """A workflow's mask enhancers, applied to the matte before everything above."""
    size: Annotated[
        str, Field(pattern=rf"^({_SIZE}x{_SIZE})?$", description="WIDTHxHEIGHT or empty")
    ] = ""
    """Scaled to fit into that size, without a margin around it."""
    enlarge: bool = False
    """`size` may enlarge too."""
    outline: Annotated[
        str,
        Field(
            pattern=rf"^([1-9]\d{{0,2}}:({COLOR}))?$",
            description="WIDTH:COLOR, as 8:white, or empty",
        ),
    ] = ""
    """Around the subject, in pixels of the result."""


class FinishOptions(BaseModel):
    """The fields of Preset that a sweep and a named output set alike; None: the preset's value."""

    crop: bool | None = None
    margin: float | None = None
    canvas: str | None = None
    place: Anchor | None = None
    background: str | None = None
    """A color, blur:RADIUS, or the path of an image."""
    shadow: float | None = None
    size: str | None = None
    enlarge: bool | None = None
    outline: str | None = None


def without_finish(preset: Preset) -> Preset:
    """Return the preset with the values that make the cutout itself, and defaults for its finish."""
    plain = Preset()
    return replace(preset, **{name: getattr(plain, name) for name in FinishOptions.model_fields})
