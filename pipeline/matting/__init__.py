"""From the network's matte to the cutout: array mathematics, no input or output."""

from __future__ import annotations

from bgpipe.pipeline.matting.composite import composite
from bgpipe.pipeline.matting.cutout import cut_out, keep_own_alpha
from bgpipe.pipeline.matting.edges import solve_edges

__all__ = ["composite", "cut_out", "keep_own_alpha", "solve_edges"]
