"""What the documents say of the bundled model is said of the weights that ship."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from bgpipe.pipeline.api import BackgroundRemover

sys.path.insert(0, str(Path(__file__).parents[2] / "infra" / "training"))

from evaluate import evaluate, predictor
from library import photos_below

ROOT = Path(__file__).parents[2]
DOCUMENTS = ROOT / "infra" / "docs"
WEIGHTS = ROOT / "pipeline" / "models" / "birefnet-nano.safetensors"
DEPTH = 8  # pixels from an edge to what is inside
ROUNDING = 0.002  # of the tables, and what float arithmetic of other processors may turn over


@pytest.mark.parametrize("name", ["models.md", "quality.md"])
def test_the_scores_are_those_of_the_weights_that_ship(name: str) -> None:
    sha256 = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert f"`{sha256}`" in (DOCUMENTS / name).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_weights_score_as_the_card_says(shared: Path) -> None:
    card = (DOCUMENTS / "models.md").read_text(encoding="utf-8")
    line = r"^\| (\w+) \| (\d+) \| (0\.\d{3}) \| (0\.\d{3}) \|"
    said = {group: scores for group, *scores in re.findall(line, card, re.MULTILINE)}
    photos = photos_below(shared / "images" / "quality", None)
    found = evaluate(predictor(WEIGHTS, threads=2), photos)
    assert said.keys() == found.keys()
    for group, (images, iou, mae) in said.items():
        assert found[group].images == int(images)
        assert found[group].iou == pytest.approx(float(iou), abs=ROUNDING)
        assert found[group].mae == pytest.approx(float(mae), abs=ROUNDING)


@pytest.mark.slow
def test_the_inside_of_a_found_subject_is_opaque(shared: Path) -> None:
    found, finished = (BackgroundRemover("birefnet-nano", name) for name in ("raw", "balanced"))
    inside = faint = 0
    for _, photo in photos_below(shared / "images" / "quality", None):
        deep = inner(photo.alpha > 250) & inner(found(photo.rgb)[..., 3] > 127)
        inside += np.count_nonzero(deep)
        faint += np.count_nonzero(finished(photo.rgb)[..., 3][deep] < 250)
    assert inside > 1_000_000
    assert faint <= 0.01 * inside


def inner(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """What lies deeper than DEPTH; the border of the picture is no edge."""
    return np.asarray(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5) > DEPTH)
