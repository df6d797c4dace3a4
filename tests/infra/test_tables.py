"""The tables of the quality page: grouped, averaged, and put where they belong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "infra" / "quality"))

from tables import FINISH, MODEL, PRESETS, finish_table, model_table, replace_table

DOCUMENT = Path(__file__).parents[2] / "infra" / "docs" / "quality.md"


def record(model: str, preset: str, image: str, value: float) -> dict[str, object]:
    scores = dict.fromkeys([*FINISH.values(), *MODEL.values()], value)
    return {"model": model, "preset": preset, "image": image, **scores}


def test_the_models_table_has_a_mean_for_each_kind_of_truth_and_preset() -> None:
    lines = list(
        model_table(
            record("nano", preset, image, value)
            for preset in PRESETS
            for image, value in (("ecssd/a.jpg", 1), ("grabcut/b.jpg", 2), ("aim/c.jpg", 0.12345))
        )
    )
    assert lines[0].startswith("| truth | photos | preset | MAE |")
    assert lines[2] == "| masks by hand | 2 | raw" + " | 1.5" * len(MODEL) + " |"
    assert lines[-1] == "| other networks' mattes | 1 | portraits" + " | 0.123" * len(MODEL) + " |"
    assert len(lines) == 2 + 2 * len(PRESETS)


def test_the_finish_table_has_plain_and_guided_where_a_matte_was_enlarged() -> None:
    plain = [record(m, "raw", "a.jpg", 1) for m in ("truth", "truth:512")]
    lines = list(finish_table(plain, [record("truth:512", "raw", "a.jpg", 0.5)]))
    assert lines[2:] == [
        "| truth | raw | - | 1 | 1e+03 | 1 | 1 | 1 | 1 |",
        "| truth:512 | raw | plain | 1 | 1e+03 | 1 | 1 | 1 | 1 |",
        "| truth:512 | raw | guided | 0.5 | 500 | 0.5 | 0.5 | 0.5 | 0.5 |",
    ]


def test_a_table_takes_the_place_of_the_old_one_alone() -> None:
    text = "a\n<!-- table: x -->\nold\n<!-- end -->\nb\n<!-- table: y -->\nkept\n<!-- end -->\n"
    assert replace_table(text, "x", ["new"]) == text.replace("old", "new")
    with pytest.raises(ValueError, match="no unique table"):
        replace_table(text, "z", [])


@pytest.mark.parametrize("name", ["finish", "model"])
def test_the_document_has_the_places(name: str) -> None:
    assert "| here |" in replace_table(DOCUMENT.read_text(encoding="utf-8"), name, ["| here |"])
