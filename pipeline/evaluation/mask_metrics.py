"""Scores of a matte as a mask of the subject.

The truth is thresholded at 0.5. If it is empty, precision and recall are undefined: the F-measures
are then 1 for a matte that is empty too (nowhere above 0.5), else 0.
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
"""Levels of a matte. Each level above 0 is a threshold, whose mask contains the pixels at or above it."""
EPSILON = np.finfo(np.float64).eps

# Weighted F-measure: range over which errors depend on each other, and their decay with distance.
_DEPENDENCE_SIGMA = 5.0
_DEPENDENCE_SIDE = 7
_DECAY = np.log(0.5) / 5


def as_mask(plane: Plane) -> Mask:
    return plane > 0.5


def mean_absolute_error(matte: Plane, truth: Plane) -> float:
    """F. Perazzi et al., Saliency Filters, CVPR 2012, equation 10; in [0, 1]."""
    return float(np.abs(matte - truth).mean(dtype=np.float64))


def iou(matte: Plane, truth: Plane) -> float:
    """Intersection over union of the masks (P. Jaccard, 1901); 1 if both are empty."""
    mask, true_mask = as_mask(matte), as_mask(truth)
    union = np.count_nonzero(mask | true_mask)
    return np.count_nonzero(mask & true_mask) / union if union else 1.0


def max_f_measure(matte: Plane, truth: Plane, beta_squared: float = 0.3) -> float:
    """Maximum F-measure over all thresholds of this image.

    R. Achanta et al., Frequency-tuned Salient Region Detection, CVPR 2009, equation 6.
    """
    mask = as_mask(truth)
    if not mask.any():
        return _f_measure_of_empty_truth(matte)
    hits, selected = _count_above_levels(matte, mask)
    precision, recall = hits / np.maximum(selected, 1), hits / np.count_nonzero(mask)
    weight = np.maximum(beta_squared * precision + recall, EPSILON)
    return float(((1 + beta_squared) * precision * recall / weight).max())


def weighted_f_measure(matte: Plane, truth: Plane) -> float:
    """F-measure of soft values that forgives errors beside hits, and distant ones least.

    R. Margolin, L. Zelnik-Manor and A. Tal, How to Evaluate Foreground Maps, CVPR 2014.
    """
    mask = as_mask(truth)
    if not mask.any():
        return _f_measure_of_empty_truth(matte)
    error = np.abs(matte.astype(np.float64) - mask)
    distance, nearest = distance_transform_edt(~mask, return_indices=True)
    smoothed = cv2.GaussianBlur(  # zero beyond the border
        error[tuple(nearest)],
        (_DEPENDENCE_SIDE, _DEPENDENCE_SIDE),
        _DEPENDENCE_SIGMA,
        borderType=cv2.BORDER_CONSTANT,
    )
    forgiven = np.where(mask, np.minimum(error, smoothed), error)
    weighted = forgiven * np.where(mask, 1.0, 2 - np.exp(_DECAY * distance))
    hits = np.count_nonzero(mask) - weighted[mask].sum()
    precision = hits / (hits + weighted[~mask].sum() + EPSILON)
    recall = 1 - weighted[mask].mean()
    return float(2 * precision * recall / (precision + recall + EPSILON))


def e_measure(matte: Plane, truth: Plane) -> float:
    """Enhanced alignment, averaged over all thresholds.

    D.-P. Fan et al., Enhanced-alignment Measure for Binary Foreground Map Evaluation, IJCAI 2018,
    equations 2 to 5. A pixel's alignment depends only on its membership in the two masks, so that
    four counts suffice.
    """
    mask = as_mask(truth)
    hits, selected = _count_above_levels(matte, mask)
    size, inside = float(mask.size), float(np.count_nonzero(mask))
    if inside == 0:
        return float((1 - selected / size).mean())
    if inside == size:
        return float((selected / size).mean())
    counts = {
        (1, 1): hits,
        (1, 0): selected - hits,
        (0, 1): inside - hits,
        (0, 0): size - inside - (selected - hits),
    }
    aligned = [
        count * _alignment(value - selected / size, true_value - inside / size)
        for (value, true_value), count in counts.items()
    ]
    return float(np.sum(aligned, axis=0).mean() / size)


def s_measure(matte: Plane, truth: Plane) -> float:
    """Similarity of structure, of objects and of the four regions around the centroid.

    D.-P. Fan et al., Structure-measure, ICCV 2017, with alpha = 0.5.
    """
    mask, values = as_mask(truth), matte.astype(np.float64)
    share = mask.mean()
    if share in {0, 1}:
        return float(values.mean() if share else 1 - values.mean())
    objects = share * _object_similarity(values[mask]) + (1 - share) * _object_similarity(
        1 - values[~mask]
    )
    return max(0.0, float(0.5 * objects + 0.5 * _region_similarity(values, mask)))


def _f_measure_of_empty_truth(matte: Plane) -> float:
    return 0.0 if as_mask(matte).any() else 1.0


def _count_above_levels(matte: Plane, mask: Mask) -> tuple[Floats, Floats]:
    """Count the pixels at or above each threshold, in `mask` and in all."""
    levels = np.rint(matte * (LEVELS - 1)).astype(np.intp)
    inside, total = (
        np.bincount(part.ravel(), minlength=LEVELS)[:0:-1].cumsum()[::-1].astype(np.float64)
        for part in (levels[mask], levels)
    )
    return inside, total


def _alignment(value: Floats, true_value: float) -> Floats:
    """Alignment of two values minus their means, in [0, 1]."""
    alignment = 2 * value * true_value / (value**2 + true_value**2 + EPSILON)
    return np.asarray((alignment + 1) ** 2 / 4, np.float64)


def _object_similarity(values: Floats) -> float:
    """High for values that are high and uniform."""
    mean = values.mean()
    deviation = values.std(ddof=1) if values.size > 1 else 0.0
    return float(2 * mean / (mean**2 + 1 + deviation + EPSILON))


def _region_similarity(values: Floats, mask: Mask) -> float:
    rows, columns = np.nonzero(mask)
    row, column = round(rows.mean()) + 1, round(columns.mean()) + 1
    total = 0.0
    for down in (slice(None, row), slice(row, None)):
        for across in (slice(None, column), slice(column, None)):
            region = values[down, across]
            if region.size:
                total += region.size * _ssim(region, mask[down, across].astype(np.float64))
    return total / mask.size


def _ssim(values: Floats, truth: Floats) -> float:
    """SSIM of a whole region (Z. Wang et al., 2004) without its stabilizing constants."""
    mean, true_mean = values.mean(), truth.mean()
    freedom = max(values.size - 1, 1)
    variance = ((values - mean) ** 2).sum() / freedom
    true_variance = ((truth - true_mean) ** 2).sum() / freedom
    covariance = ((values - mean) * (truth - true_mean)).sum() / freedom
    similarity = 4 * mean * true_mean * covariance
    scale = (mean**2 + true_mean**2) * (variance + true_variance)
    if similarity != 0:
        return float(similarity / (scale + EPSILON))
    return 1.0 if scale == 0 else 0.0
