"""A worker process: one device, its batcher, and the lanes around it.

The supervisor starts it as `python -m bgpipe.workers --name NAME`, with CUDA_VISIBLE_DEVICES set to
its one GPU, or empty for the CPU.
"""

from __future__ import annotations

import gc
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from threading import Thread

import cv2

from bgpipe.config.settings import Settings, WorkerSettings, parse_address
from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.inference.devices import CPU, check_device
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.monitoring.heartbeat import WorkerStats
from bgpipe.pipeline.storage.factory import StoreFactory
from bgpipe.workers.batcher import Batcher
from bgpipe.workers.celery_app import LaneOptions, make_worker_app, request_shutdown, serve
from bgpipe.workers.claims import ClaimManager
from bgpipe.workers.engine_cache import (
    EngineCache,
    EngineFactory,
    available_cores,
    make_engine_factory,
)
from bgpipe.workers.heartbeat import WorkerCounters, is_alive, sending_heartbeats
from bgpipe.workers.image_processor import BackgroundLoader, ImageCodec, ImageProcessor
from bgpipe.workers.item_runner import ItemRunner
from bgpipe.workers.lifecycle import (
    EXIT_RESTART,
    GRACE,
    READY,
    on_parent_exit,
    run_entry_point,
    worker_settings,
)
from bgpipe.workers.memory_budget import MemoryBudget, default_capacity
from bgpipe.workers.watchdog import Watchdog

GPU_LANES = 24
SPARE_LANES = 2
"""Lanes beyond the number of cores on a CPU: one reads while another writes."""
GPU_BATCH = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """A worker's name (unique in its cluster), device (cpu or cuda), lanes and batch.

    `restarts`: earlier processes of this name. `metrics`: HOST:PORT of its endpoint, or empty.
    """

    name: str
    device: str
    lanes: int
    batch: int
    restarts: int = 0
    metrics: str = ""


def start(name: str, restarts: int, metrics: str) -> int:
    """Work until a signal arrives or stdin ends; return an exit code of bgpipe."""

    def run() -> int:
        settings = worker_settings()
        device = "cuda" if os.environ.get("CUDA_VISIBLE_DEVICES") else CPU
        if device != CPU:
            check_device(device)
        Thread(target=import_engine, name="import", daemon=True).start()
        config = worker_config(name, device, settings.worker)
        config = replace(config, restarts=restarts, metrics=metrics)
        return work(settings, config, make_engine_factory(settings, device, config.batch))

    return run_entry_point(run, name)


def work(
    settings: Settings,
    config: WorkerConfig,
    make_engine: EngineFactory,
    codec: ImageCodec | None = None,
) -> int:
    """Serve the queue until a signal arrives or stdin ends; return the exit code.

    A benchmark passes engines and a codec of its own.

    Raises:
        RedisUnavailable: Redis is away at the start.

    """
    cv2.setNumThreads(1)  # the lanes are the parallelism
    limits = Limits.from_settings(settings.images)
    counters = WorkerCounters(
        WorkerStats(config.device, lanes=config.lanes, batch=config.batch, restarts=config.restarts)
    )
    batcher = Batcher(
        EngineCache(make_engine, settings.worker.model_memory),
        counters,
        settings.limits,
        batch=config.batch,
        wait=settings.worker.batch_wait,
        on_lost=_request_restart,
    )
    watchdog = Watchdog(settings.worker.stuck_limit, _request_restart)
    stores = StoreFactory(settings.s3, config.lanes, settings.worker.places)
    processor = ImageProcessor(
        batcher,
        BackgroundLoader(stores, limits),
        MemoryBudget(settings.worker.memory or default_capacity()),
        settings,
        codec,
    )
    # Another name for each process: the claims of an earlier one are not its own.
    worker = f"{config.name}/{secrets.token_hex(3)}"
    drain = settings.worker.drain_timeout
    with connect(settings.redis_url) as client:
        claims = ClaimManager(JobStore(client).items, worker, partial(is_alive, client))
        runner = ItemRunner(claims, watchdog, processor, stores, counters, settings)
        app = make_worker_app(settings, LaneOptions(config.lanes, drain, watchdog), runner)

        def read_stats() -> WorkerStats:
            return counters.snapshot(claims.ages())

        heartbeats = sending_heartbeats(client, worker, read_stats)
        with batcher, heartbeats, _serve_metrics(config, read_stats):
            on_parent_exit(sys.stdin.fileno(), lambda: _exit_within(drain + GRACE))
            fields = {"claims_as": worker, "lanes": config.lanes}
            log.info("worker starts", extra={"fields": fields})
            code = serve(app, config.name, _signal_ready)
            log.info("worker ends", extra={"fields": {"code": code}})
            return code


def worker_config(name: str, device: str, settings: WorkerSettings) -> WorkerConfig:
    """Return the configuration for `device`; settings of 0 become the device's defaults."""
    on_cpu = device == CPU
    lanes = available_cores() + SPARE_LANES if on_cpu else GPU_LANES
    batch = 1 if on_cpu else GPU_BATCH
    return WorkerConfig(name, device, settings.lanes or lanes, settings.batch or batch)


def import_engine() -> None:
    """Import torch, which takes a second, while the worker connects."""
    try:
        import_module("bgpipe.pipeline.inference.engine")  # the device thread waits for this import
    finally:
        gc.freeze()
        gc.enable()  # disabled by bgpipe.workers.__main__


def _signal_ready() -> None:
    """Report to the supervisor, which reads stdout, that the worker takes messages."""
    log.info("worker is ready")
    os.write(sys.stdout.fileno(), READY)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # stdout has no reader any more


def _serve_metrics(
    config: WorkerConfig, read_stats: Callable[[], WorkerStats]
) -> AbstractContextManager[None]:
    """Serve this worker's metrics if the configuration has an address for them."""
    if not config.metrics:
        return nullcontext()
    from bgpipe.pipeline.monitoring.collectors import WorkerCollector
    from bgpipe.pipeline.monitoring.exporter import serve_metrics

    host, port = parse_address(config.metrics)
    return serve_metrics(WorkerCollector(config.name, read_stats), host, port)


def _request_restart() -> None:
    """Drain and end with the exit code after which the supervisor starts a successor."""
    request_shutdown(EXIT_RESTART)


def _exit_within(seconds: float) -> None:
    """Drain, but end after `seconds` in any case: the parent, which would kill us, is gone."""
    request_shutdown()
    time.sleep(seconds)
    os._exit(1)
