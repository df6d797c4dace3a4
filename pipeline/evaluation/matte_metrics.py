"""Scores of a matte as fractional alpha.

SAD, MSE, and the gradient and connectivity errors of C. Rhemann et al., A Perceptually Motivated
Online Benchmark for Image Matting, CVPR 2009, over all pixels instead of a trimap's unknown region.
Sums are in thousands, as is customary.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from bgpipe.pipeline.types import Plane

    Floats = npt.NDArray[np.float64]
    Mask = npt.NDArray[np.bool_]

GRADIENT_SIGMA = 1.4
CONNECTIVITY_STEPS = 10
"""Levels of opacity at which connectivity is tested."""
CONNECTIVITY_TOLERANCE = 0.15
"""Unconnected opacity without penalty."""

_THOUSAND = 1000.0
_TAIL = 1e-2  # truncates the Gaussian of the gradient


def sum_of_absolute_differences(matte: Plane, truth: Plane) -> float:
    return float(np.abs(matte - truth).sum(dtype=np.float64)) / _THOUSAND


def mean_squared_error(matte: Plane, truth: Plane) -> float:
    return float(np.square(matte - truth).mean(dtype=np.float64))


def gradient_error(matte: Plane, truth: Plane) -> float:
    """Squared difference of the gradient magnitudes (section 4.1)."""
    difference = _gradient(matte) - _gradient(truth)
    return float(np.square(difference).sum()) / _THOUSAND


def connectivity_error(matte: Plane, truth: Plane) -> float:
    """Difference in connectivity to the largest opaque component (section 4.2)."""
    connected = _connected_level(matte, truth)
    difference = _connectivity(matte, connected) - _connectivity(truth, connected)
    return float(np.abs(difference).sum()) / _THOUSAND


def _gradient(plane: Plane) -> Floats:
    """Magnitude of Gaussian derivatives, with replicated border."""
    smooth, slope = _gaussian_and_derivative(GRADIENT_SIGMA)
    values = plane.astype(np.float64)
    across, down = (
        cv2.sepFilter2D(values, cv2.CV_64F, x, y, borderType=cv2.BORDER_REPLICATE)
        for x, y in ((slope, smooth), (smooth, slope))
    )
    return np.hypot(across, down)


def _gaussian_and_derivative(sigma: float) -> tuple[Floats, Floats]:
    """Return both kernels with unit L2 norm."""
    radius = math.ceil(sigma * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * sigma * _TAIL)))
    x = np.arange(-radius, radius + 1, dtype=np.float64)
    smooth = np.exp(-(x**2) / (2 * sigma**2))
    slope = x * smooth
    return smooth / np.linalg.norm(smooth), slope / np.linalg.norm(slope)


def _connected_level(matte: Plane, truth: Plane) -> Floats:
    """Highest level at which each pixel is in the largest component shared by both mattes."""
    connected = np.zeros(matte.shape)
    inside = np.ones(matte.shape, np.bool_)
    lower = np.minimum(matte, truth)
    for step in range(1, CONNECTIVITY_STEPS + 1):
        level = step / CONNECTIVITY_STEPS
        inside &= _largest_component(lower >= np.float32(level))
        connected[inside] = level
    return connected


def _largest_component(mask: Mask) -> Mask:
    """Return the largest 4-connected component; empty if the mask is."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if areas.size == 0:
        return mask
    return np.asarray(labels == 1 + areas.argmax(), np.bool_)


def _connectivity(plane: Plane, connected: Floats) -> Floats:
    unconnected = plane - connected
    return np.asarray(1 - unconnected * (unconnected >= CONNECTIVITY_TOLERANCE), np.float64)
