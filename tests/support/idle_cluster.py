"""A cluster whose submitting side is real and whose worker is idle: it makes nothing.

Submitters, dispatchers and Redis are processes. The worker is a thread that claims and settles what
it receives, for tests that are about the other processes.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from PIL import Image

from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.jobs.store import JobNotFound, JobStore
from bgpipe.pipeline.types import JobId, JobState, JobSummary, Outcome

from .redis_server import RedisServer

BGPIPE = Path(sys.executable).with_name("bgpipe")
SECONDS = 120.0
HIGH_WATER = 3000
JOB = JobId("long")
ADDRESS = re.compile(rb"\('([^']+)', (\d+), ")


def until(done: Callable[[], object], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


class Idler:
    """A worker that has nothing to make; `settled` counts the outcomes that the ledger took."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._job_store = JobStore(client)
        self.settled: Counter[tuple[str, int]] = Counter()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        stopped = threading.Event()
        thread = threading.Thread(target=self._run, args=(stopped,))
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()

    def _run(self, stopped: threading.Event) -> None:
        while not stopped.is_set():
            for text in self._client.rpop("bgpipe", 200) or []:
                self._do(text)
            time.sleep(0.005)

    def _do(self, text: bytes) -> None:
        job, index = ADDRESS.match(json.loads(text)["headers"]["argsrepr"].encode()).groups()
        address = JobId(job.decode()), int(index)
        if self._job_store.items.claim(*address, "idler@test"):
            self.settled[address] += self._job_store.items.settle(
                address[0], Outcome.done(address[1])
            )


class Cluster:
    """A Redis, a folder of very many very small images, and the commands that use both."""

    def __init__(self, server: RedisServer, client: RedisClient, home: Path) -> None:
        self.server = server
        self.client = client
        self.jobs = JobStore(client)
        self.photos = home / "photos"
        self._home = home

    def fill(self, count: int) -> None:
        first = self.photos / "00000.png"
        first.parent.mkdir()
        Image.new("RGB", (8, 8)).save(first)
        for number in range(1, count):
            (self.photos / f"{number:05}.png").hardlink_to(first)

    def start(
        self, *arguments: object, stdout: int = subprocess.PIPE, **environment: str
    ) -> subprocess.Popen[str]:
        ours = {
            "BGPIPE_REDIS_URL": self.server.url,
            "BGPIPE_QUEUE__HIGH_WATER": str(HIGH_WATER),
            "BGPIPE_DISPATCH__LEASE": "2.0",
            "BGPIPE_DISPATCH__POLL": "0.1",
            "XDG_STATE_HOME": str(self._home / "state"),
            "XDG_DATA_HOME": str(self._home / "data"),
        }
        kept = {name: text for name, text in os.environ.items() if not name.startswith("BGPIPE_")}
        return subprocess.Popen(
            [str(BGPIPE), *map(str, arguments)],
            env=kept | ours | environment,
            cwd=self._home,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: object) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        process = self.start(*arguments)
        output, words = process.communicate(timeout=SECONDS)
        return process.returncode, output, words

    @contextmanager
    def followed(self, job: JobId = JOB) -> Iterator[IO[str]]:
        """What `status --watch` says on stderr meanwhile."""
        process = self.start("status", job, "--watch")
        assert process.stderr
        try:
            yield process.stderr
        finally:
            kill(process)

    def submit(self, *options: object) -> subprocess.Popen[str]:
        return self.start("submit", self.photos, "--model", "birefnet-nano", *options)

    @contextmanager
    def dispatcher(self) -> Iterator[subprocess.Popen[str]]:
        process = self.start("dispatch")
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.communicate(timeout=SECONDS)

    def summary(self, job: JobId = JOB) -> JobSummary | None:
        try:
            return self.jobs.summary(job)
        except JobNotFound:
            return None

    def is_in(self, state: JobState, job: JobId = JOB) -> bool:
        summary = self.summary(job)
        return summary is not None and summary.state is state


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=SECONDS)


def assert_closed(cluster: Cluster, idler: Idler, job: JobId = JOB) -> None:
    """Every image of the folder is in the books, and ended once."""
    summary = cluster.jobs.summary(job)
    count = len(list(cluster.photos.iterdir()))
    assert (summary.state, summary.total, summary.done) == (JobState.FINISHED, count, count)
    sources = [item.source for item in cluster.jobs.items.read(job, 0, summary.total)]
    assert sorted(sources) == sorted(path.name for path in cluster.photos.iterdir())
    assert idler.settled == Counter({(job, index): 1 for index in range(count)})
