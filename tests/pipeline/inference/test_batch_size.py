"""The batch of an engine is measured once, and remembered for engines of its kind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.inference.batch_size import tune
from bgpipe.pipeline.inference.engine import BiRefNetEngine
from bgpipe.pipeline.planning.recipe import choose_model

SIZE = (320, 320)  # of the bundled model


@pytest.fixture
def engine() -> BiRefNetEngine:
    model, _ = choose_model(load_settings(), "birefnet-nano", pull=False)
    return BiRefNetEngine(model, "cpu", batch=2, threads=1)


def tuned(engine: BiRefNetEngine, memory: Path) -> int:
    tune(engine, SIZE, memory)
    return engine.batch


def test_what_was_measured_is_remembered(engine: BiRefNetEngine, tmp_path: Path) -> None:
    memory = tmp_path / "state" / "batches.json"
    batch = tuned(engine, memory)
    assert batch in (1, 2)
    assert json.loads(memory.read_text()) == {engine.signature: batch}
    memory.write_text(json.dumps({engine.signature: 4}))
    assert tuned(engine, memory) == 4
    assert len(engine.infer([np.zeros((*SIZE, 3), np.uint8)] * 5)) == 5


@pytest.mark.parametrize("text", ["", "[]", "{", '{"another": 3}'])
def test_a_memory_that_does_not_help_is_written_anew(
    engine: BiRefNetEngine, tmp_path: Path, text: str
) -> None:
    memory = tmp_path / "batches.json"
    memory.write_text(text)
    batch = tuned(engine, memory)
    assert json.loads(memory.read_text())[engine.signature] == batch
