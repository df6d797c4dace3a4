"""Redis Sentinel: sentinel://:password@a:26379,b:26379/0?master=mymaster, the primary that the Sentinels name.

Redis may lose what its primary acknowledged and its replica has not: see infra/docs/reliability.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from redis.sentinel import Sentinel, SentinelConnectionPool

SCHEME = "sentinel://"
PORT = "26379"
MASTER = "mymaster"
"""Name of the primary in Redis' own example of a configuration."""


def make_pool(url: str, timeout: float, options: Mapping[str, Any]) -> SentinelConnectionPool:
    """Return connections to the present primary; a Sentinel gets `timeout` seconds to name it.

    ValueError if a port or the database is not a number.
    """
    parts, (hosts, master, database) = urlsplit(url), _parse(url)
    sentinels = Sentinel(  # type: ignore[no-untyped-call]
        [(host, int(port)) for host, port in hosts], sentinel_kwargs=_limits(timeout)
    )
    return SentinelConnectionPool(  # type: ignore[no-untyped-call]
        master,
        sentinels,
        username=unquote(parts.username or "") or None,
        password=unquote(parts.password or "") or None,
        db=int(database),
        **options,
    )


def broker_url(url: str) -> str:
    """Return kombu's form, a URL for each Sentinel."""
    login, at, _ = urlsplit(url).netloc.rpartition("@")
    hosts, _, database = _parse(url)
    return ";".join(f"{SCHEME}{login}{at}{host}:{port}/{database}" for host, port in hosts)


def transport_options(url: str, timeout: float) -> dict[str, Any]:
    """Return kombu's options beside `broker_url`."""
    return {"master_name": _parse(url)[1], "sentinel_kwargs": _limits(timeout)}


def _limits(timeout: float) -> dict[str, float | None]:
    """Return limits that leave a Sentinel for the next one at once: by default it is tried for 10 s."""
    return {"socket_timeout": timeout, "socket_connect_timeout": timeout, "retry": None}


def _parse(url: str) -> tuple[list[tuple[str, str]], str, str]:
    """Return host and port of each Sentinel, the primary's name, and the database."""
    parts = urlsplit(url)
    hosts = (host.partition(":") for host in parts.netloc.rpartition("@")[2].split(","))
    master = parse_qs(parts.query).get("master", [MASTER])[0]
    return [(host, port or PORT) for host, _, port in hosts], master, parts.path.strip("/") or "0"
