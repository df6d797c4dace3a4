"""Stores, models and disks that refuse every image for a while: the job waits, and no attempt counts."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.broker.queue import make_app
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.types import JobId, JobSummary

from ..support.file_system import mounted, remount
from ..support.redis_server import running_redis
from ..support.s3_server import S3Server, running_proxy
from .conftest import Cluster, until

IMAGES = 40
BGPIPE = Path(sys.executable).with_name("bgpipe")


@dataclass(frozen=True, slots=True)
class Refusing:
    """A cluster with a dispatcher and a worker, whose way to S3 refuses requests while `switch` exists."""

    cluster: Cluster
    s3: S3Server
    switch: Path
    buckets: dict[str, str]
    """By the answer that they give then."""

    def photos(self, bucket: str) -> list[str]:
        noise = np.random.default_rng(0)
        names = [f"{index:02}.png" for index in range(IMAGES)]
        for name in names:
            data = io.BytesIO()
            Image.fromarray(noise.integers(0, 256, (48, 64, 3), np.uint8)).save(data, "png")
            self.s3.put(f"{bucket}/photos/{name}", data.getvalue())
        return names

    def paused(self, job: JobId) -> JobSummary:
        until(lambda: self.cluster.jobs.summary(job).paused)
        return self.cluster.jobs.summary(job)

    def assert_done(self, job: JobId) -> None:
        """Every image is done, and none took a second attempt."""
        summary = self.cluster.finished(job)
        assert (summary.done, summary.failed, summary.paused) == (IMAGES, 0, "")
        assert not self.cluster.client.hgetall(keys.of_job(job).repeats)

    def bgpipe(self, *words: str) -> str:
        """What a user's command prints."""
        environment = self.cluster.environment({"XDG_STATE_HOME": str(self.cluster.folder)})
        command = [BGPIPE, *words]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        ).stdout


@pytest.fixture(scope="module")
def module_wide(
    s3: S3Server, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Refusing]:
    folder = tmp_path_factory.mktemp("refusing")
    switch, log = folder / "refuses", folder / "worker.log"
    buckets = {name: s3.make_bucket() for name in ("RequestTimeTooSkewed", "ExpiredToken")}
    rules = [
        word
        for answer, bucket in buckets.items()
        for method in ("GET", "PUT")
        for word in ("--answer", f"{method} {bucket.removeprefix('s3:/')}/ 403 {answer}")
    ]
    with ExitStack() as stack:
        enter = stack.enter_context
        proxy = enter(running_proxy(s3.url, folder, (*rules, "--while", str(switch))))
        server = enter(running_redis(folder))
        client, app = enter(connect(server.url)), enter(make_app(load_settings(), server.url))
        cluster = Cluster(server.url, client, JobStore(client), app, model, folder, log)
        environment = s3.environment | {"AWS_ENDPOINT_URL": proxy.url}
        dispatcher = subprocess.Popen(
            [BGPIPE, "dispatch"], env=cluster.environment({}), stderr=subprocess.DEVNULL
        )
        stack.callback(dispatcher.wait)
        stack.callback(dispatcher.terminate)
        enter(cluster.supervisor("--device", "cpu", "--lanes", "5", **environment))
        yield Refusing(cluster, s3, switch, buckets)


@pytest.fixture
def refusing(module_wide: Refusing, tmp_path: Path) -> Refusing:
    for name in ("source", "out"):
        (tmp_path / name).mkdir()
    return replace(module_wide, cluster=replace(module_wide.cluster, folder=tmp_path))


@pytest.mark.parametrize(
    "answer", ["ExpiredToken", pytest.param("RequestTimeTooSkewed", marks=pytest.mark.slow)]
)
def test_a_clock_or_credentials_that_go_wrong_pause_the_job_until_they_are_right(
    refusing: Refusing, answer: str
) -> None:
    jobs, bucket = refusing.cluster.jobs, refusing.buckets[answer]
    names = refusing.photos(bucket)
    job = refusing.cluster.submit(
        names, source=f"{bucket}/photos", out=f"{bucket}/cutouts", published=False
    )
    until(lambda: jobs.summary(job).done >= 3)
    refusing.switch.touch()
    paused = refusing.paused(job)
    assert f"{bucket} answers {answer}: " in paused.paused
    assert (paused.state, paused.failed) == ("running", 0)
    until(lambda: not jobs.summary(job).running)
    status = refusing.bgpipe("status", job)
    assert f"paused {paused.paused}; continues by itself" in status
    assert jobs.summary(job).done == paused.done < IMAGES
    refusing.switch.unlink()
    refusing.assert_done(job)
    written = [key for key in refusing.s3.keys(bucket) if key.startswith("cutouts/")]
    assert len(written) == IMAGES


def test_a_bucket_that_is_gone_pauses_the_job_until_it_is_made_again(refusing: Refusing) -> None:
    source, out = refusing.s3.make_bucket(), refusing.s3.make_bucket()
    names = refusing.photos(source)
    refusing.s3.client.delete_bucket(Bucket=out.removeprefix("s3://"))
    job = refusing.cluster.submit(names, source=f"{source}/photos", out=out, published=False)
    assert f"{out} answers NoSuchBucket: create the bucket" in refusing.paused(job).paused
    rows = [json.loads(line) for line in refusing.bgpipe("--json", "doctor").splitlines()]
    (check,) = [row for row in rows if row["what"] == "jobs"]
    assert check["level"] == "warning"
    assert f"{job} since " in check["detail"]
    refusing.s3.client.create_bucket(Bucket=out.removeprefix("s3://"))
    refusing.assert_done(job)
    assert len(refusing.s3.keys(out)) == IMAGES


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("size=2m", "size=64m", "no space left on device: {out}: make room there"),
        ("size=64m,ro", "rw", "read-only file system: {out}: mount it for writing"),
    ],
)
def test_a_target_that_takes_nothing_pauses_the_job_until_it_does(
    refusing: Refusing, before: str, after: str, reason: str
) -> None:
    cluster = refusing.cluster
    photos = [cluster.photo(f"photo {index}.jpg") for index in range(IMAGES)]
    with mounted(cluster.out, before):
        job = cluster.submit(photos, published=False)
        assert reason.format(out=cluster.out) in refusing.paused(job).paused
        until(lambda: not cluster.jobs.summary(job).running)
        written = [path for path in cluster.out.rglob("*") if path.is_file()]
        assert len(written) == cluster.jobs.summary(job).done < IMAGES
        remount(cluster.out, after)
        refusing.assert_done(job)
        assert len(list(cluster.out.iterdir())) == IMAGES


def test_a_model_that_is_missing_on_the_worker_pauses_the_job_until_resume(
    refusing: Refusing,
) -> None:
    cluster = refusing.cluster
    weights = cluster.folder / "other.safetensors"
    shutil.copy(cluster.model, weights)
    with weights.open("r+b") as file:  # other weights than any that the worker has loaded
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\0")
    photos = [cluster.photo(f"photo {index}.jpg") for index in range(IMAGES)]
    other = replace(refusing, cluster=replace(cluster, model=weights))
    job = other.cluster.submit(photos, published=False)
    gone = weights.rename(weights.with_suffix(".gone"))
    assert f"model {weights}: " in refusing.paused(job).paused
    gone.rename(weights)
    refusing.bgpipe("resume", job)
    refusing.assert_done(job)


def test_another_job_is_not_paused_with_it(refusing: Refusing) -> None:
    cluster = refusing.cluster
    photos = [cluster.photo(f"photo {index}.jpg") for index in range(IMAGES)]
    nowhere = "s3://no-such-bucket-anywhere/photos"
    held = cluster.submit(photos, source=nowhere, published=False)
    refusing.paused(held)
    refusing.assert_done(cluster.submit(photos, published=False))
    cluster.jobs.cancel(held)
    assert cluster.jobs.summary(held).paused == ""
