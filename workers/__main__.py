"""`python -m bgpipe.workers`: supervise one worker process per device, as `bgpipe worker` does.

With --name the process is such a worker itself. The top imports the standard library alone: a
command waits until its workers are up.
"""

import argparse
import gc
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial

from bgpipe.pipeline.errors import BgpipeError
from bgpipe.pipeline.inference.devices import CPU, WorkerDevice, list_gpus, select_devices
from bgpipe.workers.lifecycle import exit_now, on_parent_exit, run_entry_point, worker_settings
from bgpipe.workers.supervisor import DeviceWorker, Supervisor, make_workers


def main() -> int:
    """Run until a signal arrives; return an exit code of bgpipe."""
    options = _parse()
    if options.name:
        # Imports leave no garbage, and the search for it takes a seventh of their time.
        gc.disable()
        from bgpipe.workers.process import start

        run = partial(start, options.name, options.restarts, options.metrics)
        exit_now(run_entry_point(run, options.name))
    if options.list_devices:
        return run_entry_point(_list_devices)
    workers: list[DeviceWorker] = []
    if options.stop_with_stdin:  # a person waits for these, so they start before settings are read
        with suppress(BgpipeError):  # raised again by _supervise, where it is logged
            devices = select_devices(options.device, cpu_allowed=True)
            workers = make_workers(devices, shared_host=True)
    for worker in workers:
        worker.start()
    return run_entry_point(partial(_supervise, options, workers))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bgpipe.workers", description=__doc__)
    add = parser.add_argument
    add("--device", nargs="+", action="extend", default=[], help="cuda:0 ... or cpu")
    add("--lanes", type=int, help="images in flight around one device")
    add("--compile", action="store_true", help="compile the model at start")
    drain = "drain when stdin ends, and use the CPU if there is no GPU"
    add("--stop-with-stdin", action="store_true", help=drain)
    add("--list-devices", action="store_true", help="print the default devices as JSON lines")
    add = parser.add_argument_group("worker process, started by the supervisor").add_argument
    add("--name", help="unique in the cluster, like gpu0@host")
    add("--restarts", type=int, default=0, help="earlier processes of this name")
    add("--metrics", default="", help="HOST:PORT of its Prometheus endpoint")
    options = parser.parse_args()
    if options.lanes:
        os.environ["BGPIPE_WORKER__LANES"] = str(options.lanes)  # for the worker processes too
    if options.compile:
        os.environ["BGPIPE_ENGINE__COMPILE"] = "true"
    return options


def _list_devices() -> int:
    for device in list_gpus() or [WorkerDevice(CPU)]:
        sys.stdout.write(json.dumps(asdict(device)) + "\n")
    return 0


def _supervise(options: argparse.Namespace, workers: Sequence[DeviceWorker]) -> int:
    settings = worker_settings()
    owned: bool = options.stop_with_stdin
    if not owned:
        from bgpipe.pipeline.broker.client import connect

        connect(settings.redis_url).close()  # away at the start is an error, later it is not
    workers = workers or make_workers(
        select_devices(options.device, cpu_allowed=owned),
        shared_host=owned,
        metrics="" if owned else settings.metrics.worker,
    )
    supervisor = Supervisor(workers, settings.worker)
    if owned:
        on_parent_exit(sys.stdin.fileno(), supervisor.stop)
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
