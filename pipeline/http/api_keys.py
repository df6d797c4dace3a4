"""Who may use the HTTP service: API keys, of which only a digest is kept.

A key holds 256 random bits, so that one round of sha256 is enough: nobody can guess what it was made
from. A browser shows its key once and gets a visit, which lasts for some hours or until the key is
revoked.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, cast

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.pipeline.broker.client import RedisClient

PREFIX = "bgp_"
"""What every key begins with, so that scanners for leaked secrets find it."""
SESSION_SECONDS = 12 * 3600
"""Seconds for which a browser is let in."""
MINUTE = 60
NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
RESERVED = "local"
"""The owner of what is asked for without a key."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What a key gives. `name` owns the jobs asked for with it; several keys may have one name."""

    name: str
    created: float
    """Unix time."""
    everything: bool = False
    """Jobs of all others too, and those of commands."""


class ApiKeys:
    """All keys of one Redis. Threads may share it."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    def add(self, name: str, *, everything: bool = False) -> str:
        """A new key; this is the only time that it can be seen.

        Raises:
            UsageError: nobody can have this name.

        """
        if not NAME.fullmatch(name) or name == RESERVED:
            raise UsageError(
                f"not a name for a key: {name!r}: use up to 40 letters, digits, - and _"
            )
        secret = PREFIX + secrets.token_urlsafe(32)
        grant = ApiKey(name, time.time(), everything)
        self._client.hset(keys.ACCESS, _digest(secret), json.dumps(asdict(grant)))
        return secret

    def all(self) -> list[tuple[str, ApiKey]]:
        """The first digits of each key's digest, and what it gives; the oldest first."""
        found = cast("dict[bytes, bytes]", self._client.hgetall(keys.ACCESS))
        grants = [(digest.decode()[:8], _grant(text)) for digest, text in found.items()]
        return sorted(grants, key=lambda entry: entry[1].created)

    def exist(self) -> bool:
        """Whether there is any key."""
        return bool(self._client.hlen(keys.ACCESS))

    def revoke(self, name_or_digest: str) -> int:
        """Remove every key of this name, or the one whose digest begins so; returns how many."""
        found = cast("dict[bytes, bytes]", self._client.hgetall(keys.ACCESS))
        wanted = [
            digest
            for digest, text in found.items()
            if name_or_digest in (_grant(text).name, digest.decode()[:8])
        ]
        return int(self._client.hdel(keys.ACCESS, *wanted)) if wanted else 0

    def grant(self, secret: str) -> ApiKey | None:
        """What the key gives, if it is one."""
        return self._of(_digest(secret))

    def begin_session(self, secret: str) -> str:
        """A token that stands for the key for some hours."""
        token = secrets.token_urlsafe(32)
        self._client.set(keys.of_session(_digest(token)), _digest(secret), ex=SESSION_SECONDS)
        return token

    def session_key(self, token: str) -> ApiKey | None:
        """What the key gives that the visit began with, unless it was revoked."""
        digest = cast("bytes | None", self._client.get(keys.of_session(_digest(token))))
        return self._of(digest.decode()) if digest else None

    def end_session(self, token: str) -> None:
        self._client.unlink(keys.of_session(_digest(token)))

    def count(self, name: str) -> int:
        """How many requests `name` has made in this minute, with this one."""
        key = keys.of_rate(name, int(time.time()) // MINUTE)
        number = int(self._client.incr(key))
        if number == 1:
            self._client.expire(key, 2 * MINUTE)
        return number

    def _of(self, digest: str) -> ApiKey | None:
        text = cast("bytes | None", self._client.hget(keys.ACCESS, digest))
        return _grant(text) if text else None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _grant(text: bytes) -> ApiKey:
    return ApiKey(**json.loads(text))
