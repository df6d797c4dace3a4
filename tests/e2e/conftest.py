"""The command line as users run it: its own processes and folders.

A test has an embedded server and worker of its own, or, where it is not about them, the cluster that all share.
A worker takes seconds of a processor to start.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.jobs.store import JobStore

from ..support.redis_server import running_redis
from ..support.s3_server import S3Server

BGPIPE = Path(sys.executable).with_name("bgpipe")
SECONDS = 240


@dataclass(frozen=True, slots=True)
class Bgpipe:
    """Runs `bgpipe` with state and data of its own; a closed port stands for the model hub."""

    home: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        ours = {name for name in os.environ if name.startswith(("BGPIPE_", "HF_"))}
        kept = {name: value for name, value in os.environ.items() if name not in ours}
        return kept | {
            **self.settings,
            "XDG_STATE_HOME": str(self.home / "state"),
            "XDG_DATA_HOME": str(self.home / "data"),
            "HF_HOME": str(self.home / "hub"),
            "HF_ENDPOINT": "http://127.0.0.1:9",
        }

    def __call__(
        self, *arguments: object, stdin: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(arguments),
            env=self.environment | environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            cwd=self.home,
            check=False,
        )

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(arguments),
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.home,
        )

    def records(self, *arguments: object) -> list[dict[str, Any]]:
        done = self("--json", *arguments)
        assert done.returncode in {0, 1}, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    @staticmethod
    def command(arguments: Sequence[object]) -> list[str]:
        return [str(BGPIPE), *map(str, arguments)]


@dataclass(frozen=True, slots=True)
class SharedCluster:
    """A Redis and a worker that reads and writes folders and the buckets of the tests."""

    url: str
    log: Path

    def forget_jobs(self) -> None:
        with connect(self.url) as client:
            jobs = JobStore(client)
            for job in jobs.ids():
                with suppress(UsageError):  # it has finished
                    jobs.cancel(job)
                jobs.forget(job)


@pytest.fixture(scope="session")
def _shared_cluster(
    s3: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SharedCluster]:
    home = tmp_path_factory.mktemp("cluster")
    with running_redis(home) as server, (home / "worker.log").open("wb") as log:
        settings = {"BGPIPE_REDIS_URL": server.url, "BGPIPE_WORKER__CPU_THREADS": "1"}
        worker = subprocess.Popen(
            Bgpipe.command(("worker", "--device", "cpu")),
            env=Bgpipe(home, settings).environment | s3.environment,
            stderr=log,
            cwd=home,
        )
        yield SharedCluster(server.url, home / "worker.log")
        worker.terminate()
        worker.wait(SECONDS)


@pytest.fixture
def shared_cluster(_shared_cluster: SharedCluster) -> Iterator[SharedCluster]:
    """The cluster of all tests of a session, without jobs; `bgpipe` submits to it in tests that use this."""
    _shared_cluster.forget_jobs()
    start = _shared_cluster.log.stat().st_size
    yield _shared_cluster
    with _shared_cluster.log.open("rb") as log:
        log.seek(start)
        print("--- worker.log", log.read().decode(errors="replace"), sep="\n")


@pytest.fixture
def bgpipe(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bgpipe]:
    home = tmp_path / "home"
    home.mkdir()
    settings = {}
    if "shared_cluster" in request.fixturenames:
        settings["BGPIPE_REDIS_URL"] = request.getfixturevalue("shared_cluster").url
    yield Bgpipe(home, settings)
    for log in (home / "state").glob("bgpipe/*.log"):  # shown beside a test that fails
        print(f"--- {log.name}", log.read_text(errors="replace"), sep="\n")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four real photos, one of them in a folder of its own."""
    skimage = pytest.importorskip("skimage")
    data = Path(skimage.__file__).parent / "data"
    folder = tmp_path / "photos"
    (folder / "sub folder").mkdir(parents=True)
    for name in ("astronaut.png", "chelsea.png", "coffee.png"):
        shutil.copy(data / name, folder)
    shutil.copy(data / "rocket.jpg", folder / "sub folder" / "rökét 1.jpg")
    return folder
