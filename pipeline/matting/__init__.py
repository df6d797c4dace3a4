"""From the network's matte to the cutout: array mathematics, no input or output."""

from __future__ import annotations

from bgpipe.pipeline.matting.compose import cut_out, keep_own_alpha
from bgpipe.pipeline.matting.edges import solve_edges
from bgpipe.pipeline.matting.finish import composite

__all__ = ["composite", "cut_out", "keep_own_alpha", "solve_edges"]
