"""A matte enlarged along the edges of its image.

Fast guided filter: K. He and J. Sun, arXiv:1505.00996, 2015, on color as in K. He, J. Sun and X.
Tang, Guided Image Filtering, 2013, section 3.6. Around each pixel of the network's matte, alpha is
fitted as a linear function of the image's color at that size; the function is then applied to the
colors of the full-size pixels where the matte is soft.
"""

import cv2
import numpy as np

from bgpipe.pipeline.matting.resample import sample, to_unit
from bgpipe.pipeline.types import Floats, Mask, Pixels, Plane

RADIUS = 1  # of the windows, in pixels of the network's matte
EPSILON = 1e-4  # squared intensity: the variance below which the colors of a window are ignored
SHARE = 0.5
"""Of the filter in the result; the rest is the matte as it was. Where glass or smoke makes a matte
soft, colors mislead the filter; measured in infra/docs/quality.md."""
HALF_LEVEL = 0.5 / 255
_WINDOW = (2 * RADIUS + 1, 2 * RADIUS + 1)


def guided_filter(matte: Plane, full: Plane, rgb: Pixels) -> Plane:
    """Return `full`, the matte at the image's size, with its soft pixels fitted to the image.

    matte [h, w], full [H, W], rgb [H, W, 3]. An image not larger than the matte gets `full` itself.
    """
    soft = np.flatnonzero((full > HALF_LEVEL) & (full < 1 - HALF_LEVEL))
    if full.size <= matte.size or not soft.size:
        return full
    small = cv2.resize(rgb, matte.shape[::-1], interpolation=cv2.INTER_AREA)
    slope, offset = _fit(matte, to_unit(np.asarray(small, np.uint8)))
    colors = to_unit(rgb.reshape(-1, 3)[soft])
    fitted = (sample(slope, soft, full.shape) * colors).sum(axis=1)
    fitted += sample(offset, soft, full.shape)
    out = full.copy()
    out.reshape(-1)[soft] += np.float32(SHARE) * (fitted.clip(0, 1) - full.reshape(-1)[soft])
    return out


def _fit(matte: Plane, guide: Floats) -> tuple[Floats, Plane]:
    """Return slope [h, w, 3] and offset [h, w], averaged over the windows of a pixel (eq. 19)."""
    mean, matte_mean = _mean(guide), _mean(matte)
    covariance = _mean(guide * matte[..., None]) - mean * matte_mean[..., None]
    slope = np.zeros_like(guide)
    near = _find_soft_windows(matte)
    variances = _variances(guide, mean)[near] + np.float32(EPSILON) * np.eye(3, dtype=np.float32)
    slope[near] = np.linalg.solve(variances, covariance[near][..., None])[..., 0]
    return _mean(slope), _mean(matte_mean - (slope * mean).sum(axis=2))


def _find_soft_windows(matte: Plane) -> Mask:
    """Return a mask of the windows that reach a soft pixel; elsewhere the slope is zero."""
    soft = ((matte > HALF_LEVEL) & (matte < 1 - HALF_LEVEL)).astype(np.uint8)
    edges = cv2.morphologyEx(matte, cv2.MORPH_GRADIENT, np.ones(_WINDOW, np.uint8)) > HALF_LEVEL
    side = 4 * RADIUS + 3
    return np.asarray(cv2.dilate(soft | edges, np.ones((side, side), np.uint8)), np.bool_)


def _variances(guide: Floats, mean: Floats) -> Floats:
    """Return the covariance matrix of the colors in each window, [h, w, 3, 3]."""
    matrix = np.empty((*guide.shape, 3), np.float32)
    for channel in range(3):
        products = _mean(guide * guide[..., channel, None])
        matrix[..., channel] = products - mean * mean[..., channel, None]
    return matrix


def _mean(values: Floats) -> Floats:
    return np.asarray(cv2.blur(values, _WINDOW, borderType=cv2.BORDER_REFLECT), np.float32)
