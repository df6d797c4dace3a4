"""Ports of the loopback for the servers of the tests."""

from __future__ import annotations

import itertools
import os
import random
import socket
import time

# Below the ports that Linux gives to outgoing connections, a stretch for each process of pytest-xdist.
_STRETCH = 2000
_PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_FIRST = 12_000 + _PROCESS % 10 * _STRETCH
_offsets = itertools.count(random.randrange(_STRETCH))


def free_port() -> int:
    """Return a port that no socket uses and that no other process of this test run is given."""
    for offset in itertools.islice(_offsets, _STRETCH):
        port = _FIRST + offset % _STRETCH
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no free port from {_FIRST} to {_FIRST + _STRETCH}")


def await_listening(port: int, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            assert time.monotonic() < deadline, f"no server listens: {port}"
            time.sleep(0.1)
        else:
            return
