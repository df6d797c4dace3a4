"""Real worker processes on a real Redis, and jobs for them.

A test starts a worker of its own, or uses the one that all tests of its module share: a start takes seconds of a
processor.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from celery import Celery
from PIL import Image
from safetensors.torch import save_file

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.broker.client import RedisClient, connect
from bgpipe.pipeline.broker.queue import make_app, publish, read_depth
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.models.lockfile import hash_file
from bgpipe.pipeline.networks.birefnet import ModelConfig, SwinConfig, build
from bgpipe.pipeline.types import Item, Job, JobId, JobState, JobSummary, Preset, Recipe

from ..support.redis_server import running_redis

SIZE = (64, 64)
QUEUE = "bgpipe"
SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Redis, the folder of its jobs' images, and what starts workers for it."""

    url: str
    client: RedisClient
    jobs: JobStore
    app: Celery
    model: Path
    folder: Path
    shared_log: Path | None = None
    log_start: int = 0
    """Where the test's own part of `shared_log` begins."""

    @property
    def source(self) -> Path:
        return self.folder / "source"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @contextmanager
    def supervisor(self, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """`python -m bgpipe.workers`, ready for messages, until it has ended."""
        with self.process(["-m", "bgpipe.workers", *arguments], environment) as process:
            yield process

    @contextmanager
    def process(
        self, arguments: Sequence[str | Path], environment: Mapping[str, str]
    ) -> Iterator[subprocess.Popen[bytes]]:
        with (self.folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                env=self.environment(environment),
                stdin=subprocess.PIPE,
                stderr=log,
            )
        try:
            until(lambda: self.workers() or process.poll() is not None)
            yield process
        finally:
            process.terminate()
            process.wait(SECONDS)
            if process.stdin:
                process.stdin.close()

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BGPIPE_")}
        # One thread: several wait for each other at every step where the cores are shared.
        ours = {
            "BGPIPE_REDIS_URL": self.url,
            "BGPIPE_QUEUE__RETRY_DELAY": "0.05",
            "BGPIPE_WORKER__CPU_THREADS": "1",
        }
        return kept | ours | extra

    def workers(self) -> list[str]:
        """The one worker that answers first, if any does."""
        return list(self.app.control.inspect(timeout=2, limit=1).ping() or {})

    def log(self) -> str:
        path = self.shared_log or self.folder / "worker.log"
        return path.read_bytes()[self.log_start :].decode()

    def photo(self, name: str) -> str:
        path = self.source / name
        noise = np.random.default_rng(len(name)).integers(0, 256, (60, 80, 3), np.uint8)
        Image.fromarray(noise).resize((320, 240)).save(path)
        return name

    def file(self, name: str, data: bytes) -> str:
        (self.source / name).write_bytes(data)
        return name

    def submit(
        self,
        names: Sequence[str],
        weights: str | None = None,
        *,
        published: bool = True,
        recipe: Recipe | None = None,
        source: str = "",
        out: str = "",
    ) -> JobId:
        """A started job, by default from and to the cluster's folders."""
        recipe = recipe or Recipe(str(self.model), weights or hash_file(self.model), SIZE, Preset())
        job = JobId(f"job-{next(_numbers)}")
        items = [Item(i, name, f"{name}.png", f"id-{i}") for i, name in enumerate(names)]
        places = source or str(self.source), out or str(self.out)
        self.jobs.open(Job(job, *places, recipe, time.time()))
        self.jobs.add(job, items)
        self.jobs.start(job)
        if published:
            publish(self.app, job, items, QUEUE)
        return job

    def finished(self, job: JobId) -> JobSummary:
        until(lambda: self.jobs.summary(job).state == JobState.FINISHED)
        return self.jobs.summary(job)

    def finished_after_a_kill(self, job: JobId) -> JobSummary:
        """`finished`, once the message that Redis may lose as it hands it out was sent again."""
        until(lambda: not read_depth(self.client, QUEUE))
        lost = self.jobs.items.pick(job, self.jobs.items.missing(job))
        publish(self.app, job, lost, QUEUE)
        return self.finished(job)


_numbers = count()


def until(done: Callable[[], object], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a network so small that it takes no time; its mattes mean nothing."""
    config = ModelConfig(
        backbone=SwinConfig(embed=8, depths=(1, 1, 1, 1), heads=(1, 2, 4, 8), window=4),
        inner=6,
        branch=10,
        kernels=(3,),
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_file(build(config).state_dict(), path)
    return path


@pytest.fixture
def cluster(request: pytest.FixtureRequest, model: Path, tmp_path: Path) -> Iterator[Cluster]:
    """An empty cluster without workers, or that of the module in tests that use `shared_worker`."""
    for name in ("source", "out"):
        (tmp_path / name).mkdir()
    if "shared_worker" in request.fixturenames:
        shared = request.getfixturevalue("shared_worker")
        cluster = replace(shared, folder=tmp_path, log_start=shared.shared_log.stat().st_size)
        yield cluster
        print(cluster.log())
        return
    url = request.getfixturevalue("redis_url")
    with connect(url) as client, make_app(load_settings(), url) as app:
        yield Cluster(url, client, JobStore(client), app, model, tmp_path)


@pytest.fixture(scope="module")
def shared_worker(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Cluster]:
    """A worker with five lanes on a Redis of its own."""
    folder = tmp_path_factory.mktemp("shared")
    with (
        running_redis(folder) as server,
        connect(server.url) as client,
        make_app(load_settings(), server.url) as app,
    ):
        log = folder / "worker.log"
        cluster = Cluster(server.url, client, JobStore(client), app, model, folder, log)
        with cluster.supervisor("--device", "cpu", "--lanes", "5"):
            yield cluster


@pytest.fixture(autouse=True)
def _show_log(tmp_path: Path) -> Iterator[None]:
    """What the workers said, beside a test that fails."""
    yield
    path = tmp_path / "worker.log"
    if path.exists():
        print(path.read_text())
