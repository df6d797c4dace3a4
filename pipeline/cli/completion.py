"""Shell completion of values. It starts no server, and errors complete to nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings

TIMEOUT = 0.5
"""Seconds for Redis to respond."""
JOBS = 50
"""Number of jobs offered, the newest."""


def _names_in(table: str) -> Callable[[], list[str]]:
    def names() -> list[str]:
        settings = _settings()
        return list(getattr(settings, table)) if settings else []

    return names


presets, outputs, sweeps = map(_names_in, ("presets", "outputs", "sweeps"))


def models() -> list[tuple[str, str]]:
    """List the subject models, each with its summary."""
    return [("auto", "birefnet-general where it is available"), *_registered("subject")]


def matting_models() -> list[tuple[str, str]]:
    return [("none", "no matting model"), *_registered("edges")]


def all_models() -> list[tuple[str, str]]:
    return [*models()[1:], *matting_models()[1:]]


def setting_keys() -> list[str]:
    """List the sections, and the keys with their section."""
    settings = _settings()
    tables = settings.model_dump(mode="json") if settings else {}
    sections = {name: table for name, table in tables.items() if isinstance(table, dict)}
    return [*sections, *(f"{name}.{key}" for name, table in sections.items() for key in table)]


def jobs() -> list[str]:
    """List the newest jobs of the cluster, or of an embedded server that already runs."""
    import redis

    from bgpipe.pipeline.broker import keys

    if settings := _settings():
        socket = settings.state_folder.absolute() / "redis/redis.sock"
        url = settings.redis_url or (f"unix://{quote(str(socket))}" if socket.is_socket() else "")
        limits = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT}
        with (
            suppress(redis.RedisError, ValueError),  # ValueError: a wrong or no URL
            redis.Redis.from_url(url, **limits, retry=None) as client,
        ):
            names: list[bytes] = client.zrevrange(keys.JOBS, 0, JOBS - 1)
            return [name.decode() for name in names]
    return []


def _settings() -> Settings | None:
    """Return none if a setting is wrong."""
    from bgpipe.config.settings import load_settings

    with suppress(UsageError):
        return load_settings()
    return None


def _registered(task: str) -> list[tuple[str, str]]:
    from bgpipe.pipeline.models import registry

    models = registry.read_models().items()
    return [(name, entry.summary) for name, entry in models if entry.task == task]
