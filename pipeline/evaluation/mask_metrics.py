"""Scores of a matte as a mask: how well it finds the subject.

The truth counts as a mask, above one half. Where a truth is empty, precision and recall say nothing;
the F-measures are then 1 for a matte that is empty too (nowhere above one half), and else 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

if TYPE_CHECKING:
    import numpy.typing as npt

    from bgpipe.pipeline.types import Plane

    Mask = npt.NDArray[np.bool_]
    Floats = npt.NDArray[np.float64]

LEVELS = 256
"""Of a matte. Each above 0 is a threshold: its mask holds the pixels of that level and above."""
EPSILON = np.finfo(np.float64).eps

# The weighted F-measure's: how far errors depend on each other, and how they fade with distance.
_DEPENDENCE_SIGMA = 5.0
_DEPENDENCE_SIDE = 7
_FADING = np.log(0.5) / 5


def as_mask(plane: Plane) -> Mask:
    return plane > 0.5


def mean_absolute_error(matte: Plane, truth: Plane) -> float:
    """In [0, 1]; F. Perazzi et al., Saliency Filters, CVPR 2012, equation 10."""
    return float(np.abs(matte - truth).mean(dtype=np.float64))


def iou(matte: Plane, truth: Plane) -> float:
    """Intersection over union of the masks (P. Jaccard, 1901); 1 where both are empty."""
    ours, theirs = as_mask(matte), as_mask(truth)
    either = np.count_nonzero(ours | theirs)
    return np.count_nonzero(ours & theirs) / either if either else 1.0


def max_f_measure(matte: Plane, truth: Plane, beta_squared: float = 0.3) -> float:
    """The best F-measure of all thresholds of this image.

    R. Achanta et al., Frequency-tuned Salient Region Detection, CVPR 2009, equation 6.
    """
    mask = as_mask(truth)
    if not mask.any():
        return _of_an_empty_truth(matte)
    hits, taken = _above_each_level(matte, mask)
    precision, recall = hits / np.maximum(taken, 1), hits / np.count_nonzero(mask)
    weight = np.maximum(beta_squared * precision + recall, EPSILON)
    return float(((1 + beta_squared) * precision * recall / weight).max())


def weighted_f_measure(matte: Plane, truth: Plane) -> float:
    """An F-measure of soft values that forgives errors beside hits and far ones least.

    R. Margolin, L. Zelnik-Manor and A. Tal, How to Evaluate Foreground Maps, CVPR 2014.
    """
    mask = as_mask(truth)
    if not mask.any():
        return _of_an_empty_truth(matte)
    error = np.abs(matte.astype(np.float64) - mask)
    distance, nearest = distance_transform_edt(~mask, return_indices=True)
    spread = _spread(error[tuple(nearest)])
    forgiven = np.where(mask, np.minimum(error, spread), error)
    weighted = forgiven * np.where(mask, 1.0, 2 - np.exp(_FADING * distance))
    hits = np.count_nonzero(mask) - weighted[mask].sum()
    precision = hits / (hits + weighted[~mask].sum() + EPSILON)
    recall = 1 - weighted[mask].mean()
    return float(2 * precision * recall / (precision + recall + EPSILON))


def e_measure(matte: Plane, truth: Plane) -> float:
    """Enhanced alignment, the mean of all thresholds.

    D.-P. Fan et al., Enhanced-alignment Measure for Binary Foreground Map Evaluation, IJCAI 2018,
    equations 2 to 5. A pixel's alignment depends on nothing but whether it is in either mask, so
    that four counts are enough.
    """
    mask = as_mask(truth)
    hits, taken = _above_each_level(matte, mask)
    size, inside = float(mask.size), float(np.count_nonzero(mask))
    if inside == 0:
        return float((1 - taken / size).mean())
    if inside == size:
        return float((taken / size).mean())
    counts = {
        (1, 1): hits,
        (1, 0): taken - hits,
        (0, 1): inside - hits,
        (0, 0): size - inside - (taken - hits),
    }
    aligned = [
        count * _enhanced(ours - taken / size, theirs - inside / size)
        for (ours, theirs), count in counts.items()
    ]
    return float(np.sum(aligned, axis=0).mean() / size)


def s_measure(matte: Plane, truth: Plane) -> float:
    """Likeness of structure: of the objects, and of the four regions around the centre.

    D.-P. Fan et al., Structure-measure, ICCV 2017, with alpha = 0.5.
    """
    mask, values = as_mask(truth), matte.astype(np.float64)
    share = mask.mean()
    if share in {0, 1}:
        return float(values.mean() if share else 1 - values.mean())
    objects = share * _object(values[mask]) + (1 - share) * _object(1 - values[~mask])
    return max(0.0, float(0.5 * objects + 0.5 * _regions(values, mask)))


def _of_an_empty_truth(matte: Plane) -> float:
    return 0.0 if as_mask(matte).any() else 1.0


def _above_each_level(matte: Plane, mask: Mask) -> tuple[Floats, Floats]:
    """For each threshold: how many of the mask's pixels, and of all, reach it."""
    levels = np.rint(matte * (LEVELS - 1)).astype(np.intp)
    inside, everywhere = (
        np.bincount(part.ravel(), minlength=LEVELS)[:0:-1].cumsum()[::-1].astype(np.float64)
        for part in (levels[mask], levels)
    )
    return inside, everywhere


def _spread(error: Floats) -> Floats:
    """The mean error around each pixel; beyond the border there is none."""
    side = (_DEPENDENCE_SIDE, _DEPENDENCE_SIDE)
    return np.asarray(
        cv2.GaussianBlur(error, side, _DEPENDENCE_SIGMA, borderType=cv2.BORDER_CONSTANT), np.float64
    )


def _enhanced(ours: Floats, theirs: float) -> Floats:
    """Alignment of two values that had their means taken off, in [0, 1]."""
    alignment = 2 * ours * theirs / (ours**2 + theirs**2 + EPSILON)
    return np.asarray((alignment + 1) ** 2 / 4, np.float64)


def _object(values: Floats) -> float:
    """How high and how even the values of an object are."""
    mean = values.mean()
    deviation = values.std(ddof=1) if values.size > 1 else 0.0
    return float(2 * mean / (mean**2 + 1 + deviation + EPSILON))


def _regions(values: Floats, mask: Mask) -> float:
    rows, columns = np.nonzero(mask)
    row, column = round(rows.mean()) + 1, round(columns.mean()) + 1
    total = 0.0
    for down in (slice(None, row), slice(row, None)):
        for across in (slice(None, column), slice(column, None)):
            region = values[down, across]
            if region.size:
                total += region.size * _similarity(region, mask[down, across].astype(np.float64))
    return total / mask.size


def _similarity(ours: Floats, theirs: Floats) -> float:
    """SSIM of a whole region (Z. Wang et al., 2004) without its stabilising constants."""
    mean, true_mean = ours.mean(), theirs.mean()
    freedom = max(ours.size - 1, 1)
    variance = ((ours - mean) ** 2).sum() / freedom
    true_variance = ((theirs - true_mean) ** 2).sum() / freedom
    covariance = ((ours - mean) * (theirs - true_mean)).sum() / freedom
    likeness = 4 * mean * true_mean * covariance
    scale = (mean**2 + true_mean**2) * (variance + true_variance)
    if likeness != 0:
        return float(likeness / (scale + EPSILON))
    return 1.0 if scale == 0 else 0.0
