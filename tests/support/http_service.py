"""The HTTP service as it runs in a cluster: Redis, dispatcher, worker and server as processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from .ports import await_listening, free_port
from .redis_server import RedisServer

BGPIPE = Path(sys.executable).with_name("bgpipe")
SECONDS = 60.0
MEMORY = 400
"""MiB that a server may take at any time."""


@dataclass(frozen=True, slots=True)
class Service:
    """A running server and its cluster; `environment` is that of every process of it."""

    url: str
    redis_url: str
    home: Path
    environment: dict[str, str]
    pid: int = 0

    @property
    def peak_memory(self) -> float:
        """The most that the server's process has had resident, in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def client(self, key: str = "") -> httpx2.Client:
        """A client of the server; `key` is an API key."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=SECONDS)

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """A command of the cluster's user."""
        return subprocess.run(
            [str(BGPIPE), *map(str, arguments)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            cwd=self.home,
            check=False,
        )

    @contextmanager
    def another(self, **environment: str) -> Iterator[Service]:
        """One more server of the same cluster, with other settings."""
        with server(self.redis_url, self.home, self.environment | environment) as service:
            yield service


@contextmanager
def cluster(folder: Path, *, works: bool = True) -> Iterator[Service]:
    """A Redis and a server, and, if it `works`, a dispatcher and a worker; no other process."""
    redis = RedisServer(folder)
    redis.start()
    with ExitStack() as stack:
        stack.callback(redis.kill)
        environment = environment_of(redis.url, folder)
        workers = [[BGPIPE, "dispatch"], [BGPIPE, "worker", "--device", "cpu"]] if works else []
        for command in workers:
            stack.enter_context(running(command, folder, environment))
        yield stack.enter_context(server(redis.url, folder, environment))


def environment_of(redis_url: str, folder: Path) -> dict[str, str]:
    """Return the environment of every process of a cluster."""
    ours = {
        "BGPIPE_REDIS_URL": redis_url,
        "BGPIPE_SERVE__UPLOADS": str(folder / "uploads"),
        "BGPIPE_MODEL__NAME": "birefnet-nano",
        "BGPIPE_COMFYUI__MODELS": json.dumps(
            dict.fromkeys(("BiRefNet-general", "birefnet.safetensors", "RMBG-2.0"), "birefnet-nano")
        ),
        "BGPIPE_DISPATCH__POLL": "0.1",
        "BGPIPE_WORKER__CPU_THREADS": "1",
        "XDG_STATE_HOME": str(folder / "state"),
        "XDG_DATA_HOME": str(folder / "data"),
        "HF_ENDPOINT": "http://127.0.0.1:9",
    }
    kept = {name: text for name, text in os.environ.items() if not name.startswith("BGPIPE_")}
    return kept | ours


@contextmanager
def server(redis_url: str, folder: Path, environment: dict[str, str]) -> Iterator[Service]:
    """`bgpipe serve` on a free port; whatever a test sends to it, its memory stays below MEMORY."""
    port = free_port()
    with running([BGPIPE, "serve", "--port", str(port)], folder, environment) as process:
        await_listening(port)
        url = f"http://127.0.0.1:{port}"
        service = Service(url, redis_url, folder, environment, process.pid)
        _await_ready(service)
        yield service
        assert service.peak_memory < MEMORY


def _await_ready(service: Service) -> None:
    deadline = time.monotonic() + SECONDS
    with service.client() as client:
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline, "the server is not ready"
            time.sleep(0.1)


@contextmanager
def running(
    command: list[object], folder: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"{Path(str(command[0])).name}-{command[1]}.log").open("ab") as log:
        process = subprocess.Popen(
            list(map(str, command)),
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(SECONDS)
