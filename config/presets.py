"""How a matte is refined: one set of named values, checked wherever it comes from."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Radius = Annotated[float, Field(ge=0, le=64)]


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Preset:
    """Lengths are pixels of the original image; the maths is bgpipe.pipeline.matting's.

    Raises:
        pydantic.ValidationError: a value is out of range.
    """

    contrast: Annotated[float, Field(ge=0.1, le=4)] = 1.0
    dilate: Radius = 0.0
    erode: Radius = 0.0
    blur: Annotated[float, Field(ge=0, le=10)] = 0.0
    """The sigma of a Gaussian."""
    smooth: bool = False
    """Keep fine strands while blurring."""
    threshold: bool = False
    """Cut the matte to 0 and 1 at one half."""
    fill_holes: bool = False
    invert: bool = False
    foreground: bool = True
    """Estimate the subject's own colour where it mixes with the background."""
