"""A worker process: one device, its batcher, and the lanes around it.

The supervisor starts it as `python -m bgpipe.workers --name NAME`, with CUDA_VISIBLE_DEVICES set to
its one GPU, or empty for the CPU.
"""

import gc
import os
import secrets
import sys
import time
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from threading import Thread

import cv2

from bgpipe.config.settings import Settings, WorkerSettings, parse_address
from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.inference.devices import CPU, check_device
from bgpipe.pipeline.inference.engine_cache import (
    EngineCache,
    EngineFactory,
    available_cores,
    check_engine,
    load_engine,
)
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.logging import EventLogger
from bgpipe.pipeline.monitoring.heartbeat import WorkerStats
from bgpipe.pipeline.storage.factory import StoreFactory
from bgpipe.workers.batcher import Batcher
from bgpipe.workers.budget import Budget, default_memory
from bgpipe.workers.celery_app import make_worker_app, request_shutdown, serve
from bgpipe.workers.claims import ClaimManager
from bgpipe.workers.heartbeat import WorkerCounters, is_alive, sending_heartbeats
from bgpipe.workers.image_processor import ImageCodec, ImageProcessor
from bgpipe.workers.item_runner import ItemRunner
from bgpipe.workers.lifecycle import EXIT_RESTART, GRACE, READY, on_parent_exit, worker_settings
from bgpipe.workers.watchdog import Watchdog

GPU_LANES = 24
SPARE_LANES = 2
"""Lanes beyond the number of cores on a CPU: one reads while another writes."""
GPU_BATCH = 8
SWITCH_INTERVAL = 5e-4
"""Seconds for which a lane may hold the interpreter while the device thread waits to launch."""

log = EventLogger(__name__)


def start(name: str, restarts: int, metrics: str) -> int:
    """Work on the device that the environment names, after `restarts` processes of this name."""
    settings = worker_settings()
    device = "cuda" if os.environ.get("CUDA_VISIBLE_DEVICES") else CPU
    if device != CPU:
        check_device(device)
        sys.setswitchinterval(SWITCH_INTERVAL)
    check_engine(settings, device)
    Thread(target=import_engine, name="import", daemon=True).start()
    stats = initial_stats(device, settings.worker, restarts)
    make_engine = partial(load_engine, settings, device, stats.batch)
    return work(settings, name, stats, make_engine, metrics=metrics)


def work(
    settings: Settings,
    name: str,
    stats: WorkerStats,
    make_engine: EngineFactory,
    codec: ImageCodec | None = None,
    metrics: str = "",
) -> int:
    """Serve the queue until a signal arrives or stdin ends; return the exit code.

    `name` is unique in the cluster; `metrics` is the HOST:PORT of its endpoint, or empty. A benchmark
    passes engines and a codec of its own.

    Raises RedisUnavailable if Redis is away at the start.
    """
    cv2.setNumThreads(1)  # the lanes are the parallelism
    request_restart = partial(request_shutdown, EXIT_RESTART)
    counters = WorkerCounters(stats)
    batcher = Batcher(
        EngineCache(make_engine, settings.worker.model_memory),
        counters,
        settings.limits,
        batch=stats.batch,
        wait=settings.worker.batch_wait,
        on_lost=request_restart,
    )
    watchdog = Watchdog(settings.worker.stuck_limit, request_restart)
    stores = StoreFactory(settings.s3, stats.lanes, settings.worker.places)
    memory = Budget(settings.worker.memory or default_memory())
    processor = ImageProcessor(batcher, stores, memory, settings, codec or ImageCodec())
    # Another name for each process: the claims of an earlier one are not its own.
    worker = f"{name}/{secrets.token_hex(3)}"
    drain = settings.worker.drain_timeout
    with ExitStack() as running:
        client = running.enter_context(connect(settings.redis_url))
        claims = ClaimManager(JobStore(client).items, worker, partial(is_alive, client))
        runner = ItemRunner(claims, watchdog, processor, stores, counters, settings)
        app = make_worker_app(settings, stats.lanes, runner)

        def read_stats() -> WorkerStats:
            return counters.snapshot(claims.ages())

        running.enter_context(batcher)
        running.enter_context(sending_heartbeats(client, worker, read_stats, claims.end_abandoned))
        if metrics:
            from bgpipe.pipeline.monitoring.collectors import WorkerCollector, serve_metrics

            collector = WorkerCollector(name, read_stats)
            running.enter_context(serve_metrics(collector, *parse_address(metrics)))
        on_parent_exit(sys.stdin.fileno(), lambda: _exit_within(drain + GRACE))
        log.info("worker starts", claims_as=worker, lanes=stats.lanes)
        code = serve(app, name, _signal_ready)
        log.info("worker ends", code=code)
        return code


def initial_stats(device: str, settings: WorkerSettings, restarts: int = 0) -> WorkerStats:
    """Return those of a worker for `device` (cpu or cuda), whose defaults replace settings of 0."""
    lanes, batch = GPU_LANES, GPU_BATCH
    if device == CPU:
        lanes, batch = available_cores() + SPARE_LANES, 1
    lanes, batch = settings.lanes or lanes, settings.batch or batch
    return WorkerStats(device, lanes=lanes, batch=batch, restarts=restarts)


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


def _exit_within(seconds: float) -> None:
    """Drain, but end after `seconds` in any case: the parent, which would kill us, is gone."""
    request_shutdown()
    time.sleep(seconds)
    os._exit(1)
