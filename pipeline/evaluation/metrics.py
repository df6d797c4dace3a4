"""Scores of a cutout: as a mask of the subject, as fractional alpha, and on new backgrounds.

For a mask, the truth is thresholded at 0.5. If it is empty, precision and recall are undefined: the
F-measures are then 1 for a matte that is empty too (nowhere above 0.5), else 0.

For alpha: SAD, MSE, and the gradient and connectivity errors of C. Rhemann et al., A Perceptually
Motivated Online Benchmark for Image Matting, CVPR 2009, over all pixels instead of a trimap's
unknown region. Sums are in thousands, as is customary.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from bgpipe.pipeline.matting.resample import to_unit
from bgpipe.pipeline.types import Floats, Mask, Pixels, Plane

Doubles = npt.NDArray[np.float64]
Scores = dict[str, float]
"""Scores of one cutout, or means of several, by name."""

BACKGROUNDS = {"white": (255, 255), "black": (0, 0), "grey": (128, 128), "checks": (204, 255)}
"""Levels of the squares of each background."""
SQUARE = 8  # side of a square, in pixels
LEVELS = 256
"""Levels of a matte. Each level above 0 is a threshold, whose mask contains the pixels at or above it."""
EPSILON = np.finfo(np.float64).eps
GRADIENT_SIGMA = 1.4
CONNECTIVITY_STEPS = 10  # levels of opacity at which connectivity is tested
CONNECTIVITY_TOLERANCE = 0.15  # unconnected opacity without penalty

# Weighted F-measure: range over which errors depend on each other, and their decay with distance.
_DEPENDENCE_SIGMA = 5.0
_DEPENDENCE_SIDE = 7
_DECAY = np.log(0.5) / 5
_THOUSAND = 1000.0
_TAIL = 1e-2  # truncates the Gaussian of the gradient


def mean_absolute_error(matte: Plane, truth: Plane) -> float:
    """F. Perazzi et al., Saliency Filters, CVPR 2012, equation 10; in [0, 1]."""
    return float(np.abs(matte - truth).mean(dtype=np.float64))


def iou(matte: Plane, truth: Plane) -> float:
    """Intersection over union of the masks (P. Jaccard, 1901); 1 if both are empty."""
    mask, true_mask = matte > 0.5, truth > 0.5
    union = np.count_nonzero(mask | true_mask)
    return np.count_nonzero(mask & true_mask) / union if union else 1.0


def max_f_measure(matte: Plane, truth: Plane, beta_squared: float = 0.3) -> float:
    """Maximum F-measure over all thresholds of this image.

    R. Achanta et al., Frequency-tuned Salient Region Detection, CVPR 2009, equation 6.
    """
    mask = truth > 0.5
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
    mask = truth > 0.5
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
    mask = truth > 0.5
    hits, selected = _count_above_levels(matte, mask)
    size, inside = float(mask.size), float(np.count_nonzero(mask))
    if inside == 0:
        return float((1 - selected / size).mean())
    if inside == size:
        return float((selected / size).mean())
    false_hits, misses = selected - hits, inside - hits
    aligned = sum(
        count * _alignment(value - selected / size, true_value - inside / size)
        for value, true_value, count in (
            (1, 1, hits),
            (1, 0, false_hits),
            (0, 1, misses),
            (0, 0, size - inside - false_hits),
        )
    )
    return float(np.mean(aligned) / size)


def s_measure(matte: Plane, truth: Plane) -> float:
    """Similarity of structure, of objects and of the four regions around the centroid.

    D.-P. Fan et al., Structure-measure, ICCV 2017, with alpha = 0.5.
    """
    mask, values = truth > 0.5, matte.astype(np.float64)
    share = mask.mean()
    if share in {0, 1}:
        return float(values.mean() if share else 1 - values.mean())
    objects = share * _object_similarity(values[mask]) + (1 - share) * _object_similarity(
        1 - values[~mask]
    )
    return max(0.0, float(0.5 * objects + 0.5 * _region_similarity(values, mask)))


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


METRICS: Mapping[str, Callable[[Plane, Plane], float]] = {
    "mae": mean_absolute_error,
    "iou": iou,
    "s_measure": s_measure,
    "f_max": max_f_measure,
    "f_weighted": weighted_f_measure,
    "e_measure": e_measure,
    "sad": sum_of_absolute_differences,
    "mse": mean_squared_error,
    "gradient": gradient_error,
    "connectivity": connectivity_error,
}
HIGHER_IS_BETTER = frozenset({"iou", "s_measure", "f_max", "f_weighted", "e_measure"})


def score(cutout: Pixels, truth: Pixels) -> Scores:
    """Compare two cutouts of one image, uint8 [H, W, 4]: METRICS, and the errors on BACKGROUNDS."""
    matte, true_matte = to_unit(cutout[..., 3]), to_unit(truth[..., 3])
    scores = {name: metric(matte, true_matte) for name, metric in METRICS.items()}
    for name in BACKGROUNDS:
        scores[f"composite_{name}"] = composite_error(cutout, truth, name)
    return scores


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """Return the mean of each score; there is at least one cutout."""
    means = np.mean([list(each.values()) for each in scores], axis=0)
    return dict(zip(scores[0], means.tolist(), strict=True))


def composite_error(cutout: Pixels, truth: Pixels, name: str) -> float:
    """Mean absolute difference of two RGBA images over a background, in levels of 255."""
    background = make_background(name, *cutout.shape[:2])
    difference = np.abs(composite_over(cutout, background) - composite_over(truth, background))
    return float(difference.mean(axis=2).mean(dtype=np.float64))


def composite_over(rgba: Pixels, background: Floats) -> Floats:
    """Composite with "over", straight alpha (T. Porter and T. Duff, Compositing Digital Images, 1984)."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return np.asarray(alpha * rgba[..., :3] + (1 - alpha) * background, np.float32)


def make_background(name: str, height: int, width: int) -> Floats:
    """Return one of BACKGROUNDS."""
    rows, columns = (np.arange(side) // SQUARE % 2 for side in (height, width))
    squares = np.where(rows[:, None] == columns, *BACKGROUNDS[name])
    return np.repeat(squares[..., None], 3, axis=2).astype(np.float32)


def _f_measure_of_empty_truth(matte: Plane) -> float:
    return 0.0 if (matte > 0.5).any() else 1.0


def _count_above_levels(matte: Plane, mask: Mask) -> tuple[Doubles, Doubles]:
    """Count the pixels at or above each threshold, in `mask` and in all."""
    levels = np.rint(matte * (LEVELS - 1)).astype(np.intp)
    inside, total = (
        np.bincount(part.ravel(), minlength=LEVELS)[:0:-1].cumsum()[::-1].astype(np.float64)
        for part in (levels[mask], levels)
    )
    return inside, total


def _alignment(value: Doubles, true_value: float) -> Doubles:
    """Alignment of two values minus their means, in [0, 1]."""
    alignment = 2 * value * true_value / (value**2 + true_value**2 + EPSILON)
    return np.asarray((alignment + 1) ** 2 / 4, np.float64)


def _object_similarity(values: Doubles) -> float:
    """High for values that are high and uniform."""
    mean = values.mean()
    deviation = values.std(ddof=1) if values.size > 1 else 0.0
    return float(2 * mean / (mean**2 + 1 + deviation + EPSILON))


def _region_similarity(values: Doubles, mask: Mask) -> float:
    rows, columns = np.nonzero(mask)
    row, column = round(rows.mean()) + 1, round(columns.mean()) + 1
    total = 0.0
    for down in (slice(None, row), slice(row, None)):
        for across in (slice(None, column), slice(column, None)):
            region = values[down, across]
            if region.size:
                total += region.size * _ssim(region, mask[down, across].astype(np.float64))
    return total / mask.size


def _ssim(values: Doubles, truth: Doubles) -> float:
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


def _gradient(plane: Plane) -> Doubles:
    """Magnitude of derivatives of a Gaussian whose kernels have unit L2 norm."""
    tail = math.log(math.sqrt(2 * math.pi) * GRADIENT_SIGMA * _TAIL)
    radius = math.ceil(GRADIENT_SIGMA * math.sqrt(-2 * tail))
    x = np.arange(-radius, radius + 1, dtype=np.float64)
    smooth = np.exp(-(x**2) / (2 * GRADIENT_SIGMA**2))
    smooth, slope = (np.asarray(k / np.linalg.norm(k)) for k in (smooth, x * smooth))
    values, border = plane.astype(np.float64), cv2.BORDER_REPLICATE
    across = cv2.sepFilter2D(values, cv2.CV_64F, slope, smooth, borderType=border)
    down = cv2.sepFilter2D(values, cv2.CV_64F, smooth, slope, borderType=border)
    return np.asarray(np.hypot(across, down), np.float64)


def _connected_level(matte: Plane, truth: Plane) -> Doubles:
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


def _connectivity(plane: Plane, connected: Doubles) -> Doubles:
    unconnected = plane - connected
    return np.asarray(1 - unconnected * (unconnected >= CONNECTIVITY_TOLERANCE), np.float64)
