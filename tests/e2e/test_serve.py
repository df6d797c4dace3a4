"""`bgpipe serve` on a laptop: one command brings Redis, dispatcher and worker, and ends them."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest

from ..support.http_service import SECONDS
from ..support.locks import is_free
from ..support.ports import await_listening, free_port

if TYPE_CHECKING:
    from .conftest import Bgpipe


@contextmanager
def served(bgpipe: Bgpipe) -> Iterator[httpx2.Client]:
    port = free_port()
    process = bgpipe.start("serve", "--port", port, BGPIPE_WORKER__CPU_THREADS="1")
    try:
        await_listening(port)
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as client:
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        _, words = process.communicate(timeout=2 * SECONDS)
    assert process.returncode == 0, words


def test_one_command_serves_and_leaves_nothing_running(bgpipe: Bgpipe, photos: Path) -> None:
    pytest.importorskip("uvicorn")
    lock = bgpipe.home / "state/bgpipe/redis/server.lock"  # held as long as the server runs
    file = {"files": ("chelsea.png", (photos / "chelsea.png").read_bytes())}
    with served(bgpipe) as client:
        # The default model cannot be had: the bundled one takes its place, and the books say so.
        made = client.post("/v1/jobs/from-images", files=file)
        assert made.status_code == 201, made.text
        job = made.json()["job"]
        assert made.json()["model"] == "birefnet-nano"
        deadline = time.monotonic() + 2 * SECONDS
        while (summary := client.get(f"/v1/jobs/{job}").json())["state"] != "finished":
            assert time.monotonic() < deadline, summary
            time.sleep(0.1)
        assert summary["done"] == 1
        assert not is_free(lock)
    assert is_free(lock)
    # What was made is still there for the next command, and for the next server.
    assert bgpipe.records("status", job)[-1]["done"] == 1
