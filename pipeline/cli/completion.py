"""Shell completion of values. It starts no server, and errors complete to nothing."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import quote

import redis

from bgpipe.config.layers import SettingsError
from bgpipe.config.settings import load_settings
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.types import ModelTask

TIMEOUT = 0.5
"""Seconds for Redis to respond."""
JOBS = 50
"""Number of jobs offered, the newest."""


def presets() -> list[str]:
    with suppress(SettingsError):
        return list(load_settings().presets)
    return []


def sweeps() -> list[str]:
    with suppress(SettingsError):
        return list(load_settings().sweeps)
    return []


def models() -> list[tuple[str, str]]:
    """List the subject models, each with its summary."""
    return [("auto", "birefnet-general where it is available"), *_registered(ModelTask.SUBJECT)]


def matting_models() -> list[tuple[str, str]]:
    return [("none", "no matting model"), *_registered(ModelTask.EDGES)]


def all_models() -> list[tuple[str, str]]:
    return [*models()[1:], *matting_models()[1:]]


def setting_keys() -> list[str]:
    """List the sections, and the keys with their section."""
    with suppress(SettingsError):
        tables = load_settings().model_dump(mode="json")
        sections = {name: table for name, table in tables.items() if isinstance(table, dict)}
        return [*sections, *(f"{name}.{key}" for name, table in sections.items() for key in table)]
    return []


def jobs() -> list[str]:
    """List the newest jobs of the cluster, or of an embedded server that already runs."""
    with suppress(SettingsError, redis.RedisError, ValueError):  # ValueError: a wrong or no URL
        settings = load_settings()
        socket = settings.state_folder.absolute() / "redis/redis.sock"
        url = settings.redis_url or (f"unix://{quote(str(socket))}" if socket.is_socket() else "")
        limits = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT}
        with redis.Redis.from_url(url, **limits, retry=None) as client:
            names: list[bytes] = client.zrevrange(keys.JOBS, 0, JOBS - 1)
        return [name.decode() for name in names]
    return []


def _registered(task: ModelTask) -> list[tuple[str, str]]:
    from bgpipe.pipeline.models import registry

    models = registry.read_models().items()
    return [(name, entry.summary) for name, entry in models if entry.task == task]
