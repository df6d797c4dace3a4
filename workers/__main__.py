"""`python -m bgpipe.workers`: the supervisor of this machine's devices, as `bgpipe worker` runs it.

What it imports at its start, the worker of a command waits for.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from bgpipe.pipeline.errors import BgpipeError
from bgpipe.pipeline.inference.devices import select_devices
from bgpipe.workers.lifecycle import on_parent_exit
from bgpipe.workers.supervisor import StartedWorker, Supervisor, WorkerProcess, make_workers


def main() -> int:
    """Run workers until a signal says to stop; exit codes as bgpipe's."""
    options = _parse()
    started = _start_first(options) if options.stop_with_stdin else []
    from bgpipe.workers.lifecycle import run_entry_point  # brings the settings' libraries

    try:
        return run_entry_point(
            _list_devices if options.list_devices else lambda: _supervise(options, started)
        )
    finally:
        if options.server:
            _leave_server(*options.server)


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
        "--server",
        nargs=2,
        metavar=("FOLDER", "FD"),
        help="the embedded server to leave at the end, and our lock of its users",
    )
    parser.add_argument(
        "--list-devices",
        action="store_true",
        help="print the devices that --device would default to, as JSON lines, and leave",
    )
    options = parser.parse_args()
    if options.lanes:
        os.environ["BGPIPE_WORKER__LANES"] = str(options.lanes)  # the worker processes read it too
    if options.compile:
        os.environ["BGPIPE_ENGINE__COMPILE"] = "true"
    return options


def _list_devices() -> int:
    for device in select_devices([], cpu_allowed=True):
        sys.stdout.write(json.dumps(asdict(device)) + "\n")
    return 0


def _start_first(options: argparse.Namespace) -> list[WorkerProcess]:
    """Start a command's workers before anything else: a person waits for them."""
    with suppress(BgpipeError):  # raised again by _supervise, where it is logged
        found = make_workers(select_devices(options.device, cpu_allowed=True), shared_host=True)
        return [StartedWorker(one, one.start(0)) for one in found]
    return []


def _supervise(options: argparse.Namespace, started: Sequence[WorkerProcess]) -> int:
    from bgpipe.workers.lifecycle import worker_settings

    settings = worker_settings()
    owned: bool = options.stop_with_stdin
    if not owned:
        from bgpipe.pipeline.broker.client import connect

        connect(settings.redis_url).close()  # away at the start is an error, later is waited for
    posts = started or make_workers(
        select_devices(options.device, cpu_allowed=owned),
        shared_host=owned,
        metrics="" if owned else settings.metrics.worker,
    )
    supervisor = Supervisor(posts, settings.worker)
    if owned:
        on_parent_exit(sys.stdin.fileno(), supervisor.stop)
    return supervisor.run()


def _leave_server(folder: str, descriptor: str) -> None:
    from bgpipe.pipeline.broker.embedded import release_server

    with open(int(descriptor), "ab") as users:  # noqa: PTH123  # not a path
        release_server(Path(folder), users)


if __name__ == "__main__":
    sys.exit(main())
