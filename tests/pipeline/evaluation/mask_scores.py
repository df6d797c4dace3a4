"""Scores of masks by pysodmetrics, another implementation of the same papers, as JSON.

    python -m venv FOLDER
    FOLDER/bin/pip install pysodmetrics==1.6.2
    FOLDER/bin/python tests/pipeline/evaluation/mask_scores.py > tests/pipeline/evaluation/mask_scores.json

It is no dependency of the tests: it allows only releases of NumPy and OpenCV older than those bgpipe is tested with.
"""

from __future__ import annotations

import json
import sys

import numpy as np

SEEDS = range(12)


def blobs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A matte and a truth that it resembles, as uint8; odd seeds are of photos, the others small."""
    random = np.random.default_rng(seed)
    height, width = (120, 90) if seed % 2 else (23, 31)
    y, x = np.indices((height, width)) / height
    row, column = random.uniform(0.25, 0.7, 2)
    radius = random.uniform(0.12, 0.35)
    truth = np.hypot(y - row, x - column) < radius
    soft = 1 / (1 + np.exp((np.hypot(y - row - 0.04, x - column + 0.04) - radius) * 25))
    noisy = np.clip(soft + random.normal(0, 0.15, soft.shape), 0, 1)
    noisy[0, 0], noisy[-1, -1] = 0, 1  # pysodmetrics stretches a matte to the whole range
    return np.rint(noisy * 255).astype(np.uint8), truth.astype(np.uint8) * 255


def scores(matte: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    import py_sod_metrics as metrics

    def result(name: str) -> dict:
        metric = getattr(metrics, name)()
        metric.step(matte, truth)
        return metric.get_results()

    # One threshold too many, the one that every pixel reaches, and a mean over one pixel too few.
    thresholds = result("Emeasure")["em"]["curve"][:-1]
    return {
        "mean_absolute_error": result("MAE")["mae"],
        "max_f_measure": result("Fmeasure")["fm"]["curve"].max(),
        "weighted_f_measure": result("WeightedFmeasure")["wfm"],
        "e_measure": thresholds.mean() * (matte.size - 1) / matte.size,
        "s_measure": result("Smeasure")["sm"],
    }


if __name__ == "__main__":
    table = [{name: float(value) for name, value in scores(*blobs(seed)).items()} for seed in SEEDS]
    json.dump(table, sys.stdout, indent=1)
    print()
