"""Measure jobs of a million and of ten million images: `python tests/bench/ledger.py [--keys N] [--large N]`.

Keys are generated, no image exists, and an engine that does nothing settles what is published. The
submitting side is a process of its own, so that its peak memory is its own. The larger job (0: none)
is neither planned nor published (large_job.py). Prints a table; the exit code is 1 if a figure misses what infra/docs/reliability.md promises of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bounds import Bound, report
from large_job import large_job

from bgpipe.config.presets import Preset
from bgpipe.config.settings import QueueSettings, load_settings
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient, connect
from bgpipe.pipeline.broker.embedded import redis_server
from bgpipe.pipeline.broker.queue import make_app, read_depth
from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.planning.planner import list_job
from bgpipe.pipeline.scheduling.dispatcher import BATCH, Feeder
from bgpipe.pipeline.storage.base import ignore
from bgpipe.pipeline.storage.local import LocalStore
from bgpipe.pipeline.types import Job, JobId, ObjectInfo, Outcome, Recipe

FED = 21_000
"""Messages of which the publishing is timed: more than the high-water mark."""
FAILED = 5_000
"""Images that have failed when the status is asked for."""
STATUS_CALLS = 50
FILES_SINCE = 1_700_000_000_000_000_000
"""Unix time in ns of the oldest generated file."""


def catalogue(count: int) -> Iterator[str]:
    """Keys like a shop's: folders of seasons and kinds, numbered articles with several views."""
    for number in range(count):
        article, view = divmod(number, 4)
        yield f"season-{article // 50_000:02}/kind-{article // 1000 % 50:02}/{article:08}_{view}.jpg"


def unique(count: int) -> Iterator[str]:
    """Keys like an upload service's: random UUIDs below two levels of folders."""
    source = random.Random(1)
    names = sorted(str(uuid.UUID(int=source.getrandbits(128), version=4)) for _ in range(count))
    return (f"{name[:2]}/{name[2:4]}/{name}.jpg" for name in names)


KINDS: dict[str, Callable[[int], Iterator[str]]] = {"catalogue": catalogue, "uuid": unique}


class GeneratedStore(LocalStore):
    """Lists files that do not exist, with the sizes and times of files that could."""

    def __init__(self, root: Path, names: Iterator[str]) -> None:
        super().__init__(root)
        self._names = names

    def list(
        self, *, missing_ok: bool = False, on_skipped: Callable[[str], None] = ignore
    ) -> Iterator[ObjectInfo]:
        del missing_ok, on_skipped
        source = random.Random(2)
        for name in self._names:
            size = source.randrange(20_000, 4_000_000)
            changed = FILES_SINCE + source.randrange(10**16)
            yield ObjectInfo(name, size, f"{size}-{changed}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--large", type=int, default=0, help="images of a second, larger job")
    parser.add_argument("--submit", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--redis", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.submit:
        submit(options.submit, options.keys, options.redis)
        return 0
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as url:
        is_kept = measure(options.keys, url) if options.keys else True
        if options.large:
            with connect(url) as client:
                is_kept &= report(large_job(client, options.large, options.large * 3 // 100))
    return 0 if is_kept else 1


def measure(count: int, url: str) -> bool:
    is_kept = True
    queue = load_settings().queue
    with connect(url) as client:
        for kind in KINDS:
            is_kept &= report(submitted(kind, count, url, client, queue))
        is_kept &= report(status(client, url))
    return is_kept


def submitted(
    kind: str, count: int, url: str, client: RedisClient, queue: QueueSettings
) -> Iterator[Bound]:
    """The figures of one job, whose submitter is another process and whose worker is this one."""
    command = [sys.executable, __file__, "--submit", kind, "--redis", url, "--keys", str(count)]
    job_store, job = JobStore(client), JobId(kind)
    with running(command) as submitter:
        assert submitter.stdout
        listing = json.loads(submitter.stdout.readline())
        deepest = settle(job_store, client, job, queue, min(FED, count))
        feeding = json.loads(submitter.stdout.readline())
    client.delete(queue.name)
    # The last items, so that every bitmap has its full length.
    for index in (count - 1, count - 2):
        job_store.items.claim(job, index, "bench")
    job_store.items.settle(job, Outcome.done(count - 1), identity="a cutout")
    job_store.items.settle(job, failed(count - 2))
    size = sum(client.memory_usage(name, samples=0) or 0 for name in keys.of_job(job))
    yield Bound(f"{kind}: Redis for manifest and ledger", size / count, "B/image", maximum=48)
    yield Bound(f"{kind}: listed and planned", count / listing["seconds"], "keys/s")
    yield Bound(f"{kind}: published", feeding["rate"], "keys/s", minimum=2000)
    yield Bound(f"{kind}: processor time to publish", feeding["cpu"] * 1e6, "us/key")
    yield Bound(f"{kind}: submitter's peak memory", feeding["peak"], "MB", maximum=300)
    yield Bound(f"{kind}: most messages in Redis", deepest, "", maximum=queue.high_water)
    yield Bound(f"{kind}: Redis for those messages", feeding["queue"] / 1e6, "MB")


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that is ended with what needs it."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def settle(
    job_store: JobStore, client: RedisClient, job: JobId, queue: QueueSettings, count: int
) -> int:
    """Be the worker whose engine does nothing for `count` images; returns the deepest queue seen."""
    deepest = settled = 0
    while settled < count:
        deepest = max(deepest, read_depth(client, queue.name))
        if deepest < queue.high_water and settled == 0:
            time.sleep(0.2)  # the publishing is timed up to the mark, without load
            continue
        for _ in client.rpop(queue.name, 500) or []:
            job_store.items.settle(job, Outcome.done(settled))
            settled += 1
    return deepest


def submit(kind: str, count: int, url: str) -> None:
    """The submitting process: list, then feed; prints a line of figures after each."""
    settings = load_settings()
    recipe = Recipe("none", "0" * 64, (32, 32), Preset())
    with (
        connect(url) as client,
        make_app(settings, url) as app,
        tempfile.TemporaryDirectory() as out,
    ):
        job_store = JobStore(client)
        feeder = Feeder(job_store, app, client, settings.queue)
        source, target = GeneratedStore(Path(out), KINDS[kind](count)), LocalStore(Path(out, "out"))
        job = Job(JobId(kind), source.location, target.location, recipe, time.time(), force=True)
        start = time.perf_counter()
        job_store.open(job)
        list_job(job_store, None, job, source, target, token=1)
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)
        start, worked = time.perf_counter(), time.process_time()
        while feeder.capacity() and job_store.cursor(job.id) < count:
            feeder.publish_next(job.id, min(BATCH, feeder.capacity()), token=1)
        rate = job_store.cursor(job.id) / (time.perf_counter() - start)
        cpu = (time.process_time() - worked) / job_store.cursor(job.id)
        held = client.memory_usage(settings.queue.name, samples=0)
        while job_store.cursor(job.id) < min(FED, count):
            feeder.publish_next(job.id, min(BATCH, feeder.capacity()), token=1)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"rate": rate, "cpu": cpu, "queue": held, "peak": peak}), flush=True)


def status(client: RedisClient, url: str) -> Iterator[Bound]:
    """How long the ledger and the command take to say how a job stands, of which some failed."""
    job_store, job = JobStore(client), JobId("catalogue")
    for index in job_store.items.missing(job):
        if index >= FED + FAILED:
            break
        job_store.items.settle(job, failed(index))
    seconds = []
    for _ in range(STATUS_CALLS):
        start = time.perf_counter()
        job_store.summary(job)
        next(job_store.items.failures(job))
        seconds.append(time.perf_counter() - start)
    yield Bound(
        "status: books and first failures", statistics.median(seconds) * 1e3, "ms", maximum=100
    )
    command = [Path(sys.executable).with_name("bgpipe"), "status", job]
    start = time.perf_counter()
    subprocess.run(
        command, env=os.environ | {"BGPIPE_REDIS_URL": url}, check=True, capture_output=True
    )
    yield Bound("status: the whole command", (time.perf_counter() - start) * 1e3, "ms")


def failed(index: int) -> Outcome:
    return Outcome.failed(index, PermanentError(Code.NOT_IMAGE, "no image"))


if __name__ == "__main__":
    sys.exit(main())
