"""`python -m bgpipe.workers`: the supervisor of this machine's devices, as `bgpipe worker` runs it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict

from bgpipe.pipeline.connection import connect
from bgpipe.workers.devices import devices
from bgpipe.workers.entry import exit_code_of, worker_settings
from bgpipe.workers.supervisor import Supervisor, workers
from bgpipe.workers.tether import at_end_of


def main() -> int:
    """Run workers until a signal says to stop; exit codes as bgpipe's."""
    options = _parse()
    return exit_code_of(_list_devices if options.list_devices else lambda: _supervise(options))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bgpipe.workers", description=__doc__)
    parser.add_argument(
        "--device", nargs="+", action="extend", default=[], help="cuda:0 ... or cpu"
    )
    parser.add_argument("--lanes", type=int, help="images in flight around one device")
    parser.add_argument("--compile", action="store_true", help="compile the model at start")
    parser.add_argument(
        "--stop-with-stdin",
        action="store_true",
        help="belong to the command that holds stdin: drain when it ends, and use the CPU where "
        "there is no GPU",
    )
    parser.add_argument(
        "--list-devices",
        action="store_true",
        help="print the devices that --device would default to, as JSON lines, and leave",
    )
    return parser.parse_args()


def _list_devices() -> int:
    for device in devices([], cpu_allowed=True):
        sys.stdout.write(json.dumps(asdict(device)) + "\n")
    return 0


def _supervise(options: argparse.Namespace) -> int:
    if options.lanes:
        os.environ["BGPIPE_WORKER__LANES"] = str(options.lanes)  # the worker processes read it too
    if options.compile:
        os.environ["BGPIPE_ENGINE__COMPILE"] = "true"
    settings = worker_settings()
    connect(settings.redis_url).close()  # away at the start is an error, away later is waited for
    owned: bool = options.stop_with_stdin
    chosen = devices(options.device, cpu_allowed=owned)
    posts = workers(chosen, shared_host=owned, metrics="" if owned else settings.metrics.worker)
    supervisor = Supervisor(posts, settings.worker)
    if owned:
        at_end_of(sys.stdin.fileno(), supervisor.stop)
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
