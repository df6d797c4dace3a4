"""How much faster lanes make a worker around one device: `python tests/bench/overlap.py`.

Two real worker processes on a real Redis, one with 24 lanes and one with a single lane, take turns;
device, decoder and encoder sleep (sleeping_worker.py). Prints images/s of every turn and the ratio
of the medians; the exit code is 1 if that is below 8.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bgpipe.config.presets import Preset
from bgpipe.config.settings import Settings, load_settings
from bgpipe.pipeline.broker.client import RedisClient, connect
from bgpipe.pipeline.broker.embedded import redis_server
from bgpipe.pipeline.broker.queue import make_app, publish
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.types import Item, Job, JobId, JobState, Recipe

ROUNDS = 3
LEAST_RATIO = 8.0
SECONDS = 120.0
"""For one turn, before it counts as hanging."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A worker with a queue of its own; `images` in one of its turns."""

    lanes: int
    images: int

    @property
    def queue(self) -> str:
        return f"lanes-{self.lanes}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "BGPIPE_QUEUE__NAME": self.queue,
            "BGPIPE_WORKER__LANES": str(self.lanes),
            "BGPIPE_WORKER__BATCH": "8",
        }


CONTESTANTS = (
    Contestant(24, images=720),
    Contestant(1, images=60),
)


def main() -> int:
    rates: dict[int, list[float]] = {contestant.lanes: [] for contestant in CONTESTANTS}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        home = Path(folder)
        url = stack.enter_context(redis_server(home / "state"))
        client = stack.enter_context(connect(url))
        settings = load_settings()
        for contestant in CONTESTANTS:
            stack.enter_context(worker(contestant, url, home))
        for turn in range(-1, ROUNDS):
            for contestant in CONTESTANTS:
                # The first turn is for imports, connections and threads.
                images = contestant.images if turn >= 0 else 2 * contestant.lanes
                rate = run(contestant, images, client, settings, url, home)
                if turn >= 0:
                    rates[contestant.lanes].append(rate)
    return report(rates)


@contextmanager
def worker(contestant: Contestant, url: str, home: Path) -> Iterator[None]:
    name = contestant.queue
    command = [sys.executable, Path(__file__).with_name("sleeping_worker.py"), "--name"]
    with (home / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"{name}@bench"],
            env=os.environ | contestant.environment | {"BGPIPE_REDIS_URL": url},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
        try:
            yield
        finally:
            process.terminate()
            process.communicate()


def run(
    contestant: Contestant,
    images: int,
    client: RedisClient,
    settings: Settings,
    url: str,
    home: Path,
) -> float:
    """Images/s of one job of `images`, from its publication to its end."""
    source, out = home / "source", home / "out"
    for folder in (source, out):
        folder.mkdir(exist_ok=True)
    items = [Item(i, f"{i:04}.jpg", f"{i:04}.png", "identity") for i in range(images)]
    for item in items:
        (source / item.source).write_bytes(b"a photo")
    job_store = JobStore(client)
    recipe = Recipe("asleep", "0" * 64, (32, 32), Preset(foreground=False))
    job = JobId(f"{contestant.queue}-{time.monotonic_ns()}")
    job_store.open(Job(job, str(source), str(out), recipe, time.time()))
    job_store.add(job, items)
    job_store.start(job)
    start = time.perf_counter()
    publish(make_app(settings, url), job, items, contestant.queue)
    while (summary := job_store.summary(job)).state != JobState.FINISHED:
        if time.perf_counter() - start > SECONDS:
            raise TimeoutError(f"{contestant.queue}: {summary}")
        time.sleep(0.02)
    assert summary.done == images, summary
    return images / (time.perf_counter() - start)


def report(rates: dict[int, list[float]]) -> int:
    print(f"{'lanes':>5}  {'median':>6}  images/s of each turn")
    for lanes, measured in rates.items():
        turns = "  ".join(f"{rate:.1f}" for rate in measured)
        print(f"{lanes:>5}  {statistics.median(measured):>6.1f}  {turns}")
    many, one = (statistics.median(measured) for measured in rates.values())
    print(f"ratio of the medians: {many / one:.1f} (at least {LEAST_RATIO:.0f} wanted)")
    return 0 if many / one >= LEAST_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
