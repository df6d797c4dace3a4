"""A job store in a real Redis, and a job for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.broker.client import RedisClient, connect
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.planning.catalog import Catalogs
from bgpipe.pipeline.session import Session
from bgpipe.pipeline.types import Item, Job, JobId, Preset, Recipe


@pytest.fixture
def client(redis_url: str) -> Iterator[RedisClient]:
    with connect(redis_url) as connection:
        yield connection


@pytest.fixture
def job_store(client: RedisClient) -> JobStore:
    return JobStore(client)


@pytest.fixture
def catalogs(job_store: JobStore, tmp_path: Path) -> Catalogs:
    return Catalogs(job_store.items, tmp_path / "state" / "catalogs")


@pytest.fixture
def session(client: RedisClient, job_store: JobStore, redis_url: str, tmp_path: Path) -> Session:
    changes = {"redis_url": redis_url, "state_dir": str(tmp_path / "state")}
    return Session(load_settings().model_copy(update=changes), redis_url, client, job_store)


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
    job_store: JobStore, job: Job, items: Callable[[int], list[Item]]
) -> Callable[[int], JobId]:
    """`open_job(n)`: a started job of n items."""

    def opened(count: int) -> JobId:
        job_store.open(job)
        job_store.add(job.id, items(count))
        job_store.start(job.id)
        return job.id

    return opened
