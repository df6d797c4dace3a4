"""What the mask enhancer of ComfyUI-RMBG is told, by its own labels and in its own ranges."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Enhancement:
    """One pass; the maths is bgpipe.pipeline.matting.enhance's. Lengths are pixels.

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
