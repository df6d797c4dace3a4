"""Shell completion of values. It starts no server, and errors complete to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import quote

import redis

from bgpipe.config.settings import Settings, load_settings
from bgpipe.config.toml_file import SettingsError
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.models import registry
from bgpipe.pipeline.types import ModelTask

TIMEOUT = 0.5
"""Seconds for Redis to respond."""
JOBS = 50
"""Number of jobs offered, the newest."""


def presets() -> list[str]:
    settings = _read_settings()
    return list(settings.presets) if settings else []


def sweeps() -> list[str]:
    settings = _read_settings()
    return list(settings.sweeps) if settings else []


def models() -> list[tuple[str, str]]:
    """List the subject models, each with its summary."""
    return [("auto", "birefnet-general where it is available"), *_registered(ModelTask.SUBJECT)]


def matting_models() -> list[tuple[str, str]]:
    return [("none", "no matting model"), *_registered(ModelTask.EDGES)]


def all_models() -> list[tuple[str, str]]:
    return [*models()[1:], *matting_models()[1:]]


def setting_keys() -> list[str]:
    """List the sections, and the keys with their section."""
    settings = _read_settings()
    tables = settings.model_dump(mode="json") if settings else {}
    sections = {name: table for name, table in tables.items() if isinstance(table, dict)}
    return [*sections, *(f"{name}.{key}" for name, table in sections.items() for key in table)]


def jobs() -> list[str]:
    """List the newest jobs of the cluster, or of an embedded server that already runs."""
    settings = _read_settings()
    url = _running_server(settings) if settings else None
    if url is None:
        return []
    with suppress(redis.RedisError, ValueError):
        client = redis.Redis.from_url(
            url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, retry=None
        )
        with client:
            names: list[bytes] = client.zrevrange(keys.JOBS, 0, JOBS - 1)  # type: ignore[assignment]
            return [name.decode() for name in names]
    return []


def _running_server(settings: Settings) -> str | None:
    if settings.redis_url:
        return settings.redis_url
    socket = settings.state_folder.absolute() / "redis/redis.sock"
    return f"unix://{quote(str(socket))}" if socket.is_socket() else None


def _registered(task: ModelTask) -> Iterator[tuple[str, str]]:
    return (
        (name, entry.summary)
        for name, entry in registry.read_models().items()
        if entry.task == task
    )


def _read_settings() -> Settings | None:
    with suppress(SettingsError):
        return load_settings()
    return None
