"""One worker process: one device, its batcher, and the lanes around it.

The supervisor starts it as `python -m bgpipe.workers.process`, with CUDA_VISIBLE_DEVICES set to the
one GPU it may use, or to nothing for the CPU.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass, field

import cv2

from bgpipe.config.settings import Settings, WorkerSettings
from bgpipe.pipeline.connection import connect
from bgpipe.pipeline.ledger import Ledger
from bgpipe.workers.app import serve, worker_app
from bgpipe.workers.batcher import Batcher, EngineMaker
from bgpipe.workers.devices import CPU
from bgpipe.workers.engines import cores, engine_maker
from bgpipe.workers.entry import exit_code_of, worker_settings
from bgpipe.workers.health import Heartbeat
from bgpipe.workers.lane import Codec, Lane
from bgpipe.workers.tasks import add_task
from bgpipe.workers.tether import GRACE, at_end_of

GPU_LANES = 24
SPARE_LANES = 2
"""Lanes beyond the cores on a CPU: one reads while another writes."""
GPU_BATCH = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Node:
    """A worker's name (unique in its cluster), its device (cpu or cuda), lanes and batch."""

    name: str
    device: str
    lanes: int
    batch: int


@dataclass(frozen=True, slots=True)
class Parts:
    """What a benchmark replaces in a worker."""

    make_engine: EngineMaker
    codec: Codec = field(default_factory=Codec)


def main() -> int:
    """Work until told to stop; exit codes as bgpipe's."""
    parser = argparse.ArgumentParser(prog="python -m bgpipe.workers.process", description=__doc__)
    parser.add_argument("--name", required=True, help="unique in the cluster, like gpu0@host")
    name: str = parser.parse_args().name
    return exit_code_of(lambda: _start(name))


def work(settings: Settings, node: Node, parts: Parts) -> int:
    """Serve the queue until a signal or the end of stdin; return the exit code.

    Raises:
        RedisUnavailable: Redis is away at the start.

    """
    cv2.setNumThreads(1)  # the lanes are the parallelism
    app = worker_app(settings, node.lanes)
    with (
        connect(settings.redis_url) as client,
        Batcher(
            parts.make_engine,
            batch=node.batch,
            wait=settings.worker.batch_wait,
            on_lost=_leave,
        ) as batcher,
        Heartbeat(client, node.name, node.device, node.lanes, lambda: batcher.model) as heart,
    ):
        lane = Lane(
            Ledger(client), batcher.infer, settings, node.name, parts.codec, heart.image_done
        )
        add_task(app, lane, settings.queue.retry_delay)
        at_end_of(sys.stdin.fileno(), lambda: _leave_soon(settings.worker.drain_timeout + GRACE))
        log.info("worker starts", extra={"fields": {"name": node.name, "lanes": node.lanes}})
        return serve(app, node.name)


def node(name: str, device: str, settings: WorkerSettings) -> Node:
    """A worker on `device`, with automatic numbers where the settings say 0."""
    on_cpu = device == CPU
    lanes = cores() + SPARE_LANES if on_cpu else GPU_LANES
    batch = 1 if on_cpu else GPU_BATCH
    return Node(name, device, settings.lanes or lanes, settings.batch or batch)


def _start(name: str) -> int:
    settings = worker_settings()
    device = "cuda" if os.environ.get("CUDA_VISIBLE_DEVICES") else CPU
    this = node(name, device, settings.worker)
    return work(settings, this, Parts(engine_maker(settings, device, this.batch)))


def _leave() -> None:
    """Shut down warmly: the supervisor starts another process."""
    os.kill(os.getpid(), signal.SIGTERM)


def _leave_soon(limit: float) -> None:
    """Shut down warmly, or after `limit` seconds at once: nobody is left to end this process."""
    _leave()
    time.sleep(limit)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
