"""A ledger in a real Redis, and a job to keep in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bgpipe.pipeline.catalog import Catalogs
from bgpipe.pipeline.connection import Connection, connect
from bgpipe.pipeline.ledger import Ledger
from bgpipe.pipeline.types import Item, Job, JobId, Preset, Recipe


@pytest.fixture
def client(redis_url: str) -> Iterator[Connection]:
    with connect(redis_url) as connection:
        yield connection


@pytest.fixture
def ledger(client: Connection) -> Ledger:
    return Ledger(client)


@pytest.fixture
def catalogs(ledger: Ledger, tmp_path: Path) -> Catalogs:
    return Catalogs(ledger.seals, tmp_path / "state" / "catalogs")


@pytest.fixture
def recipe() -> Recipe:
    return Recipe("birefnet-nano", "ab" * 32, (256, 320), Preset(blur=1.5))


@pytest.fixture
def job(recipe: Recipe) -> Job:
    return Job(JobId("spring-2024"), "/photos", "/photos-cutouts", recipe, created=1.7e9)


@pytest.fixture
def items() -> Callable[[int], list[Item]]:
    """`items(n)`: the first n items of a manifest."""
    return lambda count: [
        Item(index, f"shoes/{index}.jpg", f"shoes/{index}.png", f"{index}-1")
        for index in range(count)
    ]


@pytest.fixture
def open_job(
    ledger: Ledger, job: Job, items: Callable[[int], list[Item]]
) -> Callable[[int], JobId]:
    """`open_job(n)`: a started job of n items."""

    def opened(count: int) -> JobId:
        ledger.open(job)
        ledger.add(job.id, items(count))
        ledger.start(job.id)
        return job.id

    return opened
