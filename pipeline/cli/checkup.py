"""What `bgpipe doctor` looks at on this machine: versions, Redis, workers, devices, the model."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bgpipe.pipeline.cli.finding import Finding, check
from bgpipe.pipeline.cli.probes import told_of
from bgpipe.pipeline.cli.session import open_session

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings

LIBRARIES = ("torch", "celery", "redis", "pillow", "opencv-python-headless", "flower")


def machine(settings: Settings) -> Iterator[Finding]:
    """What is installed, what is reachable, which device a worker would use."""
    yield check("bgpipe", _versions)
    yield check("redis", lambda: _redis(settings))
    yield check("durability", lambda: durability(settings))
    yield check("workers", lambda: _workers(settings))
    yield check("devices", _devices)
    yield check("model", lambda: _model(settings))


def _versions() -> str:
    found = [_version(name) for name in ("bgpipe", *LIBRARIES)]
    return ", ".join([*found, f"python {platform.python_version()}"])


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} not installed"  # a machine that only submits or dispatches needs no torch


def _redis(settings: Settings) -> str:
    from bgpipe.pipeline.connection import public_address

    with open_session(settings) as session:
        version = session.client.info("server")["redis_version"]
        led = "a dispatcher leads" if session.is_dispatched() else "no dispatcher"
    place = "embedded" if settings.embedded else public_address(settings.redis_url)
    return f"{version}, {place}; {led}"


def _workers(settings: Settings) -> str:
    from bgpipe.pipeline.vitals import beats

    with open_session(settings) as session:
        told = [told_of(beat) for beat in beats(session.client)]
    none = "none: submit starts its own" if settings.embedded else "none: bgpipe worker starts one"
    return "; ".join(told) or none


def durability(settings: Settings) -> str:
    """Whether the server keeps what it is given, through a full memory and a restart.

    Raises:
        RedisUnavailable: it does not.
    """
    from bgpipe.pipeline.errors import RedisUnavailable

    with open_session(settings) as session:
        memory = session.client.info("memory")
        persistence = session.client.info("persistence")
    advice = []
    policy = memory.get("maxmemory_policy", "unknown")
    if policy != "noeviction":
        advice.append(f"maxmemory-policy is {policy}, so jobs may vanish: set it to noeviction")
    if not persistence.get("aof_enabled"):
        advice.append(
            "appendonly is off, so a restart loses jobs: set appendonly yes, appendfsync everysec"
        )
    if persistence.get("aof_last_write_status", "ok") != "ok":
        advice.append("the append-only file cannot be written: free the server's disk")
    if advice:
        raise RedisUnavailable("; ".join(advice))
    return "noeviction, append-only file"


def _devices() -> str:
    """Asked of the worker's own code, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bgpipe.workers", "--list-devices"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return ", ".join(f"{device['name']} {device['product']}".strip() for device in found)


def _model(settings: Settings) -> str:
    from bgpipe.pipeline import registry

    wanted = settings.model.name
    name = registry.DEFAULT if wanted == registry.AUTO else wanted
    if name in registry.models() and not registry.locate(name, cache=settings.model_folder):
        stands_in = f"; until then {registry.TRIAL} takes its place" if settings.embedded else ""
        return f"{name}: not pulled yet: bgpipe models pull {name}{stands_in}"
    return f"{name}: {registry.resolve(name, cache=settings.model_folder).path}"
