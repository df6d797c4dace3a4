"""How long things took, in counts that never grow in number: what a worker keeps of its stages.

What a worker tells of itself: the fields of its heartbeat, written there and read by observers.

The age of a heartbeat is what is gone of its time to live, by the server's clock: the clocks of
the hosts need not agree.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from itertools import accumulate
from math import inf
from typing import Any, cast

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient

BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, inf)
"""Seconds, each the largest of its bucket: a small network's step to a stuck stage's limit."""


class Histogram:
    """Counts of seconds by BOUNDS, and their sum. One thread at a time may use it."""

    def __init__(self) -> None:
        self._counts = [0] * len(BOUNDS)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    @property
    def count(self) -> int:
        return sum(self._counts)

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Each bound with the number of observations up to it, as Prometheus counts them."""
        return zip(BOUNDS, accumulate(self._counts), strict=True)

    def copy(self) -> Histogram:
        return Histogram.read(self.write())

    def write(self) -> str:
        return json.dumps([self.sum, *self._counts])

    @classmethod
    def read(cls, text: str | bytes) -> Histogram:
        """What `write` made.

        Raises:
            ValueError: somebody else did, or a version with other bounds.

        """
        total, *counts = json.loads(text)
        if len(counts) != len(BOUNDS):
            raise ValueError(f"not a histogram of this version: {len(counts)} buckets")
        found = cls()
        found.sum, found._counts = float(total), [int(count) for count in counts]
        return found


LIFE = 20
"""Seconds after the last beat for which a worker counts as alive."""
STAGE = "stage:"
"""What the fields with the stages' histograms begin with."""

# KEYS: heartbeats. Returns for each its fields, and the milliseconds that it has left.
BEATS = """
local found = {}
for i, worker in ipairs(KEYS) do
  found[i] = {redis.call('HGETALL', worker), redis.call('PTTL', worker)}
end
return found
"""


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """Numbers count since the process began; times are Unix times. 0 where nothing is known."""

    device: str = ""
    """cpu or cuda."""
    model: str = ""
    """sha256 of the weights on the device; empty before the first image."""
    lanes: int = 0
    batch: int = 0
    """Images that one forward pass takes at most."""
    restarts: int = 0
    """Processes that this worker's supervisor started in its place before."""
    images: int = 0
    """Outcomes."""
    progress: float = 0.0
    """When the last of them was."""
    beat: float = 0.0
    in_flight: int = 0
    oldest: float = 0.0
    """Seconds for which the oldest image has been in flight."""
    steps: int = 0
    """Forward passes."""
    device_images: int = 0
    """Images in those passes."""
    device_seconds: float = 0.0
    """Time within those passes."""
    memory: int = 0
    """Resident bytes of the process."""
    disk_free: int = -1
    """Bytes free where the last cutout was written; -1 where that was no folder."""
    stages: Mapping[str, Histogram] = field(default_factory=dict)

    def write(self) -> dict[str, str | int | float]:
        """As the fields of a hash."""
        plain = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "stages"}
        return plain | {f"{STAGE}{name}": one.write() for name, one in self.stages.items()}

    @classmethod
    def read(cls, hashed: Mapping[str, str]) -> WorkerStats:
        """What `write` made, also that of an older version or a newer one, as far as it goes."""
        kinds = {name: type(value) for name, value in cls().write().items()}
        plain: dict[str, Any] = {
            name: kinds[name](text) for name, text in hashed.items() if name in kinds
        }
        stages = {}
        for name, text in hashed.items():
            if name.startswith(STAGE):
                with suppress(ValueError):  # of a version with other bounds
                    stages[name.removeprefix(STAGE)] = Histogram.read(text)
        return cls(**plain, stages=stages)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A heartbeat that is `age` seconds old. `worker` is the place's name, not the process's."""

    worker: str
    age: float
    stats: WorkerStats

    @property
    def label(self) -> str:
        """The device among those of its host, like gpu0; embedded workers' names have more."""
        return self.worker.partition("@")[0].partition("-")[0]

    @property
    def host(self) -> str:
        return self.worker.rpartition("@")[2]

    @property
    def idle(self) -> float:
        """Seconds since an image ended; without one, for which the oldest has been in flight."""
        vitals = self.stats
        return vitals.beat - vitals.progress if vitals.progress else vitals.oldest

    def is_stalled(self, limit: float) -> bool:
        """Whether for `limit` seconds there was work in hand and none of it came to its end."""
        return self.stats.in_flight > 0 and min(self.stats.oldest, self.idle) > limit


def read_heartbeats(client: RedisClient) -> list[Heartbeat]:
    """The last heartbeat of each worker that lives, or died less than `LIFE` seconds ago, by name."""
    prefix = keys.of_worker("")
    names = list(client.scan_iter(match=keys.of_worker("*"), count=1000))
    answers = client.eval(BEATS, len(names), *names) if names else []
    found: dict[str, Heartbeat] = {}
    for name, (flat, left) in zip(
        names, cast("list[tuple[list[bytes], int]]", answers), strict=True
    ):
        hashed = dict(zip(*[(text.decode() for text in flat)] * 2, strict=True))
        worker = cast("bytes", name).decode().removeprefix(prefix).partition("/")[0]
        age = LIFE - left / 1000
        # Of a process that died and its successor, the one that beats speaks for the place.
        if hashed and (worker not in found or age < found[worker].age):
            found[worker] = Heartbeat(worker, age, WorkerStats.read(hashed))
    return [found[worker] for worker in sorted(found)]
