"""Checks of `bgpipe doctor`: this machine, its workers, and the dispatcher of the cluster."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal

from bgpipe.pipeline.broker.client import public_address
from bgpipe.pipeline.broker.dead_messages import describe_dead
from bgpipe.pipeline.errors import BgpipeError, ModelUnavailable, RedisUnavailable, Unavailable
from bgpipe.pipeline.models import registry
from bgpipe.pipeline.models.hub import Hub
from bgpipe.pipeline.monitoring.heartbeat import Heartbeat, read_heartbeats
from bgpipe.pipeline.session import Session, open_session

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings

LEASE = "doctor"
"""Name of a lease that proves that Redis takes writes."""
LIBRARIES = ("torch", "celery", "redis", "pillow", "opencv-python-headless", "flower")
DEVICES_TIMEOUT = 60
"""Seconds."""
STALL = 900.0
"""Seconds with images in flight and none done; pulling and loading a large model takes less."""
FULL = 0.9
"""Share of maxmemory above which a job's next messages may not fit."""
REFUSAL = 2.0
"""Seconds after which a refusal of Redis counts: it may end, as a failover does."""
RECHECK = 8.0
"""Seconds, more than a heartbeat's interval, within which a worker takes the messages of a new job."""


class CheckWarning(BgpipeError):
    """The part works, but degraded or not durably."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of a check; with an error, the command that needs the part fails."""

    name: str
    level: Literal["ok", "warning", "error"]
    detail: str

    @property
    def ok(self) -> bool:
        return self.level != "error"


def run_check(name: str, inspect: Callable[[Settings], str], settings: Settings) -> Check:
    """Turn what `inspect` returns or raises into a check with one line of detail."""
    try:
        return Check(name, "ok", inspect(settings))
    except (BgpipeError, OSError, subprocess.SubprocessError) as error:
        detail = " ".join(str(error).split())
        return Check(name, "warning" if isinstance(error, CheckWarning) else "error", detail)


def machine_checks(settings: Settings) -> Iterator[Check]:
    """Check what a submit and its job need."""
    yield run_check("bgpipe", _inspect_versions, settings)
    yield run_check("state", _inspect_state, settings)
    redis = run_check("redis", _inspect_redis, settings)
    yield redis
    if redis.ok:
        yield run_check("durability", inspect_durability, settings)
        yield run_check("dispatcher", _inspect_dispatcher, settings)
        yield run_check("workers", _inspect_workers, settings)
        yield run_check("queue", _inspect_queue, settings)
        yield run_check("jobs", _inspect_jobs, settings)
    yield run_check("devices", _inspect_devices, settings)
    yield run_check("model", _inspect_model, settings)
    if settings.matting.model != registry.NO_MATTING:
        yield run_check("matting", lambda _: _locate(settings, settings.matting.model), settings)


def worker_checks(settings: Settings) -> Iterator[Check]:
    yield run_check("worker", _inspect_local_workers, settings)


def dispatcher_checks(settings: Settings) -> Iterator[Check]:
    yield run_check("dispatcher", _inspect_leader, settings)


def inspect_durability(settings: Settings) -> str:
    """Check that the server loses no job when its memory is full or it restarts."""
    with open_session(settings) as session:
        stored = session.client.info("memory") | session.client.info("persistence")
    if problems := list(_durability_problems(stored)):
        raise RedisUnavailable("; ".join(problems))
    return "noeviction, append-only file"


def _durability_problems(stored: Mapping[str, Any]) -> Iterator[str]:
    if 0 < FULL * stored.get("maxmemory", 0) <= stored["used_memory"]:
        used, limit = stored["used_memory_human"], stored["maxmemory_human"]
        yield f"memory is nearly full, {used} of {limit}: raise maxmemory"
    if (policy := stored.get("maxmemory_policy", "unknown")) != "noeviction":
        yield f"maxmemory-policy is {policy}, so jobs may vanish: set it to noeviction"
    if not stored.get("aof_enabled"):
        yield "appendonly is off, so a restart loses jobs: set appendonly yes, appendfsync everysec"
    if stored.get("aof_last_write_status", "ok") != "ok":
        yield "the append-only file is not writable: free the server's disk"


def _inspect_versions(_: Settings) -> str:
    versions = []
    for name in ("bgpipe", *LIBRARIES):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:  # a machine that only submits or dispatches needs no torch
            versions.append(f"{name} not installed")
    return ", ".join([*versions, f"python {platform.python_version()}"])


def _inspect_state(settings: Settings) -> str:
    """Write to the state folder, which holds the embedded server's data and the catalogs."""
    folder = settings.state_folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        remedy = "change its permissions, or set BGPIPE_STATE_DIR to another"
        raise Unavailable(f"state folder is not writable: {folder}: {reason}: {remedy}") from error
    return str(folder)


def _inspect_redis(settings: Settings) -> str:
    """Connect, and write as a submit does, by acquiring a lease."""
    with open_session(settings, REFUSAL) as session:
        server = session.client.info("server")
        lease = session.lease(LEASE)
        lease.acquire()
        lease.release()
    address = "embedded" if settings.embedded else public_address(settings.redis_url)
    valkey = server.get("valkey_version")  # beside the version of Redis that it is compatible with
    return f"{f'Valkey {valkey}' if valkey else 'Redis ' + server['redis_version']}, {address}"


def _inspect_dispatcher(settings: Settings) -> str:
    if settings.embedded:
        return "not needed: submit feeds its own job"
    with open_session(settings) as session:
        if not session.is_dispatched():
            raise CheckWarning("none: jobs are fed only by their command: start bgpipe dispatch")
    return "one leads"


def _inspect_workers(settings: Settings) -> str:
    with open_session(settings) as session:
        heartbeats = read_heartbeats(session.client)
    if heartbeats:
        return _describe(heartbeats)
    if settings.embedded:
        return "none: submit starts its own"
    raise CheckWarning("none: jobs wait for one: start bgpipe worker")


def _inspect_jobs(settings: Settings) -> str:
    with open_session(settings) as session:
        summaries = [session.jobs.summary(job) for job in session.jobs.running_ids()]
    if paused := [f"{each.job} {each.paused}" for each in summaries if each.paused]:
        raise CheckWarning(f"paused: {'; '.join(paused)}")
    return f"{len(summaries)} running, none paused"


def _inspect_queue(settings: Settings) -> str:
    with open_session(settings) as session:
        if dead := describe_dead(session.client):
            raise CheckWarning(dead)
        return f"messages waiting: {session.client.llen(settings.queue.name)}"


def _inspect_devices(settings: Settings) -> str:
    """List the devices in a worker's process, because torch is imported only there."""
    done = subprocess.run(
        [sys.executable, "-m", "bgpipe.workers", "--list-devices"],
        capture_output=True,
        text=True,
        timeout=DEVICES_TIMEOUT,
        check=False,
    )
    if done.returncode:
        reason = next(reversed(done.stderr.splitlines()), f"exit code {done.returncode}")
        problem = Unavailable if settings.embedded else CheckWarning  # a cluster has other machines
        raise problem(f"no worker can run here: {reason}")
    devices = [json.loads(line) for line in done.stdout.splitlines()]
    texts = (f"{each['name']} {each['problem'] or each['product']}".strip() for each in devices)
    listed = ", ".join(texts)
    if any(device["problem"] for device in devices):
        raise CheckWarning(f"a GPU cannot be used: {listed}: check nvidia-smi")
    return listed


def _inspect_model(settings: Settings) -> str:
    """Locate the weights of the settings' model; warn if a submit would use the bundled ones."""
    if settings.model.name != registry.AUTO:
        return _locate(settings, settings.model.name)
    try:
        return _locate(settings, registry.DEFAULT)
    except registry.WeightsDiffer:
        raise
    except ModelUnavailable as error:
        if not settings.embedded:
            raise
        raise CheckWarning(f"{registry.TRIAL} replaces the default model: {error}") from error


def _locate(settings: Settings, name: str) -> str:
    """Return name and path of the weights; warn if a submit would download them."""
    cache = settings.model_folder
    if name not in registry.read_models() or registry.locate(name, cache=cache):
        return f"{name}: {registry.resolve(name, cache=cache).path}"
    registry.find_remote(name, cache=cache, hub=Hub.from_settings(settings.model))
    raise CheckWarning(
        f"{name} is downloaded by the first job: download it now with bgpipe models pull {name}"
    )


def _inspect_local_workers(settings: Settings) -> str:
    """Check that the workers of this machine are alive, complete images, and take messages."""
    with open_session(settings) as session:
        heartbeats = _local_heartbeats(session)
        if not heartbeats:
            raise Unavailable(f"no worker of this machine has a heartbeat: {platform.node()}")
        if stalled := [heartbeat for heartbeat in heartbeats if heartbeat.is_stalled(STALL)]:
            raise Unavailable(f"no image done for {STALL:.0f} s: {_describe(stalled)}")
        if _ignores_queue(session):
            time.sleep(RECHECK)
            if _ignores_queue(session):
                raise Unavailable(f"workers do not take messages: {_describe(heartbeats)}")
    return _describe(heartbeats)


def _inspect_leader(settings: Settings) -> str:
    """Check the lease of the cluster's dispatchers, which ends when the loop of the leader stalls."""
    with open_session(settings) as session:
        if not session.is_dispatched():
            raise Unavailable("no dispatcher leads: start one with bgpipe dispatch")
    return "one leads"


def _local_heartbeats(session: Session) -> list[Heartbeat]:
    return [each for each in read_heartbeats(session.client) if each.host == platform.node()]


def _ignores_queue(session: Session) -> bool:
    """Return whether messages wait while no worker of this machine has an image in flight."""
    is_idle = not any(heartbeat.stats.in_flight for heartbeat in _local_heartbeats(session))
    return is_idle and bool(session.client.llen(session.settings.queue.name))


def _describe(heartbeats: Sequence[Heartbeat]) -> str:
    return "; ".join(
        f"{heartbeat.worker}: {stats.images} images"
        + (f", the last one {heartbeat.idle:.0f} s ago" if stats.progress else "")
        + f", {stats.steps} device steps, {stats.in_flight} in flight, "
        f"the oldest for {stats.oldest:.0f} s"
        for heartbeat in heartbeats
        for stats in [heartbeat.stats]
    )
