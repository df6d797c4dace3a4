"""The Redis server as it is deployed: its settings, its users, its secrets; with TLS where asked for."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from ..support.ports import free_port
from ..support.programs import require_program
from ..support.source_tree import ROOT

DOCKER = ROOT / "infra/docker"


@dataclass(frozen=True, slots=True)
class GuardedRedis:
    """A server that asks for a user and a password; `secrets` is what infra/docker/init made."""

    port: int
    secrets: Path
    admin: redis.Redis
    ca: Path | None = None

    @property
    def url(self) -> str:
        return (self.secrets / "bgpipe/redis_url").read_text().strip()

    def denied(self) -> list[str]:
        """What users were refused: `object reason`."""
        return [f"{entry['object']} {entry['reason']}" for entry in self.admin.acl_log()]


@contextmanager
def guarded_redis(folder: Path, *, tls: bool = False) -> Iterator[GuardedRedis]:
    """The server of docker-compose.yml, but on a free port of the loopback."""
    program = require_redis_server()
    port, secrets = free_port(), folder / "secrets"
    make_secrets(secrets, f"127.0.0.1:{port}")
    users = folder / "users.acl"
    users.write_text(
        (secrets / "redis/users.acl").read_text() + "user admin on nopass ~* &* +@all\n"
    )
    data = folder / "data"
    data.mkdir()
    options = {"aclfile": users, "bind": "127.0.0.1", "port": 0 if tls else port}
    if tls:
        make_certificates(folder)
        options |= {
            "tls-port": port,
            "tls-cert-file": folder / "server.crt",
            "tls-key-file": folder / "server.key",
            "tls-ca-cert-file": folder / "ca.crt",
            "tls-auth-clients": "no",
        }
        url = secrets / "bgpipe/redis_url"
        secure = url.read_text().strip().replace("redis://", "rediss://")
        url.write_text(f"{secure}?ssl_ca_certs={folder / 'ca.crt'}\n")
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    process = subprocess.Popen(
        [program, str(DOCKER / "redis/redis.conf"), *words], cwd=data, stdout=subprocess.DEVNULL
    )
    admin = redis.Redis(
        host="127.0.0.1",
        port=port,
        username="admin",
        password="any",
        ssl=tls,
        ssl_ca_certs=str(folder / "ca.crt") if tls else None,
        retry=Retry(ConstantBackoff(0.1), 300),
    )
    try:
        admin.ping()
        yield GuardedRedis(port, secrets, admin, folder / "ca.crt" if tls else None)
    finally:
        admin.close()
        process.kill()
        process.wait()


def require_redis_server() -> str:
    """Return the path of the system's server: the bundled one is built without TLS."""
    return require_program("redis-server")


def make_secrets(folder: Path, host: str) -> None:
    """What the service `init` makes, by its own script."""
    template = DOCKER / "redis/users.acl"
    subprocess.run(
        [DOCKER / "init", template, folder], env=os.environ | {"REDIS_HOST": host}, check=True
    )


def make_certificates(folder: Path) -> None:
    """ca.crt, and server.crt with server.key for 127.0.0.1."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    authority = [*key, "-subj", "/CN=tests", "-keyout", "ca.key", "-out", "ca.crt"]
    server = [*key, "-subj", "/CN=redis", "-keyout", "server.key", "-out", "server.crt"]
    server += ["-CA", "ca.crt", "-CAkey", "ca.key", "-addext", "subjectAltName=IP:127.0.0.1"]
    for options in (authority, server):
        subprocess.run(
            ["openssl", "req", "-x509", *options], cwd=folder, check=True, capture_output=True
        )
