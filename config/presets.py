"""What the mask enhancer of ComfyUI-RMBG is told, by its own labels and in its own ranges.

How a matte is refined and a cutout finished: named values, checked wherever they come from.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Enhancement:
    """One pass; the maths is bgpipe.pipeline.matting.mask_enhancer's. Lengths are pixels.

    Raises:
        pydantic.ValidationError: a value is out of range.
    """

    sensitivity: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The mask is multiplied by two less this."""
    smooth: Annotated[float, Field(ge=0, le=128)] = 0.0
    """The sigma of a Gaussian between two cuts at one half: nothing soft is left."""
    fill_holes: bool = False
    mask_blur: Annotated[int, Field(ge=0, le=64)] = 0
    """The sigma of a Gaussian."""
    mask_offset: Annotated[int, Field(ge=-64, le=64)] = 0
    """Grows the mask by a square, or shrinks it."""
    invert: bool = False


Radius = Annotated[float, Field(ge=0, le=64)]
Place = Literal["middle", "top", "bottom", "left", "right"]
_SIZE = r"[1-9]\d{0,3}"


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Preset:
    """Lengths are pixels of the original image; the maths is bgpipe.pipeline.matting's.

    Raises:
        pydantic.ValidationError: a value is out of range.
    """

    guided: bool = False
    """Follow the picture's edges where it has more pixels than the network's matte."""
    contrast: Annotated[float, Field(ge=0.1, le=4)] = 1.0
    dilate: Radius = 0.0
    erode: Radius = 0.0
    blur: Annotated[float, Field(ge=0, le=10)] = 0.0
    """The sigma of a Gaussian."""
    smooth: bool = False
    """Even out the edge and keep fine strands: by `blur`, or by one pixel where that is 0."""
    threshold: bool = False
    """Cut the matte to 0 and 1 at one half."""
    fill_holes: bool = False
    invert: bool = False
    foreground: bool = True
    """Estimate the subject's own colour where it mixes with the background."""
    crop: bool = False
    """Cut to the subject; what is hardly opaque, and specks, do not count."""
    margin: Annotated[float, Field(ge=0, le=100)] = 0.0
    """On every side, in percent of the longer side of what is left by `crop`."""
    canvas: Annotated[
        str,
        Field(
            pattern=rf"^({_SIZE}[x:]{_SIZE})?$", description="WIDTHxHEIGHT, WIDTH:HEIGHT or empty"
        ),
    ] = ""
    """`2000x2000`: scaled to fit into so many pixels; `4:5`: extended to this aspect."""
    place: Place = "middle"
    """Where on the canvas."""
    background: Annotated[
        str,
        Field(
            pattern="^(#[0-9a-fA-F]{6}|white|black)?$", description="white, black, #RRGGBB or empty"
        ),
    ] = ""
    """Colour behind the subject, in sRGB; empty: transparent."""
    shadow: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Darkness of a soft shadow on the ground below the subject."""
    enhance: tuple[Enhancement, ...] = ()
    """What a workflow's mask enhancers do to the matte, before everything above."""
