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

from bgpipe.config.settings import Settings, WorkerSettings, parse_address
from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.inference.devices import CPU
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.monitoring.heartbeat import WorkerStats
from bgpipe.pipeline.storage.factory import StoreFactory
from bgpipe.workers.batcher import Batcher
from bgpipe.workers.celery_app import LaneOptions, make_worker_app, register_task, serve
from bgpipe.workers.claims import ClaimManager
from bgpipe.workers.engine_cache import EngineCache, EngineFactory, cores, make_engine_factory
from bgpipe.workers.heartbeat import HeartbeatWriter, WorkerCounters, is_alive
from bgpipe.workers.image_processor import BackgroundLoader, ImageCodec, ImageProcessor
from bgpipe.workers.item_runner import ItemRunner
from bgpipe.workers.lifecycle import (
    EXIT_RESTART,
    GRACE,
    READY,
    on_parent_exit,
    request_shutdown,
    run_entry_point,
    worker_settings,
)
from bgpipe.workers.memory_budget import MemoryBudget, half_of_the_machine, resident
from bgpipe.workers.watchdog import Watchdog

GPU_LANES = 24
SPARE_LANES = 2
"""Lanes beyond the cores on a CPU: one reads while another writes."""
GPU_BATCH = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerConfig:
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
class WorkerDependencies:
    """What a benchmark replaces in a worker."""

    make_engine: EngineFactory
    codec: ImageCodec = field(default_factory=ImageCodec)


def main() -> int:
    """Work until told to stop; exit codes as bgpipe's."""
    parser = argparse.ArgumentParser(prog="python -m bgpipe.workers.start", description=__doc__)
    parser.add_argument("--name", required=True, help="unique in the cluster, like gpu0@host")
    parser.add_argument(
        "--restarts", type=int, default=0, help="processes that had the name before"
    )
    parser.add_argument("--metrics", default="", help="HOST:PORT to tell Prometheus of itself")
    options = parser.parse_args()
    return run_entry_point(lambda: _start(options), options.name)


def work(settings: Settings, node: WorkerConfig, parts: WorkerDependencies) -> int:
    """Serve the queue until a signal or the end of stdin; return the exit code.

    Raises:
        RedisUnavailable: Redis is away at the start.

    """
    cv2.setNumThreads(1)  # the lanes are the parallelism
    with (
        connect(settings.redis_url) as client,
        Batcher(
            EngineCache(parts.make_engine, settings.worker.model_memory),
            settings.limits,
            batch=node.batch,
            wait=settings.worker.batch_wait,
            on_lost=_request_restart,
        ) as batcher,
    ):
        # A process of its own name: what its predecessor had in hand is not in its hands.
        worker = f"{node.name}/{secrets.token_hex(3)}"
        job_store = JobStore(client)
        custody = ClaimManager(job_store, worker, partial(is_alive, client))
        watchdog = Watchdog(settings.worker.stuck_limit, _request_restart)
        tally = WorkerCounters()
        vitals = partial(_stats, node, batcher, custody, tally)
        with HeartbeatWriter(client, worker, vitals), _serve_metrics(node, vitals):
            stores = StoreFactory(settings.s3, node.lanes, settings.worker.places)
            lane = ItemRunner(
                job_store,
                custody,
                watchdog,
                _image_processor(settings, parts, batcher, stores),
                settings,
                stores,
                tally,
            )
            drain = settings.worker.drain_timeout
            app = make_worker_app(settings, LaneOptions(node.lanes, drain, watchdog.give_up))
            register_task(app, lane, settings.queue.retry_delay)
            on_parent_exit(sys.stdin.fileno(), lambda: _exit_after(drain + GRACE))
            log.info("worker starts", extra={"fields": {"claims_as": worker, "lanes": node.lanes}})
            code = serve(app, node.name, signal_ready)
            log.info("worker ends", extra={"fields": {"code": code}})
            return code


def signal_ready() -> None:
    """Tell the supervisor, which reads our stdout, that we take messages."""
    log.info("worker is ready")
    os.write(sys.stdout.fileno(), READY)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nobody reads on


def worker_config(name: str, device: str, settings: WorkerSettings) -> WorkerConfig:
    """A worker on `device`, with automatic numbers where the settings say 0."""
    on_cpu = device == CPU
    lanes = cores() + SPARE_LANES if on_cpu else GPU_LANES
    batch = 1 if on_cpu else GPU_BATCH
    return WorkerConfig(name, device, settings.lanes or lanes, settings.batch or batch)


def import_engine() -> None:
    """Import torch, which takes a second, in which the worker connects."""
    try:
        import_module(
            "bgpipe.pipeline.inference.engine"
        )  # the device thread waits for the same import
    finally:
        gc.freeze()
        gc.enable()  # bgpipe.workers.start has turned it off


def _start(options: argparse.Namespace) -> int:
    settings = worker_settings()
    device = "cuda" if os.environ.get("CUDA_VISIBLE_DEVICES") else CPU
    if device != CPU:
        from bgpipe.pipeline.inference.devices import (
            check_device,  # brings torch, which a CPU awaits later
        )

        check_device(device)
    Thread(target=import_engine, name="import", daemon=True).start()
    this = worker_config(options.name, device, settings.worker)
    this = replace(this, restarts=options.restarts, metrics=options.metrics)
    return work(
        settings, this, WorkerDependencies(make_engine_factory(settings, device, this.batch))
    )


def _image_processor(
    settings: Settings, parts: WorkerDependencies, batcher: Batcher, stores: StoreFactory
) -> ImageProcessor:
    limits = Limits.from_settings(settings.images)
    memory = MemoryBudget(settings.worker.memory or half_of_the_machine())
    return ImageProcessor(
        batcher.infer,
        batcher.infer_edges,
        limits,
        settings.review,
        parts.codec,
        BackgroundLoader(stores.open, limits),
        memory,
    )


def _serve_metrics(
    node: WorkerConfig, vitals: Callable[[], WorkerStats]
) -> AbstractContextManager[None]:
    """Let Prometheus ask this process, where it was given an address for that."""
    if not node.metrics:
        return nullcontext()
    from bgpipe.pipeline.monitoring.collectors import WorkerCollector
    from bgpipe.pipeline.monitoring.exporter import serve_metrics

    host, port = parse_address(node.metrics)
    return serve_metrics(WorkerCollector(node.name, vitals), host, port)


def _stats(
    node: WorkerConfig, batcher: Batcher, custody: ClaimManager, tally: WorkerCounters
) -> WorkerStats:
    ages = custody.ages()
    return WorkerStats(
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


def _request_restart() -> None:
    """Shut down warmly: the supervisor starts another process."""
    request_shutdown(EXIT_RESTART)


def _exit_after(limit: float) -> None:
    """Shut down warmly, or after `limit` seconds at once: nobody is left to end this process."""
    request_shutdown()
    time.sleep(limit)
    os._exit(1)
