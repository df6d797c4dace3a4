"""`bgpipe eval`: truths and pictures in, scores side by side out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from .conftest import Bgpipe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures with a mask beside them, one with a cutout in another folder, one without."""
    made = tmp_path / "set"
    (made / "sub").mkdir(parents=True)
    (tmp_path / "truths").mkdir()
    for number, name in enumerate(["sub/a <b>.jpg", "c.png", "d.png", "alone.png"]):
        alpha = np.zeros((180, 240), np.uint8)
        cv2.circle(alpha, (90 + 20 * number, 90), 50, 255, -1, cv2.LINE_AA)
        share = alpha[..., None] / 255
        rgb = np.rint(share * [220, 90, 40] + (1 - share) * [20, 60, 160]).astype(np.uint8)
        Image.fromarray(rgb).save(made / name, quality=95)
        if number < 2:
            Image.fromarray(alpha).save((made / name).with_name(f"{Path(name).stem}_alpha.png"))
        colours = np.broadcast_to(np.uint8([220, 90, 40]), rgb.shape)
        Image.fromarray(np.dstack([colours, alpha])).save(
            tmp_path / "truths" / Path(name).with_suffix(".png").name
        )
    return made


def test_models_and_presets_stand_side_by_side(bgpipe: Bgpipe, folder: Path) -> None:
    page = folder / "page.html"
    trials = ("--model", "truth", "--model", "birefnet-nano", "--preset", "raw", "--preset")
    done = bgpipe(
        "eval", "--images", folder, "--truth", folder, *trials, "products", "--html", page
    )
    assert done.returncode == 0, done.stderr
    assert "ignored without ground truth: 2, such as alone.png" in done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split() == [
        *("mean", "better", "truth", "raw", "truth", "products"),
        *("birefnet-nano", "raw", "birefnet-nano", "products"),
    ]
    scores = {row.split()[0]: [float(cell) for cell in row.split()[2:]] for row in rows[:-1]}
    assert len(scores) == 14
    assert scores["sad"][0] < scores["sad"][2]
    html = page.read_text()
    assert html.count("<img") == 2 * (2 + 4)
    assert "a &lt;b&gt;.jpg" in html
    assert "<b>" not in html


def test_json_has_a_line_for_each_cutout_and_the_means_last(bgpipe: Bgpipe, folder: Path) -> None:
    *lines, summary = bgpipe.records(
        "eval", "--images", folder, "--truth", folder.with_name("truths"), "--model", "truth"
    )
    assert [line["image"] for line in lines] == ["alone.png", "c.png", "d.png"]
    assert summary["images"] == 3
    means = summary["trials"]["truth balanced"]
    assert means["mae"] == pytest.approx(np.mean([line["mae"] for line in lines]))
    assert means["iou"] > 0.98


def test_a_truth_of_another_size_is_named_and_the_others_are_scored(
    bgpipe: Bgpipe, folder: Path
) -> None:
    Image.new("L", (10, 10)).save(folder / "c_alpha.png")
    done = bgpipe("eval", "--json", "--images", folder, "--truth", folder, "--model", "truth")
    assert done.returncode == 1
    assert "c.png: E_UNSUPPORTED: truth and image differ in size" in done.stderr
    assert "truth balanced" in json.loads(done.stdout.splitlines()[-1])["trials"]


def test_without_a_single_truth_there_is_nothing_to_score(bgpipe: Bgpipe, folder: Path) -> None:
    done = bgpipe("eval", "--images", folder, "--truth", folder / "sub", "--model", "truth")
    assert done.returncode == 3
    assert "name it x_alpha.png" in done.stderr
