"""The default settings, and an empty Redis."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgpipe.config.settings import Settings, load_settings
from bgpipe.pipeline.broker.client import RedisClient, connect


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """The defaults alone."""
    for name in [name for name in os.environ if name.startswith("BGPIPE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return load_settings()


@pytest.fixture
def client(redis_url: str) -> Iterator[RedisClient]:
    with connect(redis_url) as connection:
        yield connection
