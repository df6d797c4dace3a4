"""How many workers one Redis and one dispatcher feed: `python tests/bench/fleet.py carried|saturated|slowed`.

One dispatcher process, one Redis server with its append-only file, and forks of the real worker whose device
only sleeps and whose codec does nothing (sleeping_worker.py); files are a few bytes in memory. Everything else is real. Each
fleet is measured in the middle of a job: carried, after it was idle, at rates for which this machine has the
processors; saturated, at rates for which it has not; slowed, with a Redis that is stopped nine tenths of the time, so
that its capacity is reached before the workers'. The columns of processes are CPU seconds per second; Redis: its main thread.
`--fleets N` measures the first N alone.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bgpipe.config.presets import Preset
from bgpipe.pipeline.broker.client import RedisClient, connect
from bgpipe.pipeline.broker.embedded import redis_server
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.monitoring.heartbeat import WorkerStats, read_heartbeats
from bgpipe.pipeline.processes import background_thread
from bgpipe.pipeline.types import Item, Job, JobId, Recipe

LANES = 8
SETTLE = 8.0
"""Seconds before a measurement."""
IDLE = 10.0
PERIOD = 5.0
"""Seconds between two heartbeats."""
MESSAGES = 2000
"""Part of the high-water mark beyond what workers hold: small, so that the dispatcher publishes all the time."""
TICKS = os.sysconf("SC_CLK_TCK")
MEMORY = "/dev/shm"  # the workers' files wait for no disk
FULL = 0.8
"""Share of a core above which a process counts as full."""
DEVICES = 1000
MOST = 8
"""Commands listed."""
RATES = (4.5, 17.0, 60.0)
"""Images/s of a device for which limits are computed."""

SLOW = 0.1
"""Share of a core that a slowed Redis gets."""
PULSE = 0.01
"""Seconds between two stops of a slowed Redis."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Workers with a device of `rate` images/s each, at a Redis that has `core` of a core."""

    workers: int
    rate: float
    core: float = 1.0


PARTS = {
    "carried": (Fleet(1, 60), Fleet(8, 20), Fleet(64, 2.5), Fleet(256, 0.6)),
    "saturated": (Fleet(1, 1000), Fleet(8, 100), Fleet(64, 12), Fleet(256, 3)),
    "slowed": tuple(Fleet(64, rate, SLOW) for rate in (1, 2, 3, 4)),
}


@dataclass(frozen=True, slots=True)
class Usage:
    """Totals until `time`: CPU seconds, commands, bytes."""

    time: float
    redis: float
    dispatcher: float
    workers: float
    commands: float
    bytes: float

    def per_second(self, before: Usage) -> Usage:
        passed = self.time - before.time
        return Usage(*((getattr(self, n) - getattr(before, n)) / passed for n in self.__slots__))


@dataclass(frozen=True, slots=True)
class Measured:
    """A fleet's images/s, and the shares of time in which its devices waited and its lanes had an image."""

    images: float
    waiting: float
    lanes: float
    busy: Usage
    idle: Usage
    """Zeros where it was not measured."""
    commands: dict[str, tuple[float, float]]
    """Calls an image of each command, also of those inside scripts, and their microseconds."""

    def per_image(self, name: str) -> float:
        """Return what an image takes beyond what the idle fleet does."""
        return (getattr(self.busy, name) - getattr(self.idle, name)) / self.images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--fleets", type=int)
    given = parser.parse_args()
    print(f"| {given.part} | images/s | waiting | lanes busy | Redis | dispatcher | workers |")
    print("|---" * 7 + "|")
    measured = []
    for fleet in PARTS[given.part][: given.fleets]:
        measured.append(found := measure(fleet, given.seconds, is_idle=given.part == "carried"))
        wanted = f"{fleet.workers} \N{MULTIPLICATION SIGN} {fleet.rate:g}"
        cells = [f"{found.images:.0f}", f"{found.waiting:.0%}", f"{found.lanes:.0%}"]
        cells += [f"{getattr(found.busy, name):.2f}" for name in ("redis", "dispatcher", "workers")]
        print(f"| {wanted} | " + " | ".join(cells) + " |", flush=True)
    if given.part == "carried":
        show_costs(PARTS[given.part], measured)
        show_commands(measured[-1])
        show_limits(PARTS[given.part][len(measured) - 1].workers, measured[-1])


def show_costs(fleets: Sequence[Fleet], measured: Sequence[Measured]) -> None:
    print(
        "\n| an image | commands | bytes | µs: Redis | dispatcher | worker |\n|---|---|---|---|---|---|"
    )
    for fleet, found in zip(fleets, measured, strict=False):
        amounts = (found.per_image(name) for name in ("commands", "bytes"))
        times = (1e6 * found.per_image(name) for name in ("redis", "dispatcher", "workers"))
        cells = (f"{each:.0f}" for each in (*amounts, *times))
        print(f"| {fleet.workers} | " + " | ".join(cells) + " |")
    fleet, idle = fleets[len(measured) - 1], measured[-1].idle
    amounts = (f"{idle.commands / fleet.workers:.1f}", f"{idle.bytes / fleet.workers:.0f}")
    times = (1e6 * each / fleet.workers for each in (idle.redis, idle.dispatcher, idle.workers))
    cells = (*amounts, *(f"{each:.0f}" for each in times))
    print(f"| {fleet.workers}, an idle second | " + " | ".join(cells) + " |")


def show_commands(found: Measured) -> None:
    """Print the commands of an image that take the most time of Redis."""
    print("\n| command | an image | µs |\n|---|---|---|")
    for name, (calls, spent) in sorted(found.commands.items(), key=lambda each: -each[1][1])[:MOST]:
        print(f"| {name} | {calls:.2f} | {spent:.1f} |")


def show_limits(workers: int, found: Measured) -> None:
    """Print what larger fleets need, computed from one of so many workers."""
    print("\n| | images/s | " + " | ".join(f"devices at {rate:g}" for rate in RATES) + " |")
    print("|---|---|" + "---|" * len(RATES))
    needs = {"Redis": found.idle.redis / workers, "dispatcher": 0.0}
    for name, idle in needs.items():
        image = found.per_image(name.lower())
        devices = (f"{FULL / (rate * image + idle):.0f}" for rate in RATES)
        print(f"| {name}, {FULL:.0%} busy | {FULL / image:.0f} | " + " | ".join(devices) + " |")
    for name, idle in needs.items():
        cores = (f"{DEVICES * (rate * found.per_image(name.lower()) + idle):.1f}" for rate in RATES)
        print(f"| {name} cores, {DEVICES} devices | | " + " | ".join(cores) + " |")


def measure(fleet: Fleet, seconds: float, *, is_idle: bool) -> Measured:
    """Start everything anew, and measure a job for `seconds`, after the fleet without one if `is_idle`."""
    with ExitStack() as stack:
        state, home = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
            for folder in (None, MEMORY)
        )
        url = stack.enter_context(redis_server(state))
        client = stack.enter_context(connect(url))
        serving = Serving(client, home, url, fleet)
        dispatcher = stack.enter_context(serving.start("-m", "bgpipe.pipeline.cli", "dispatch"))
        script = str(Path(__file__).with_name("sleeping_worker.py"))
        count, step = str(fleet.workers), str(1 / fleet.rate)
        parent = stack.enter_context(
            serving.start(script, "--name", "fleet@bench", "--count", count, "--step", step)
        )
        while len(read_heartbeats(client)) < fleet.workers:
            time.sleep(0.5)
        idle = Usage(*[0.0] * len(Usage.__slots__))
        if is_idle:
            time.sleep(SETTLE)
            before = serving.read_usage(dispatcher, parent)
            time.sleep(IDLE)
            idle = serving.read_usage(dispatcher, parent).per_second(before)
        duration = 2 * SETTLE + 2 * seconds
        serving.start_job(round(fleet.workers * (fleet.rate * duration + 2 * LANES)))
        stack.enter_context(slowed(client.info("server")["process_id"], fleet.core))
        time.sleep(SETTLE)
        calls = read_calls(client)
        before, beats = serving.read_usage(dispatcher, parent), [read_stats(client)]
        for _ in range(max(1, round(seconds / PERIOD))):
            time.sleep(PERIOD)
            beats.append(read_stats(client))
        busy = serving.read_usage(dispatcher, parent).per_second(before)
        images, waiting, lanes = summarize(beats)
        ended = images * (time.perf_counter() - before.time)
        commands = {
            name: ((now - calls[name][0]) / ended, (spent - calls[name][1]) / ended)
            for name, (now, spent) in read_calls(client).items()
            if name in calls
        }
        return Measured(images, waiting, lanes, busy, idle, commands)


def summarize(beats: Sequence[dict[str, WorkerStats]]) -> tuple[float, float, float]:
    """Compare the first and the last heartbeat of each worker, and average its lanes over all."""
    pairs = [(old, beats[-1][name]) for name, old in beats[0].items()]
    images = sum((new.images - old.images) / (new.beat - old.beat) for old, new in pairs)
    steps = [
        (new.device_seconds - old.device_seconds) / (new.beat - old.beat) for old, new in pairs
    ]
    lanes = [stats.in_flight / LANES for beat in beats for stats in beat.values()]
    return images, max(0.0, 1 - sum(steps) / len(steps)), sum(lanes) / len(lanes)


def read_stats(client: RedisClient) -> dict[str, WorkerStats]:
    return {heartbeat.worker: heartbeat.stats for heartbeat in read_heartbeats(client)}


@dataclass(frozen=True, slots=True)
class Serving:
    """Processes that serve one Redis, and a job for them."""

    client: RedisClient
    home: Path
    url: str
    fleet: Fleet

    @contextmanager
    def start(self, *command: str) -> Iterator[int]:
        """Run Python with `command`; yields the id of the process."""
        environment = os.environ | {
            "BGPIPE_REDIS_URL": self.url,
            "BGPIPE_WORKER__LANES": str(LANES),
            "BGPIPE_WORKER__BATCH": "1",
            "BGPIPE_QUEUE__HIGH_WATER": str(2 * LANES * self.fleet.workers + MESSAGES),
        }
        with (self.home / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        try:
            yield process.pid
        finally:
            process.terminate()
            process.communicate()

    def start_job(self, images: int) -> None:
        source = self.home / "source"
        source.mkdir()
        (source / "photo").write_bytes(b"a photo")
        items = [Item(i, f"{i:06}.jpg", f"{i:06}.png", "identity") for i in range(images)]
        for item in items:
            os.link(source / "photo", source / item.source)
        recipe = Recipe("asleep", "0" * 64, (32, 32), Preset(foreground=False))
        out = str(self.home / "out")
        job = Job(JobId("fleet"), str(source), out, recipe, time.time(), force=True)
        jobs = JobStore(self.client)
        jobs.open(job)
        jobs.add(job.id, items)
        jobs.start(job.id)

    def read_usage(self, dispatcher: int, parent: int) -> Usage:
        """Read the counters of the server, of process `dispatcher` and of the children of `parent`."""
        workers = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        info = self.client.info("stats")
        return Usage(
            time.perf_counter(),
            redis_seconds(self.client),
            cpu_seconds(dispatcher),
            sum(map(cpu_seconds, workers)),
            info["total_commands_processed"],
            info["total_net_input_bytes"] + info["total_net_output_bytes"],
        )


def redis_seconds(client: RedisClient) -> float:
    """Return the CPU seconds of the server's main thread."""
    info = client.info("cpu")
    return float(info["used_cpu_sys_main_thread"] + info["used_cpu_user_main_thread"])


def read_calls(client: RedisClient) -> dict[str, tuple[float, float]]:
    """Return the calls and the microseconds of each command so far."""
    found = client.info("commandstats").items()
    return {name.removeprefix("cmdstat_"): (each["calls"], each["usec"]) for name, each in found}


def cpu_seconds(process: int | str) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def slowed(server: int, core: float) -> Iterator[None]:
    """Let the server run for the share `core` of each PULSE alone, until the block ends."""

    def run(stopped: threading.Event) -> None:
        while not stopped.is_set():
            os.kill(server, signal.SIGSTOP)
            time.sleep((1 - core) * PULSE)
            os.kill(server, signal.SIGCONT)
            time.sleep(core * PULSE)

    if core == 1.0:
        yield
        return
    with background_thread("slow", run):
        yield


if __name__ == "__main__":
    main()
