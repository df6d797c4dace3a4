"""A job of very many images: what each command costs Redis, above all the longest one that blocks it.

The manifest is written as a submitter writes it; outcomes are written as bits where a million settled images
would only take time.
"""

from __future__ import annotations

import json
import random
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from bounds import Bound

from bgpipe.config.presets import Preset
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.jobs.items import FINGERPRINT_BYTES
from bgpipe.pipeline.jobs.manifest import BLOCK
from bgpipe.pipeline.jobs.records import write_flags
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.types import Item, Job, JobId, JobState, Outcome, Recipe, ReviewFlag

LONGEST = 20.0
"""Milliseconds for which a command may block Redis."""
MEMORY = 300.0
"""MB of the submitter."""
KNOWN_JOBS = 2_000
"""Jobs that ended, beside the large one."""
READS = 3
"""Times that what changes nothing is measured."""
PAGE = 100
PIPELINE = 100
CHUNK = 8000
"""Bytes written at once: the fingerprints of a thousand images."""
JOB = JobId("large")
RECIPE = Recipe("none", "0" * 64, (32, 32), Preset())
ERROR = PermanentError(Code.NOT_IMAGE, "no image: neither JPEG, PNG, WebP nor TIFF")


@dataclass(frozen=True, slots=True)
class Phase:
    """Measures what one command of a user does to Redis."""

    client: RedisClient

    def run(self, what: str, work: Callable[[], object], times: int = 1) -> Iterator[Bound]:
        """Yield the time of `work`, and of its longest command: the least of several times.

        On a machine with other load a command waits for a core; it takes no longer than the processor
        time of the server during all of them.
        """
        measured = [self._measure(work) for _ in range(times)]
        seconds, longest = (min(column) for column in zip(*measured, strict=True))
        yield Bound(f"{what}: seconds", seconds, "s")
        yield Bound(f"{what}: longest command", longest, "ms", maximum=LONGEST)

    def _measure(self, work: Callable[[], object]) -> tuple[float, float]:
        self.client.slowlog_reset()
        start, used = time.perf_counter(), self._processor_time()
        work()
        seconds, used = time.perf_counter() - start, self._processor_time() - used
        slowest: list[Any] = self.client.slowlog_get(1000)
        longest = max((entry["duration"] for entry in slowest), default=0) / 1000
        return seconds, min(longest, used)

    def _processor_time(self) -> float:
        """Return milliseconds of the thread that runs the commands."""
        info = self.client.info("cpu")
        return 1000 * (info["used_cpu_sys_main_thread"] + info["used_cpu_user_main_thread"])


def large_job(client: RedisClient, count: int, failures: int) -> Iterator[Bound]:
    """The figures of a job of `count` images, of which `failures` fail and as many have flags."""
    store, phase = JobStore(client), Phase(client)
    client.config_set("slowlog-log-slower-than", 500)
    client.config_set("slowlog-max-len", 2000)
    make_known_jobs(store)
    yield from phase.run("list", lambda: list_items(store, count))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    yield Bound("list: peak memory", peak, "MB", maximum=MEMORY)
    yield from phase.run(
        "publish: items that are left", lambda: take(store.items.missing(JOB), BLOCK)
    )
    yield from phase.run("settle", lambda: settle(client, store, count, failures))
    size = sum(client.memory_usage(name, samples=0) or 0 for name in keys.of_job(JOB))
    yield Bound("Redis for manifest and state", size / count, "B/image", maximum=48)
    yield from phase.run("running jobs", store.running_ids, READS)
    yield from phase.run("status", lambda: first_failures(store), READS)
    yield from phase.run("errors: 30,000", lambda: take(store.items.failures(JOB), 30_000), READS)
    yield from phase.run("report: first and last pages", lambda: pages(store, count), READS)
    yield from phase.run("report: flags", lambda: store.items.flags(JOB), READS)
    yield from phase.run(
        "feeder: nothing is missing", lambda: take(store.items.missing(JOB), 1), READS
    )
    yield from phase.run("retry", lambda: store.retry(JOB, token=9))
    assert store.summary(JOB).queued == failures
    yield from phase.run("items to retry", lambda: take(store.items.missing(JOB), failures))
    store.cancel(JOB)
    yield from phase.run("forget", lambda: store.forget(JOB))


def make_known_jobs(store: JobStore) -> None:
    for number in range(KNOWN_JOBS):
        job = Job(JobId(f"known-{number}"), f"/{number}", f"/{number}-out", RECIPE, 1.7e9 + number)
        store.open(job)
        store.start(job.id)


def list_items(store: JobStore, count: int) -> None:
    job = Job(JOB, "/photos", "/photos-cutouts", RECIPE, time.time())
    store.open(job)
    for first in range(0, count, BLOCK):
        store.add(JOB, [item(index) for index in range(first, min(first + BLOCK, count))], 1)
    store.start(JOB, 1)


def item(index: int) -> Item:
    """Name, size and time of a numbered article's photo, as a folder lists it."""
    article, view = divmod(index, 4)
    name = f"season-{article // 50_000:02}/kind-{article // 1000 % 50:02}/{article:08}_{view}"
    scattered = index * 2_654_435_761 % 2**32
    identity = (
        f"{20_000 + scattered % 3_980_000}-{1_700_000_000 + scattered % 10**7}{index % 10**9:09}"
    )
    return Item(index, f"{name}.jpg", f"{name}.png", identity)


def settle(client: RedisClient, store: JobStore, count: int, failures: int) -> None:
    """Write what the scripts would have written, but for the last image, which is settled by them."""
    names, step, last = keys.of_job(JOB), count // failures, count - 1
    for first in range(0, FINGERPRINT_BYTES * count, CHUNK):
        client.setrange(names.fingerprints, first, random.randbytes(CHUNK))
    failed = range(0, step * failures, step)
    flagged = range(1, step * failures, step)
    write_bits(client, names.claimed, count, ())
    write_bits(client, names.done, count, (*failed, last))
    write_bits(client, names.failed, count, (*failed, last), inverted=True)
    client.setbit(names.failed, last, 0)
    write_fields(
        client, names.errors, failed, json.dumps({"code": ERROR.code, "detail": ERROR.detail})
    )
    write_fields(client, names.flags, flagged, str(write_flags((ReviewFlag.NO_SUBJECT,))))
    counts = {"done": last - failures, "failed": failures, f"error:{ERROR.code}": failures}
    client.hset(names.head, mapping=counts | {"flagged": failures, "cursor": count})
    store.items.settle(JOB, Outcome.done(last))
    assert store.summary(JOB).state is JobState.FINISHED


def write_bits(
    client: RedisClient, key: str, count: int, others: Sequence[int], *, inverted: bool = False
) -> None:
    """Set every bit but those of `others`; the opposite if `inverted`."""
    bits = bytearray((b"\x00" if inverted else b"\xff") * (count // 8))
    for index in others:
        bits[index // 8] ^= 0x80 >> index % 8
    for first in range(0, len(bits), CHUNK):
        client.setrange(key, first, bytes(bits[first : first + CHUNK]))


def write_fields(client: RedisClient, key: str, indices: range, value: str) -> None:
    for first in range(0, len(indices), PIPELINE):
        page = indices[first : first + PIPELINE]
        client.hset(key, mapping=dict.fromkeys(map(str, page), value))


def first_failures(store: JobStore) -> None:
    store.summary(JOB)
    take(store.items.failures(JOB), 10)


def pages(store: JobStore, count: int) -> None:
    for start in (0, count // 2, count - PAGE):
        assert len(store.items.views(JOB, start, start + PAGE)) == PAGE


def take(values: Iterator[object], count: int) -> None:
    for _ in islice(values, count):
        pass
