"""What `bgpipe doctor` looks at on this machine: versions, Redis, workers, devices, the model."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bgpipe.pipeline.cli.finding import Check, CheckWarning, run_check
from bgpipe.pipeline.cli.probes import describe
from bgpipe.pipeline.cli.session import open_session
from bgpipe.pipeline.errors import ModelUnavailable, Unavailable

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings

LEASE = "doctor"
"""Name of a lease that is only tried."""
NO_MATTING = "none"
LIBRARIES = ("torch", "celery", "redis", "pillow", "opencv-python-headless", "flower")


def check_machine(settings: Settings) -> Iterator[Check]:
    """What a submit needs, and what its job needs then."""
    yield run_check("bgpipe", _versions)
    yield run_check("state", lambda: _state(settings))
    redis = run_check("redis", lambda: _redis(settings))
    yield redis
    if redis.ok:
        yield run_check("durability", lambda: check_durability(settings))
        yield run_check("dispatcher", lambda: _dispatch(settings))
        yield run_check("workers", lambda: _workers(settings))
    yield run_check("devices", lambda: _devices(settings))
    yield run_check("model", lambda: _model(settings))
    if settings.matting.model != NO_MATTING:
        yield run_check("matting", lambda: _available(settings, settings.matting.model))


def _versions() -> str:
    found = [_version(name) for name in ("bgpipe", *LIBRARIES)]
    return ", ".join([*found, f"python {platform.python_version()}"])


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} not installed"  # a machine that only submits or dispatches needs no torch


def _state(settings: Settings) -> str:
    """Write to the state folder, which keeps the embedded server's data and the catalogs.

    Raises:
        Unavailable: it is not writable.

    """
    folder = settings.state_folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise Unavailable(
            f"the state folder is not writable: {folder}: {reason}: change its permissions, or set "
            "BGPIPE_STATE_DIR to another"
        ) from error
    return str(folder)


def _redis(settings: Settings) -> str:
    """Connect, and write as a submit does: it takes a lease."""
    from bgpipe.pipeline.connection import public_address

    with open_session(settings) as session:
        server = session.client.info("server")
        lease = session.lease(LEASE)
        lease.acquire()
        lease.release()
    place = "embedded" if settings.embedded else public_address(settings.redis_url)
    valkey = server.get("valkey_version")  # beside the version of Redis that it is compatible with
    return f"{f'Valkey {valkey}' if valkey else 'Redis ' + server['redis_version']}, {place}"


def _dispatch(settings: Settings) -> str:
    if settings.embedded:
        return "not needed: submit feeds its own job"
    with open_session(settings) as session:
        if not session.is_dispatched():
            raise CheckWarning("none: jobs are fed only by their command: start bgpipe dispatch")
    return "one leads"


def _workers(settings: Settings) -> str:
    from bgpipe.pipeline.vitals import read_heartbeats

    with open_session(settings) as session:
        states = [describe(beat) for beat in read_heartbeats(session.client)]
    if not states and settings.embedded:
        return "none: submit starts its own"
    if not states:
        raise CheckWarning("none: jobs wait for one: start bgpipe worker")
    return "; ".join(states)


def check_durability(settings: Settings) -> str:
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


def _devices(settings: Settings) -> str:
    """Ask the worker's own code, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bgpipe.workers", "--list-devices"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        reason = next(reversed(done.stderr.splitlines()), f"exit code {done.returncode}")
        trouble = Unavailable if settings.embedded else CheckWarning  # a cluster has other machines
        raise trouble(f"no worker can run here: {reason}: install bgpipe again")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return ", ".join(f"{device['name']} {device['product']}".strip() for device in found)


def _model(settings: Settings) -> str:
    """The weights of the settings' model.

    Raises:
        ModelUnavailable: a submit would end without them.
        Advice: a submit would download them, or go on with the bundled ones.

    """
    from bgpipe.pipeline import registry

    if settings.model.name != registry.AUTO:
        return _available(settings, settings.model.name)
    try:
        return _available(settings, registry.DEFAULT)
    except registry.WeightsDiffer:
        raise
    except ModelUnavailable as error:
        if not settings.embedded:
            raise
        raise CheckWarning(f"{registry.TRIAL} takes the place of a real model: {error}") from error


def _available(settings: Settings, name: str) -> str:
    from bgpipe.pipeline import registry
    from bgpipe.pipeline.hub import Hub

    cache = settings.model_folder
    if name not in registry.models() or registry.locate(name, cache=cache):
        return f"{name}: {registry.resolve(name, cache=cache).path}"
    registry.find_offer(name, cache=cache, hub=Hub(settings.model.hub_timeout))
    raise CheckWarning(
        f"{name} is downloaded by the first job: bgpipe models pull {name} does it now"
    )
