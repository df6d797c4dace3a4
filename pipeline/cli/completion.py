"""Values that the shell completes. Nothing is started for one, and what is away completes to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings as SettingsType

TIMEOUT = 0.5
"""Seconds for Redis to answer."""
JOBS = 50
"""The newest jobs that are offered."""


def presets() -> list[str]:
    """The presets of the settings."""
    settings = _settings()
    return list(settings.presets) if settings else []


def models() -> list[tuple[str, str]]:
    """The models that find the subject, each with its summary."""
    from bgpipe.pipeline.types import ModelTask

    return [("auto", "birefnet-general where it is available"), *_registered(ModelTask.SUBJECT)]


def matting_models() -> list[tuple[str, str]]:
    """The models that solve edges."""
    from bgpipe.pipeline.types import ModelTask

    return [("none", "no matting model"), *_registered(ModelTask.EDGES)]


def all_models() -> list[tuple[str, str]]:
    return [*models()[1:], *matting_models()[1:]]


def sweeps() -> list[str]:
    settings = _settings()
    return list(settings.sweeps) if settings else []


def settings() -> list[str]:
    """Sections, and keys with their section."""
    found = _settings()
    if not found:
        return []
    sections = {
        name: table
        for name, table in found.model_dump(mode="json").items()
        if isinstance(table, dict)
    }
    return [*sections, *(f"{name}.{key}" for name, table in sections.items() for key in table)]


def jobs() -> list[str]:
    """The newest jobs of the cluster, or of an embedded server that runs already."""
    import redis

    from bgpipe.pipeline.broker import keys

    found = _settings()
    url = _running_server(found) if found else None
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


def _running_server(settings: SettingsType) -> str | None:
    if settings.redis_url:
        return settings.redis_url
    socket = settings.state_folder.absolute() / "redis/redis.sock"
    return f"unix://{quote(str(socket))}" if socket.is_socket() else None


def _registered(task: object) -> Iterator[tuple[str, str]]:
    from bgpipe.pipeline.models import registry

    return (
        (name, each.summary) for name, each in registry.read_models().items() if each.task == task
    )


def _settings() -> SettingsType | None:
    """None where they are wrong: a completion cannot say so."""
    from bgpipe.config.settings import load_settings
    from bgpipe.config.toml_file import SettingsError

    with suppress(SettingsError):
        return load_settings()
    return None
