"""What docker-compose.yml runs, run: each service's own command line, with the volumes as folders."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from PIL import Image
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from ..support.ports import free_port
from ..support.source_tree import ROOT
from .compose import environment, mounts, ours, services
from .conftest import require_redis_server

SECONDS = 180.0
SERVICES = services((ROOT / "docker-compose.yml").read_text())
PORTS = ("6379", "8000", "5555", "9640")
BIN = Path(sys.executable).parent


class Host:
    """A machine without containers: paths, ports and names of the file become this folder's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {port: str(free_port()) for port in PORTS}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "bin").mkdir()
        (folder / "bin/redis-server").symlink_to(require_redis_server())

    def command(self, service: dict[str, Any], words: list[str]) -> list[str]:
        return [self._here(str(word), service) for word in words]

    def environment(self, service: dict[str, Any]) -> dict[str, str]:
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("BGPIPE_", "HF_"))}
        given = {n: self._here(value, service) for n, value in environment(service).items()}
        given.pop("RUN_AS", None)  # only root may change owners
        return (
            kept
            | given
            | {
                "PATH": f"{self.folder / 'bin'}:{BIN}:{os.environ['PATH']}",
                "HOME": str(self.folder),
                "HF_ENDPOINT": "http://127.0.0.1:9",
                "REDIS_HOST": f"127.0.0.1:{self.ports['6379']}",
                "BGPIPE_WORKER__CPU_THREADS": "1",
            }
        )

    def run(self, name: str, words: list[str]) -> subprocess.CompletedProcess[str]:
        service = SERVICES[name]
        return subprocess.run(
            self.command(service, words),
            env=self.environment(service),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def start(self, name: str) -> None:
        service = SERVICES[name]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                self.command(service, words_of(service)),
                env=self.environment(service),
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )

    def check(self, name: str) -> subprocess.CompletedProcess[str]:
        """The service's health check, once."""
        kind, *words = SERVICES[name]["healthcheck"]["test"]
        if kind == "CMD-SHELL":
            words = ["sh", "-c", words[0].replace("$$", "$")]
        return self.run(name, words)

    def until_healthy(self, name: str) -> None:
        deadline = time.monotonic() + SECONDS
        while (done := self.check(name)).returncode:
            ended = self._running[name].poll()
            assert ended is None, (ended, self.log(name))
            assert time.monotonic() < deadline, (done.stdout + done.stderr, self.log(name))
            time.sleep(1)  # a check costs as much as a start of Python

    def stop(self, name: str) -> int:
        """As Compose does: the service's signal, its grace period, the end; returns the exit code."""
        service, process = SERVICES[name], self._running.pop(name)
        process.send_signal(getattr(signal, service["stop_signal"]))
        return process.wait(float(service["stop_grace_period"].removesuffix("s")))

    def end(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def volume(self, name: str) -> Path:
        """The folder that is here in the place of a volume, or of a folder of the user."""
        kind, _, owner = name.partition("-")
        place = self.folder / (f"secrets/{owner}" if kind == "secrets" else f"volumes/{name}")
        place.mkdir(parents=True, exist_ok=True)
        return place

    def _here(self, text: str, service: dict[str, Any]) -> str:
        """A word of the file with the paths, ports and addresses of this machine."""
        for port, here in self.ports.items():
            text = re.sub(rf"(?:(?<=[:=])|^){port}\b", here, text)
        text = text.replace("0.0.0.0", "127.0.0.1")
        text = text.replace("redis-cli", f"redis-cli -p {self.ports['6379']}")
        places = {"/run/secrets": self.folder / "secrets"}
        for inside, outside in mounts(service).items():
            ours = outside.startswith("./infra")
            places[inside] = ROOT / outside if ours else self.volume(outside)
        for inside, place in sorted(places.items(), reverse=True):
            text = re.sub(rf"(?<![\w.]){inside}\b", str(place), text)
        return text


def words_of(service: dict[str, Any]) -> list[str]:
    entry = service.get("entrypoint", ["bgpipe"] if ours(service) else [])
    return [*entry, *service.get("command", [])]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.end()


def start_redis(host: Host) -> redis.Redis:
    """The service, with an administrator who may ask what was refused."""
    service = SERVICES["redis"]
    users = host.volume("secrets-redis") / "users.acl"
    users.write_text(users.read_text() + "user admin on nopass ~* &* +@all\n")
    port = host.ports["6379"]
    service["command"] += ["--bind", "127.0.0.1", "--port", port, "--aclfile", str(users)]
    host.start("redis")
    retry = Retry(ConstantBackoff(0.1), 300)
    return redis.Redis("127.0.0.1", int(port), username="admin", password="any", retry=retry)


@pytest.mark.slow
def test_every_service_runs_is_healthy_does_a_job_and_drains(host: Host) -> None:
    init = words_of(SERVICES["init"])
    assert host.run("init", init).returncode == 0
    secret = (host.volume("secrets-bgpipe") / "redis_url").read_text()
    assert host.run("init", init).returncode == 0
    assert (host.volume("secrets-bgpipe") / "redis_url").read_text() == secret

    photos = host.volume("./photos")
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(noise).save(photos / "photo.jpg")
    mine = ["dispatcher", "api", "flower", "worker-cpu"]
    with start_redis(host) as admin:
        host.until_healthy("redis")
        assert host.check("worker-cpu").returncode != 0
        for name in mine:
            host.start(name)
        for name in mine:
            host.until_healthy(name)
        words = "bgpipe submit /photos --out /cutouts --model birefnet-nano --wait --json"
        done = host.run("bgpipe", words.split())
        assert done.returncode == 0, (done.stdout + done.stderr, host.log("worker-cpu"))
        assert [path.name for path in host.volume("./cutouts").iterdir()] == ["photo.png"]
        assert host.run("bgpipe", words_of(SERVICES["bgpipe"])).returncode == 0
        # All of it as the one user, who may touch nothing but what is bgpipe's.
        refused = [(entry["object"], entry["reason"]) for entry in admin.acl_log()]
        assert refused == []
    codes = {name: host.stop(name) for name in reversed(mine)}
    assert (codes["worker-cpu"], codes["dispatcher"]) == (0, 0)
    assert host.check("worker-cpu").returncode != 0
    assert host.check("dispatcher").returncode != 0
    assert host.stop("redis") == 0
    assert host.check("redis").returncode != 0
