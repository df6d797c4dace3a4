"""`bgpipe doctor`: what is installed, what is reachable, which device a worker would use."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import typer

from bgpipe.pipeline.cli.session import open_session, read_settings
from bgpipe.pipeline.cli.terminal import Terminal
from bgpipe.pipeline.errors import BgpipeError

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings

NUMBERS = ("images", "progress", "beat", "steps", "in_flight", "oldest")
"""Of a worker's heartbeat (bgpipe.workers.health)."""
LIBRARIES = ("torch", "celery", "redis", "pillow", "opencv-python-headless", "flower")


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    ok: bool
    detail: str


def doctor(context: typer.Context) -> None:
    """Check this machine; exit code 4 if something is missing."""
    terminal: Terminal = context.obj
    settings = read_settings()
    sound = True
    for finding in _findings(settings):
        sound &= finding.ok
        terminal.emit(asdict(finding))
        terminal.say(f"{'ok ' if finding.ok else 'BAD'}  {finding.what:<11} {finding.detail}")
    raise typer.Exit(0 if sound else 4)


def _findings(settings: Settings) -> Iterator[Finding]:
    yield _check("bgpipe", _versions)
    yield _check("redis", lambda: _redis(settings))
    yield _check("durability", lambda: _durability(settings))
    yield _check("workers", lambda: _workers(settings))
    yield _check("devices", _devices)
    yield _check("model", lambda: _model(settings))


def _check(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, ok=True, detail=look())
    except (BgpipeError, OSError, subprocess.SubprocessError) as error:
        return Finding(what, ok=False, detail=str(error))


def _versions() -> str:
    found = [f"{name} {importlib.metadata.version(name)}" for name in ("bgpipe", *LIBRARIES)]
    return ", ".join([*found, f"python {platform.python_version()}"])


def _redis(settings: Settings) -> str:
    from bgpipe.pipeline.connection import public_address

    with open_session(settings) as session:
        version = session.client.info("server")["redis_version"]
        led = "a dispatcher leads" if session.is_dispatched() else "no dispatcher"
    place = "embedded" if settings.embedded else public_address(settings.redis_url)
    return f"{version}, {place}; {led}"


def _workers(settings: Settings) -> str:
    """The heartbeats. One that died seconds ago may still be among them."""
    from bgpipe.pipeline import keys

    with open_session(settings) as session:
        names = sorted(session.client.scan_iter(match=keys.of_worker("*"), count=1000))
        beats = {name: session.client.hmget(name, NUMBERS) for name in names}
    none = "none: submit starts its own" if settings.embedded else "none: bgpipe worker starts one"
    return "; ".join(_progress(name.decode(), beat) for name, beat in beats.items()) or none


def _progress(key: str, beat: Sequence[bytes | str | None]) -> str:
    from bgpipe.pipeline import keys

    values = {name: float(value or 0) for name, value in zip(NUMBERS, beat, strict=True)}
    last = f", the last one {values['beat'] - values['progress']:.0f} s ago"
    return (
        f"{key.removeprefix(keys.of_worker(''))}: {values['images']:.0f} images"
        f"{last if values['progress'] else ''}, {values['steps']:.0f} device steps, "
        f"{values['in_flight']:.0f} in flight, the oldest for {values['oldest']:.0f} s"
    )


def _durability(settings: Settings) -> str:
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
