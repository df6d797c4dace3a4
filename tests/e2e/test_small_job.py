"""The prompt is back when the books close; what ends after that loses nothing and stays nowhere."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ..support.locks import is_free
from .conftest import Bgpipe

PATIENCE = 90.0
NANO = ("--model", "birefnet-nano")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@pytest.fixture
def state(bgpipe: Bgpipe) -> Path:
    return bgpipe.home / "state/bgpipe"


def all_has_ended(state: Path) -> bool:
    home = state / "redis"
    return is_free(home / "users.lock") and is_free(home / "server.lock")


def test_worker_and_server_end_by_themselves_after_the_prompt_is_back(
    bgpipe: Bgpipe, photos: Path, state: Path
) -> None:
    done = bgpipe("submit", photos / "coffee.png", "--out", photos / "cutout.png", *NANO)
    assert done.returncode == 0, done.stderr
    until(lambda: all_has_ended(state))
    log = (state / "worker.log").read_text()
    assert "worker ends code=0" in log
    assert not {"error", "critical", "warning"} & set(log.split())


def test_commands_that_follow_at_once_find_all_that_was_written(
    bgpipe: Bgpipe, photos: Path, state: Path
) -> None:
    for name in ("first", "second", "third"):
        out = photos.parent / f"{name}.png"
        done = bgpipe("submit", photos / "coffee.png", "--out", out, *NANO, "--job", name)
        assert done.returncode == 0, done.stderr
        summary = json.loads(bgpipe("--json", "status", name).stdout)
        assert (summary["state"], summary["done"]) == ("finished", 1)
        assert out.exists()
    until(lambda: all_has_ended(state))
    listed = [json.loads(line)["job"] for line in bgpipe("--json", "jobs").stdout.splitlines()]
    assert sorted(listed) == ["first", "second", "third"]


def test_the_server_of_a_killed_command_ends_with_its_worker(
    bgpipe: Bgpipe, photos: Path, state: Path
) -> None:
    submitter = bgpipe.start("submit", photos, *NANO, "--job", "killed")
    log = state / "worker.log"
    until(lambda: log.exists() and "worker is ready" in log.read_text())
    os.kill(submitter.pid, signal.SIGKILL)
    submitter.communicate()
    until(lambda: all_has_ended(state))
    resumed = bgpipe("--json", "resume", "killed")
    summary = json.loads(resumed.stdout.splitlines()[-1])
    assert summary["done"] + summary["failed"] == summary["total"]
