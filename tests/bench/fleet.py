"""What workers cost Redis and the dispatcher: `python tests/bench/fleet.py [--workers N ...] [--images N]`.

Real worker processes on a real Redis, whose device, decoder and encoder sleep (sleeping_worker.py), and a real
dispatcher in this process. Per image: commands, bytes through Redis' connections, processor time of Redis'
thread and of the dispatcher. Per idle worker and second: the same. From these the images/s at which Redis'
one thread or one dispatcher is full, for fleets that are larger than a machine.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from overlap import Contestant, worker

from bgpipe.config.presets import Preset
from bgpipe.config.settings import load_settings
from bgpipe.pipeline.broker.client import RedisClient, connect
from bgpipe.pipeline.broker.embedded import redis_server
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.monitoring.heartbeat import read_heartbeats
from bgpipe.pipeline.scheduling.dispatcher import Dispatcher, make_feeder
from bgpipe.pipeline.session import Session
from bgpipe.pipeline.types import Item, Job, JobId, JobState, Recipe

FLEETS = (1, 8, 64, 256, 1000)
RATES = (4.5, 17.0, 60.0)
"""Images/s of a device."""
FULL = 0.8
"""Share of a core up to which a part keeps up."""
IDLE_SECONDS = 10.0

COMMAND, TIME = "calls of ", "time of "
MOST = 12
"""Commands that are listed."""

Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--images", type=int, default=1500)
    given = parser.parse_args()
    busy, idle = [], []
    print(
        "| | commands | bytes | Redis, µs | dispatcher, µs | images/s |\n|---|---|---|---|---|---|"
    )
    for count in given.workers:
        image, second = measure(count, given.images)
        show(f"an image, {count} workers", image)
        show(f"an idle worker, a second, of {count}", second)
        busy.append(image)
        idle.append(second)
    show_commands(busy[0])
    redis_seconds = 1e-6 * median(figures["redis"] for figures in busy)
    idle_seconds = 1e-6 * median(figures["redis"] for figures in idle)
    feeding = 1e-6 * median(figures["dispatcher"] for figures in busy)
    print("\n| devices | " + " | ".join(f"{rate:g} images/s each" for rate in RATES) + " |")
    print("|---|" + "---|" * len(RATES))
    for count in FLEETS:
        cells = (
            f"{count * rate * redis_seconds + count * idle_seconds:.0%}, {count * rate * feeding:.0%}"
            for rate in RATES
        )
        print(f"| {count} | " + " | ".join(cells) + " |")
    print(f"\nRedis is full ({FULL:.0%}) at {FULL / redis_seconds:.0f} images/s, the dispatcher at")
    print(f"{FULL / feeding:.0f}.")


def measure(workers: int, images: int) -> tuple[Figures, Figures]:
    """Return the figures of an image, and of a second of an idle worker."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        home = Path(folder)
        os.environ["BGPIPE_REDIS_URL"] = url = stack.enter_context(redis_server(home / "state"))
        settings = load_settings()
        client = stack.enter_context(connect(url))
        session = Session(settings, url, client, JobStore(client))
        for number in range(workers):
            contestant = Contestant(lanes=24, images=0, queue=settings.queue.name)
            stack.enter_context(worker(contestant, url, home, f"bench-{number}"))
        while len(list(read_heartbeats(client))) < workers:
            time.sleep(0.1)
        run(session, home, 48 * workers)  # imports, connections and threads
        before = read_redis(client)
        start = time.perf_counter()
        cpu = run(session, home, images)
        seconds = time.perf_counter() - start
        busy = difference(before, read_redis(client), images)
        before = read_redis(client)
        time.sleep(IDLE_SECONDS)
        idle = difference(before, read_redis(client), workers * IDLE_SECONDS)
        return busy | {"dispatcher": 1e6 * cpu / images, "rate": images / seconds}, idle


def run(session: Session, home: Path, images: int) -> float:
    """Run a job of so many images; returns the processor time of the dispatcher, in seconds."""
    job, jobs = JobId(f"fleet-{time.monotonic_ns()}"), session.jobs
    source, out = home / "source", home / job
    for folder in (source, out):
        folder.mkdir(exist_ok=True)
    items = [Item(i, f"{i:05}.jpg", f"{i:05}.png", "identity") for i in range(images)]
    for item in items:
        (source / item.source).write_bytes(b"a photo")
    recipe = Recipe("asleep", "0" * 64, (32, 32), Preset(foreground=False))
    jobs.open(Job(job, str(source), str(out), recipe, time.time(), force=True))
    jobs.add(job, items)
    jobs.start(job)
    stopped, used = threading.Event(), [0.0]

    def dispatch() -> None:
        start = time.thread_time()
        Dispatcher(session, make_feeder(session)).run(stopped, lambda: None)
        used[0] = time.thread_time() - start

    thread = threading.Thread(target=dispatch)
    thread.start()
    while (summary := jobs.summary(job)).state != JobState.FINISHED:
        time.sleep(0.5)
    stopped.set()
    thread.join()
    assert summary.done == images, summary
    return used[0]


def read_redis(client: RedisClient) -> Figures:
    info = client.info("everything")
    calls = {f"{COMMAND}{name[8:]}": stats["calls"] for name, stats in commands(info)}
    times = {f"{TIME}{name[8:]}": stats["usec"] for name, stats in commands(info)}
    return (
        calls
        | times
        | {
            "commands": info["total_commands_processed"],
            "bytes": info["total_net_input_bytes"] + info["total_net_output_bytes"],
            "redis": 1e6 * (info["used_cpu_sys_main_thread"] + info["used_cpu_user_main_thread"]),
        }
    )


def commands(info: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    return [(name, stats) for name, stats in info.items() if name.startswith("cmdstat_")]


def difference(before: Figures, after: Figures, count: float) -> Figures:
    return {name: (value - before.get(name, 0.0)) / count for name, value in after.items()}


def show_commands(figures: Figures) -> None:
    """Print the commands of an image that take the most time of Redis."""
    print("\n| command | an image | µs |\n|---|---|---|")
    names = sorted((n for n in figures if n.startswith(TIME)), key=lambda n: -figures[n])
    for name in names[:MOST]:
        command = name.removeprefix(TIME)
        print(f"| {command} | {figures[COMMAND + command]:.2f} | {figures[name]:.1f} |")


def show(what: str, figures: Figures) -> None:
    cells = (figures.get(name) for name in ("commands", "bytes", "redis", "dispatcher", "rate"))
    print(
        f"| {what} | " + " | ".join("" if c is None else f"{c:.1f}" for c in cells) + " |",
        flush=True,
    )


if __name__ == "__main__":
    main()
