"""One worker process: one device, its batcher, and the lanes around it.

The supervisor starts it as `python -m bgpipe.workers.start`, with CUDA_VISIBLE_DEVICES set to the one
GPU it may use, or to nothing for the CPU.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from threading import Thread

import cv2

from bgpipe.config.settings import Settings, WorkerSettings, host_and_port
from bgpipe.pipeline.connection import connect
from bgpipe.pipeline.images import Limits
from bgpipe.pipeline.ledger import Ledger
from bgpipe.pipeline.storage import Stores
from bgpipe.pipeline.vitals import Vitals
from bgpipe.workers.app import serve, worker_app
from bgpipe.workers.batcher import Batcher
from bgpipe.workers.custody import Custody
from bgpipe.workers.devices import CPU
from bgpipe.workers.engines import cores, engine_maker
from bgpipe.workers.entry import exit_code_of, worker_settings
from bgpipe.workers.grounds import Grounds
from bgpipe.workers.health import Heartbeat, is_alive
from bgpipe.workers.lane import Lane
from bgpipe.workers.leaving import RESTART, leave
from bgpipe.workers.memory import Memory, half_of_the_machine, resident
from bgpipe.workers.pool import Lanes
from bgpipe.workers.shelf import EngineMaker, Shelf
from bgpipe.workers.studio import Codec, Studio
from bgpipe.workers.tally import Tally
from bgpipe.workers.tasks import add_task
from bgpipe.workers.tether import GRACE, READY, at_end_of
from bgpipe.workers.watchdog import Watchdog

GPU_LANES = 24
SPARE_LANES = 2
"""Lanes beyond the cores on a CPU: one reads while another writes."""
GPU_BATCH = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Node:
    """A worker's name (unique in its cluster), its device (cpu or cuda), lanes and batch.

    `restarts` processes had the name before; `metrics` is where it tells of itself, or empty.
    """

    name: str
    device: str
    lanes: int
    batch: int
    restarts: int = 0
    metrics: str = ""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a benchmark replaces in a worker."""

    make_engine: EngineMaker
    codec: Codec = field(default_factory=Codec)


def main() -> int:
    """Work until told to stop; exit codes as bgpipe's."""
    parser = argparse.ArgumentParser(prog="python -m bgpipe.workers.start", description=__doc__)
    parser.add_argument("--name", required=True, help="unique in the cluster, like gpu0@host")
    parser.add_argument(
        "--restarts", type=int, default=0, help="processes that had the name before"
    )
    parser.add_argument("--metrics", default="", help="HOST:PORT to tell Prometheus of itself")
    options = parser.parse_args()
    return exit_code_of(lambda: _start(options), options.name)


def work(settings: Settings, node: Node, parts: Parts) -> int:
    """Serve the queue until a signal or the end of stdin; return the exit code.

    Raises:
        RedisUnavailable: Redis is away at the start.

    """
    cv2.setNumThreads(1)  # the lanes are the parallelism
    with (
        connect(settings.redis_url) as client,
        Batcher(
            Shelf(parts.make_engine, settings.worker.model_memory),
            settings.limits,
            batch=node.batch,
            wait=settings.worker.batch_wait,
            on_lost=_be_replaced,
        ) as batcher,
    ):
        # A process of its own name: what its predecessor had in hand is not in its hands.
        worker = f"{node.name}/{secrets.token_hex(3)}"
        ledger = Ledger(client)
        custody = Custody(ledger, worker, partial(is_alive, client))
        watchdog = Watchdog(settings.worker.stuck_limit, _be_replaced)
        tally = Tally()
        vitals = partial(_vitals, node, batcher, custody, tally)
        with Heartbeat(client, worker, vitals), _told(node, vitals):
            stores = Stores(settings.s3, node.lanes, settings.worker.places)
            lane = Lane(
                ledger,
                custody,
                watchdog,
                _studio(settings, parts, batcher, stores),
                settings,
                stores,
                tally,
            )
            drain = settings.worker.drain_timeout
            app = worker_app(settings, Lanes(node.lanes, drain, watchdog.give_up))
            add_task(app, lane, settings.queue.retry_delay)
            at_end_of(sys.stdin.fileno(), lambda: _leave_soon(drain + GRACE))
            log.info("worker starts", extra={"fields": {"claims_as": worker, "lanes": node.lanes}})
            code = serve(app, node.name, announce)
            log.info("worker ends", extra={"fields": {"code": code}})
            return code


def announce() -> None:
    """Tell the supervisor, which reads our stdout, that we take messages."""
    log.info("worker is ready")
    os.write(sys.stdout.fileno(), READY)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nobody reads on


def node(name: str, device: str, settings: WorkerSettings) -> Node:
    """A worker on `device`, with automatic numbers where the settings say 0."""
    on_cpu = device == CPU
    lanes = cores() + SPARE_LANES if on_cpu else GPU_LANES
    batch = 1 if on_cpu else GPU_BATCH
    return Node(name, device, settings.lanes or lanes, settings.batch or batch)


def import_engine() -> None:
    """Import torch, which takes a second, in which the worker connects."""
    try:
        import_module("bgpipe.pipeline.engine")  # the device thread waits for the same import
    finally:
        gc.freeze()
        gc.enable()  # bgpipe.workers.start has turned it off


def _start(options: argparse.Namespace) -> int:
    settings = worker_settings()
    device = "cuda" if os.environ.get("CUDA_VISIBLE_DEVICES") else CPU
    if device != CPU:
        from bgpipe.pipeline.probe import check_device  # brings torch, which a CPU awaits later

        check_device(device)
    Thread(target=import_engine, name="import", daemon=True).start()
    this = node(options.name, device, settings.worker)
    this = replace(this, restarts=options.restarts, metrics=options.metrics)
    return work(settings, this, Parts(engine_maker(settings, device, this.batch)))


def _studio(settings: Settings, parts: Parts, batcher: Batcher, stores: Stores) -> Studio:
    limits = Limits(**settings.images.model_dump())
    memory = Memory(settings.worker.memory or half_of_the_machine())
    return Studio(
        batcher.infer,
        batcher.solve,
        limits,
        settings.review,
        parts.codec,
        Grounds(stores.open, limits),
        memory,
    )


def _told(node: Node, vitals: Callable[[], Vitals]) -> AbstractContextManager[None]:
    """Let Prometheus ask this process, where it was given an address for that."""
    if not node.metrics:
        return nullcontext()
    from bgpipe.pipeline.exposition import exposed
    from bgpipe.pipeline.worker_metrics import Self

    host, port = host_and_port(node.metrics)
    return exposed(Self(node.name, vitals), host, port)


def _vitals(node: Node, batcher: Batcher, custody: Custody, tally: Tally) -> Vitals:
    ages = custody.ages()
    return Vitals(
        device=node.device,
        model=batcher.model,
        lanes=node.lanes,
        batch=node.batch,
        restarts=node.restarts,
        images=tally.images,
        progress=tally.progress,
        beat=time.time(),
        in_flight=len(ages),
        oldest=max(ages, default=0.0),
        steps=batcher.steps,
        device_images=batcher.images,
        device_seconds=batcher.busy,
        memory=resident(),
        disk_free=tally.disk_free,
        stages=tally.stages(),
    )


def _be_replaced() -> None:
    """Shut down warmly: the supervisor starts another process."""
    leave(RESTART)


def _leave_soon(limit: float) -> None:
    """Shut down warmly, or after `limit` seconds at once: nobody is left to end this process."""
    leave()
    time.sleep(limit)
    os._exit(1)
