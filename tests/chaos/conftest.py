"""The clusters of the chaos tests: real Redis, real workers, a real dispatcher."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.broker.queue import make_app
from bgpipe.pipeline.images import png
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.types import JobId

from ..support.redis_server import RedisServer
from ..workers.conftest import Cluster, _show_log, cluster, model

__all__ = ["_show_log", "cluster", "model"]

BGPIPE = Path(sys.executable).with_name("bgpipe")
TROUBLED = Path(__file__).parent.parent / "workers" / "troubled_worker.py"


@pytest.fixture
def dice() -> random.Random:
    """The random choices of a test; TEST_CHAOS_SEED selects others."""
    seed = os.environ.get("TEST_CHAOS_SEED", "0")
    print(f"TEST_CHAOS_SEED={seed}")
    return random.Random(int(seed))


@pytest.fixture
def fragile(redis_server_process: RedisServer, model: Path, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster whose server may be killed."""
    for name in ("source", "out"):
        (tmp_path / name).mkdir()
    url = redis_server_process.url
    with connect(url) as client, make_app(load_settings(), url) as app:
        yield Cluster(url, client, JobStore(client), app, model, tmp_path)


def bgpipe(cluster: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of a user of the cluster."""
    return subprocess.run(
        [BGPIPE, *words],
        env=cluster.environment({}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@contextmanager
def dispatcher(cluster: Cluster) -> Iterator[None]:
    """`bgpipe dispatch`, which feeds the jobs and publishes again what Redis lost."""
    with (cluster.folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [BGPIPE, "dispatch"], env=cluster.environment({}), stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def failures(cluster: Cluster, job: JobId) -> dict[str, str]:
    return {failure.source: failure.code for failure in cluster.jobs.items.failures(job)}


def files(folder: Path) -> dict[str, bytes]:
    """Every file of `folder`, hidden and temporary ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def whole(folder: Path) -> bool:
    """Whether `folder` holds nothing but complete PNGs."""
    found = files(folder)
    return all(name.endswith(".png") and data.endswith(png.END) for name, data in found.items())
