"""Nothing became slower, and the guard says so when something did."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from guard import FIGURES, compare

FOLDER = Path(__file__).parent


def test_a_quarter_more_is_slower_and_less_is_not() -> None:
    committed = {"a": 1.0, "b": 2.0, "c": 3.0}
    assert not list(compare({"a": 1.2, "b": 1.0, "c": 3.0}, committed))
    found = list(compare({"a": 1.3, "b": 2.0, "d": 1.0}, committed))
    assert [line.split(":")[:2] for line in found] == [
        ["slower", " a"],
        ["not in both", " c"],
        ["not in both", " d"],
    ]


@pytest.mark.slow
def test_nothing_became_slower(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, FOLDER / "guard.py", "--json", file], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(file.read_text()).keys() == json.loads(FIGURES.read_text()).keys()
