"""API keys, of which Redis holds digests, and the browser sessions that replace them for some hours."""

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
"""Begins every key, so that scanners for leaked secrets find it."""
SESSION_SECONDS = 12 * 3600
MINUTE = 60
NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
LOCAL_OWNER = "local"
"""The owner of requests without a key; reserved."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """The rights of a key. `name` owns the jobs requested with it; several keys may share a name."""

    name: str
    created: float
    """Unix time."""
    everything: bool = False
    """Access to the jobs of all owners, and to those of commands."""


class ApiKeys:
    """All keys of one Redis. Threads may share it."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    def add(self, name: str, *, everything: bool = False) -> str:
        """Create a key and return its secret, kept nowhere; UsageError if the name is not allowed."""
        if not NAME.fullmatch(name) or name == LOCAL_OWNER:
            allowed = "use up to 40 letters, digits, - and _"
            raise UsageError(f"not a name for a key: {name!r}: {allowed}")
        secret = PREFIX + secrets.token_urlsafe(32)
        record = json.dumps(asdict(ApiKey(name, time.time(), everything)))
        self._client.hset(keys.ACCESS, _digest(secret), record)
        return secret

    def all(self) -> list[tuple[str, ApiKey]]:
        """Return the first digits of each key's digest, and the key; oldest first."""
        entries = ((digest[:8], key) for digest, key in self._read_all().items())
        return sorted(entries, key=lambda entry: entry[1].created)

    def exist(self) -> bool:
        return bool(self._client.hlen(keys.ACCESS))

    def revoke(self, name_or_digest: str) -> int:
        """Remove the keys of this name, or the key with these first digits; return their number."""
        stored = self._read_all().items()
        revoked = [digest for digest, key in stored if name_or_digest in (key.name, digest[:8])]
        return int(self._client.hdel(keys.ACCESS, *revoked)) if revoked else 0

    def find(self, secret: str) -> ApiKey | None:
        return self._read(_digest(secret))

    def begin_session(self, secret: str) -> str:
        """Return a token that replaces the key for SESSION_SECONDS."""
        token = secrets.token_urlsafe(32)
        self._client.set(keys.of_session(_digest(token)), _digest(secret), ex=SESSION_SECONDS)
        return token

    def session_key(self, token: str) -> ApiKey | None:
        """Return the key of a session, unless it was revoked."""
        digest = cast("bytes | None", self._client.get(keys.of_session(_digest(token))))
        return self._read(digest.decode()) if digest else None

    def end_session(self, token: str) -> None:
        self._client.unlink(keys.of_session(_digest(token)))

    def count_request(self, name: str) -> int:
        """Return the number of requests of `name` in this minute, with this one."""
        key = keys.of_rate(name, int(time.time()) // MINUTE)
        count = int(self._client.incr(key))
        if count == 1:
            self._client.expire(key, 2 * MINUTE)
        return count

    def _read(self, digest: str) -> ApiKey | None:
        record = cast("bytes | None", self._client.hget(keys.ACCESS, digest))
        return ApiKey(**json.loads(record)) if record else None

    def _read_all(self) -> dict[str, ApiKey]:
        records = cast("dict[bytes, bytes]", self._client.hgetall(keys.ACCESS))
        return {digest.decode(): ApiKey(**json.loads(text)) for digest, text in records.items()}


def _digest(secret: str) -> str:
    # One round suffices: 256 random bits cannot be guessed.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
