"""One check of `bgpipe doctor`.

What `bgpipe doctor` looks at on this machine: versions, Redis, workers, devices, the model.

Health checks of single processes, for containers and supervisors: they prove work, not life.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from bgpipe.pipeline.errors import BgpipeError, ModelUnavailable, Unavailable
from bgpipe.pipeline.session import Session, open_session

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.monitoring.heartbeat import Heartbeat


class Level(StrEnum):
    """How a check ended; with an error, the command that needs it fails."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class CheckWarning(BgpipeError):
    """It works, but not well, or not for long."""


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    level: Level
    detail: str

    @property
    def ok(self) -> bool:
        return self.level is not Level.ERROR


def run_check(what: str, look: Callable[[], str]) -> Check:
    """What `look` returns or raises, as a finding in one line."""
    try:
        return Check(what, Level.OK, look())
    except CheckWarning as error:
        return Check(what, Level.WARNING, _in_one_line(error))
    except (BgpipeError, OSError, subprocess.SubprocessError) as error:
        return Check(what, Level.ERROR, _in_one_line(error))


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


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
    from bgpipe.pipeline.broker.client import public_address

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
    from bgpipe.pipeline.monitoring.heartbeat import read_heartbeats

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
    from bgpipe.pipeline.models import registry

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
    from bgpipe.pipeline.models import registry
    from bgpipe.pipeline.models.hub import Hub

    cache = settings.model_folder
    if name not in registry.read_models() or registry.locate(name, cache=cache):
        return f"{name}: {registry.resolve(name, cache=cache).path}"
    registry.find_remote(name, cache=cache, hub=Hub(settings.model.hub_timeout))
    raise CheckWarning(
        f"{name} is downloaded by the first job: bgpipe models pull {name} does it now"
    )


STALL = 900.0
"""Seconds with work in hand and none done: a large model is pulled and loaded in less."""
SECOND_LOOK = 8.0
"""Seconds, with a beat among them, in which a worker has taken the messages of a job that just began."""


def check_worker(settings: Settings) -> Iterator[Check]:
    """Whether the workers of this machine are there, take messages, and get images done."""
    yield run_check("worker", lambda: _own_workers(settings))


def check_dispatcher(settings: Settings) -> Iterator[Check]:
    """Whether a dispatcher, here or elsewhere, feeds the jobs: its lease ends with its work."""
    yield run_check("dispatcher", lambda: _dispatcher(settings))


def describe(beat: Heartbeat) -> str:
    """A heartbeat in a line."""
    vitals = beat.stats
    last = f", the last one {beat.idle:.0f} s ago" if vitals.progress else ""
    return (
        f"{beat.worker}: {vitals.images} images{last}, {vitals.steps} device steps, "
        f"{vitals.in_flight} in flight, the oldest for {vitals.oldest:.0f} s"
    )


def _own_workers(settings: Settings) -> str:
    with open_session(settings) as session:
        found = _of_this_machine(session)
        if not found:
            raise Unavailable(f"no worker of this machine has a heartbeat: {platform.node()}")
        stalled = [beat for beat in found if beat.is_stalled(STALL)]
        if stalled:
            raise Unavailable(f"no image done for {STALL:.0f} s: {_describe_all(stalled)}")
        if _overlooks_its_queue(session):
            time.sleep(SECOND_LOOK)
            if _overlooks_its_queue(session):
                raise Unavailable(f"messages wait and nobody takes them: {_describe_all(found)}")
    return _describe_all(found)


def _dispatcher(settings: Settings) -> str:
    with open_session(settings) as session:
        if not session.is_dispatched():
            raise Unavailable("no dispatcher leads: start one with bgpipe dispatch")
    return "one leads"


def _of_this_machine(session: Session) -> list[Heartbeat]:
    from bgpipe.pipeline.monitoring.heartbeat import read_heartbeats

    return [beat for beat in read_heartbeats(session.client) if beat.host == platform.node()]


def _overlooks_its_queue(session: Session) -> bool:
    """Whether messages wait while no worker of this machine has an image in flight."""
    idle = not any(beat.stats.in_flight for beat in _of_this_machine(session))
    return idle and bool(session.client.llen(session.settings.queue.name))


def _describe_all(found: list[Heartbeat]) -> str:
    return "; ".join(describe(beat) for beat in found)
