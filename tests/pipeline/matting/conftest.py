"""What the tests of the matting share."""

from __future__ import annotations

import tomllib

import pytest

from bgpipe.config.settings import PRESETS
from bgpipe.pipeline.types import Preset


@pytest.fixture(scope="session")
def presets():
    """The presets of the configuration by their names."""
    values = tomllib.loads(PRESETS.read_text(encoding="utf-8"))["presets"]
    return {name: Preset(**fields) for name, fields in values.items()}
