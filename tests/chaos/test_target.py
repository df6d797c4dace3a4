"""A target that cannot be written, is full, or turns read-only: then it is repaired."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bgpipe.pipeline.types import JobId

from ..workers.conftest import Cluster, until
from .conftest import bgpipe, dispatcher, failures, files, whole

pytestmark = pytest.mark.chaos

IMAGES = 60
CPU = ("--device", "cpu")


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system of its own in the place of `folder`: root's rights do not write to it either."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.getuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def photos(cluster: Cluster) -> list[str]:
    return [cluster.photo(f"photo {i}.jpg") for i in range(IMAGES)]


def retried(cluster: Cluster, job: JobId) -> None:
    """The job after `bgpipe retry`."""
    done = bgpipe(cluster, "retry", job, "--wait")
    assert done.returncode == 0, done.stderr
    assert (cluster.finished(job).done, cluster.jobs.summary(job).failed) == (IMAGES, 0)
    assert len(files(cluster.out)) == IMAGES
    assert whole(cluster.out)


def test_a_target_that_cannot_be_written_fails_every_image_until_it_is_repaired(
    cluster: Cluster,
) -> None:
    with (
        mounted(cluster.out, "size=64m,ro"),
        cluster.supervisor(*CPU),
        dispatcher(cluster),
    ):
        job = cluster.submit(photos(cluster))
        summary = cluster.finished(job)
        assert (summary.done, summary.failed) == (0, IMAGES)
        assert set(failures(cluster, job).values()) == {"E_ACCESS"}
        assert not files(cluster.out)
        remount(cluster.out, "rw")
        retried(cluster, job)


def test_a_full_target_keeps_what_is_whole_and_takes_the_rest_once_there_is_room(
    cluster: Cluster,
) -> None:
    with (
        mounted(cluster.out, "size=2m"),
        cluster.supervisor(*CPU),
        dispatcher(cluster),
    ):
        job = cluster.submit(photos(cluster))
        summary = cluster.finished(job)
        assert 0 < summary.done < IMAGES
        assert summary.done + summary.failed == IMAGES
        assert set(failures(cluster, job).values()) == {"E_STORAGE"}
        assert len(files(cluster.out)) == summary.done
        assert whole(cluster.out)
        remount(cluster.out, "size=64m")
        retried(cluster, job)


def test_a_target_that_turns_read_only_half_way_keeps_what_it_has(cluster: Cluster) -> None:
    with (
        mounted(cluster.out, "size=64m"),
        cluster.supervisor(*CPU),
        dispatcher(cluster),
    ):
        job = cluster.submit(photos(cluster))
        until(lambda: cluster.jobs.summary(job).done >= IMAGES // 4)
        remount(cluster.out, "ro")
        summary = cluster.finished(job)
        assert 0 < summary.done < IMAGES
        assert summary.done + summary.failed == IMAGES
        assert set(failures(cluster, job).values()) == {"E_ACCESS"}
        assert len(files(cluster.out)) == summary.done
        assert whole(cluster.out)
        remount(cluster.out, "rw")
        retried(cluster, job)
