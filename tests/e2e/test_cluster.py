"""Cluster mode: Redis, `bgpipe worker`, `bgpipe submit --detach` and Flower as separate processes."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.types import JobId, JobState, JobSummary

if TYPE_CHECKING:
    from .conftest import Bgpipe

NANO = ("--model", "birefnet-nano")
ACCOUNT = "me:secret"
SECONDS = 180.0
ENDED = {"SUCCESS", "FAILURE"}
ROW = re.compile(r'<tr id="[0-9a-f-]{36}".*?</tr>', re.DOTALL)


def until(done: Callable[[], Any]) -> Any:
    """What `done` returns once that is true."""
    deadline = time.monotonic() + SECONDS
    while not (found := done()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)
    return found


@pytest.fixture
def environment(redis_url: str) -> dict[str, str]:
    # One thread: several wait for each other at every step where the cores are shared.
    return {"BGPIPE_REDIS_URL": redis_url, "BGPIPE_WORKER__CPU_THREADS": "1"}


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=SECONDS)


@contextmanager
def flower(redis_url: str, folder: Path) -> Iterator[str]:
    """The address of a real Flower that hears the cluster's events."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "bgpipe.pipeline.cli", "flower"]
    options = [f"--port={address.split(':')[1]}"]
    given = {
        "BGPIPE_REDIS_URL": redis_url,
        "FLOWER_BASIC_AUTH": ACCOUNT,
        "XDG_STATE_HOME": str(folder),
    }
    with (
        (folder / "flower.log").open("w") as file,
        ended(
            subprocess.Popen(
                [*command, *options], stderr=file, text=True, env=os.environ | given, cwd=folder
            )
        ),
    ):
        yield f"http://{ACCOUNT}@{address}"


def workers(url: str) -> Any:
    """The workers that Flower has heard of."""
    try:
        return json.loads(get(f"{url}/workers?json=1"))["data"]
    except OSError:
        return None


def get(url: str, data: bytes | None = None) -> bytes:
    """What Flower answers to the account in `url`, or without an account."""
    account, _, place = url.removeprefix("http://").rpartition("@")
    request = urllib.request.Request(f"http://{place}", data)
    if account:
        token = base64.b64encode(account.encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            text: bytes = answer.read()
            return text
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise


class Chromium:
    """A real browser without a window, its profile in `folder`."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        if program is None and os.environ.get("CI") == "true":
            pytest.fail("no chromium on the PATH")
        if program is None:
            pytest.skip("no chromium on the PATH")
        self._folder = folder
        self._command = [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1600,900",
            f"--user-data-dir={folder / 'chromium'}",
            "--virtual-time-budget=10000",
        ]

    def rows(self, url: str) -> dict[str, str]:
        """The page's table of tasks, once its scripts have filled it: arguments and state."""
        page = self._run("--dump-dom", url).stdout
        found = {}
        for row in ROW.findall(page):
            cells = [re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<td.*?</td>", row)]
            name, arguments, state = cells[:3]
            assert name == "bgpipe.remove_background"
            found[arguments] = state
        return found

    def screenshot(self, url: str) -> Path:
        path = self._folder / "flower.png"
        self._run(f"--screenshot={path}", url)
        return path

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *arguments],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )


def ended_rows(browser: Chromium, url: str) -> dict[str, str] | None:
    """The rows of all six tasks, once Flower has heard how each ended."""
    rows = browser.rows(f"{url}/tasks")
    return rows if len(rows) == 6 and ENDED.issuperset(rows.values()) else None


def submit(bgpipe: Bgpipe, photos: Path, environment: dict[str, str]) -> JobId:
    done = bgpipe("submit", photos, *NANO, "--detach", **environment)
    assert done.returncode == 0, done.stderr
    return JobId(done.stdout.split()[-1])


def closed_books(redis_url: str, job: JobId) -> JobSummary:
    with connect(redis_url) as client:
        job_store = JobStore(client)
        until(lambda: job_store.summary(job).state == JobState.FINISHED)
        return job_store.summary(job)


def test_flower_lists_every_image_by_its_key_with_how_it_ended(
    bgpipe: Bgpipe, photos: Path, redis_url: str, environment: dict[str, str], tmp_path: Path
) -> None:
    browser = Chromium(tmp_path)
    (photos / "empty.jpg").touch()
    (photos / "letter.jpg").write_text("no photo")
    with (
        flower(redis_url, tmp_path) as url,
        ended(bgpipe.start("worker", "--device", "cpu", **environment)),
    ):
        until(lambda: workers(url))
        job = submit(bgpipe, photos, environment)
        summary = closed_books(redis_url, job)
        # The books are closed a moment before Flower hears of the last image.
        rows = until(lambda: ended_rows(browser, url))
        picture = browser.screenshot(f"{url}/tasks")
        for address, answer in ((url, 403), (url.replace(f"{ACCOUNT}@", ""), 401)):
            with pytest.raises(urllib.error.HTTPError) as refused:
                get(f"{address}/api/worker/shutdown/any", b"")
            assert refused.value.code == answer
    assert (summary.done, summary.failed) == (4, 2)
    states = {arguments.rsplit(", ", 1)[1]: state for arguments, state in rows.items()}
    assert states == {
        "'astronaut.png')": "SUCCESS",
        "'chelsea.png')": "SUCCESS",
        "'coffee.png')": "SUCCESS",
        "'empty.jpg')": "FAILURE",
        "'letter.jpg')": "FAILURE",
        "'sub folder/rökét 1.jpg')": "SUCCESS",
    }
    assert all(arguments.startswith(f"('{job}', ") for arguments in rows)
    with Image.open(picture) as shot:
        assert shot.size == (1600, 900)


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_loses_nothing(
    bgpipe: Bgpipe, photos: Path, redis_url: str, environment: dict[str, str]
) -> None:
    for copy in range(4):
        shutil.copytree(photos / "sub folder", photos / f"copy {copy}")
        shutil.copy(photos / "coffee.png", photos / f"coffee {copy}.png")
    # Redelivered soon, which may also happen to what a slow machine still works on.
    quick = {"BGPIPE_QUEUE__VISIBILITY_TIMEOUT": "5", "BGPIPE_QUEUE__MAX_ATTEMPTS": "20"}
    with (
        connect(redis_url) as client,
        ended(bgpipe.start("worker", "--device", "cpu", **environment, **quick)) as supervisor,
    ):
        job = submit(bgpipe, photos, environment)
        until(lambda: JobStore(client).summary(job).done >= 2)
        (victim,) = children(supervisor.pid)
        os.kill(victim, signal.SIGKILL)
        assert JobStore(client).summary(job).done < 12
        # It waits for the end, and sends again the message that Redis may lose at a kill.
        assert bgpipe("resume", job, "--wait", **environment, **quick).returncode == 0
        summary = JobStore(client).summary(job)
        (successor,) = children(supervisor.pid)
    assert successor != victim
    assert (summary.total, summary.done, summary.failed) == (12, 12, 0)
    out = photos.with_name("photos-cutouts")
    cutouts = sorted(path for path in out.rglob("*") if path.is_file())
    assert len(cutouts) == 12
    for path in cutouts:
        with Image.open(path) as cutout:
            cutout.load()
            assert cutout.mode == "RGBA"
    assert bgpipe("status", job, **environment).returncode == 0


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]
