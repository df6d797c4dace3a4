"""Two hundred clients at once, for a minute: nothing but 'come back later' is refused.

    pytest tests/pipeline/http/test_lifecycle_load.py --slow -s

prints the figures of infra/docs/http.md.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from PIL import Image

from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.types import JobId, JobState

from ...support.http_service import Service, cluster
from ...support.redis_server import require_redis

CLIENTS = 200
SECONDS = 60.0
MARK = 100
"""Messages in the queue above which the server refuses: some ten seconds of this machine's work."""


@dataclass
class Tally:
    answers: Counter[str] = field(default_factory=Counter)
    accepted: list[str] = field(default_factory=list)
    fetched: int = 0
    waits: list[float] = field(default_factory=list)
    """Seconds until the answer to each request that was not a download."""
    troubles: list[str] = field(default_factory=list)


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[Service]:
    pytest.importorskip("uvicorn")
    require_redis()
    with cluster(tmp_path) as running, running.another(BGPIPE_SERVE__QUEUE_MARK=str(MARK)) as one:
        yield one


def photo(number: int) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((160 + number % 7, 120), 60).convert("RGB").save(file, "JPEG")
    return file.getvalue()


async def ask(
    client: httpx2.AsyncClient, tally: Tally, method: str, path: str, **body: object
) -> httpx2.Response:
    began = time.monotonic()
    answer = await client.request(method, path, **body)
    tally.waits.append(time.monotonic() - began)
    tally.answers[f"{method} {answer.status_code}"] += 1
    if answer.status_code >= 400 and answer.status_code != 429:
        tally.troubles.append(f"{answer.status_code} {path}: {answer.text[:300]}")
    return answer


async def visit(client: httpx2.AsyncClient, tally: Tally, number: int, end: float) -> None:
    """One client: sends, follows, fetches, and begins again until `end`."""
    files = {"files": (f"{number}.jpg", photo(number))}
    while time.monotonic() < end:
        made = await ask(client, tally, "POST", "/v1/jobs/from-images", files=files)
        if made.status_code != 201:
            await asyncio.sleep(min(int(made.headers.get("retry-after", 5)), 10))
            continue
        job = made.json()["job"]
        tally.accepted.append(job)
        while time.monotonic() < end:
            await asyncio.sleep(2)
            summary = await ask(client, tally, "GET", f"/v1/jobs/{job}")
            if summary.status_code == 200 and summary.json()["state"] == "finished":
                result = await ask(client, tally, "GET", f"/v1/jobs/{job}/items/0/result")
                tally.fetched += result.content.startswith(b"\x89PNG")
                break


async def crowd(service: Service, tally: Tally) -> None:
    """All clients at once."""
    limits = httpx2.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    end = time.monotonic() + SECONDS
    async with httpx2.AsyncClient(base_url=service.url, limits=limits, timeout=60) as client:
        await asyncio.gather(*(visit(client, tally, n, end) for n in range(CLIENTS)))


@pytest.mark.slow
def test_nothing_but_come_back_later_is_refused_and_every_image_is_in_the_books(
    crowded: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = Tally()
    asyncio.run(crowd(crowded, tally))
    assert tally.troubles == []
    assert tally.accepted
    deadline = time.monotonic() + 300
    with connect(crowded.redis_url) as redis:
        job_store = JobStore(redis)
        for job in tally.accepted:
            while (summary := job_store.summary(JobId(job))).state is not JobState.FINISHED:
                assert time.monotonic() < deadline, summary
                time.sleep(0.05)
            assert (summary.total, summary.done) == (1, 1), summary
    waits = sorted(tally.waits)
    with capsys.disabled():
        print(
            f"\nanswers {dict(sorted(tally.answers.items()))}"
            f"\naccepted {len(tally.accepted)}, fetched meanwhile {tally.fetched}"
            f"\nseconds to an answer: median {waits[len(waits) // 2]:.3f}, "
            f"99 % {waits[len(waits) * 99 // 100]:.3f}, longest {waits[-1]:.3f}"
            f"\nserver's memory at most: {crowded.peak_memory:.0f} MiB"
        )
