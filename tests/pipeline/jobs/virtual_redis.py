"""A client of a real Redis whose scripts read a clock that the test sets, and whose replies may be lost."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from typing import Any

from bgpipe.pipeline.broker.client import RedisClient, connect

from ...support.source_tree import ROOT

CLOCK = "test:clock"
# The one way in which time enters the scripts: the leases' time to live is ended by deleting them.
PRELUDE = f"""
local server = redis
local redis = {{pcall = server.pcall, call = function(command, ...)
  if command == 'TIME' then return {{server.call('GET', '{CLOCK}'), '0'}} end
  return server.call(command, ...)
end}}
"""
DUMP = """
local content = {}
for _, key in ipairs(redis.call('KEYS', 'bgpipe*')) do
  local kind = redis.call('TYPE', key).ok
  local value = kind == 'string' and redis.call('GET', key)
    or kind == 'hash' and redis.call('HGETALL', key)
    or kind == 'zset' and redis.call('ZRANGE', key, 0, -1)
    or kind == 'list' and redis.call('LRANGE', key, 0, -1)
  content[#content + 1] = {key, kind, value}
end
return content
"""
_CHANGES = {"EVALSHA", "HSET", "HDEL"}

Mutation = Callable[[str], str]


def unchanged(script: str) -> str:
    return script


class VirtualRedis(RedisClient):
    """Scripts pass through `mutate`; while `loses_replies`, every change is sent twice."""

    loses_replies = False
    mutate: Mutation = staticmethod(unchanged)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._digests: dict[str, str] = {}

    def execute_command(self, *args: object, **options: object) -> object:
        if args[0] == "EVALSHA" and (text := product_scripts().get(str(args[1]))):
            args = ("EVALSHA", self._digest(PRELUDE + self.mutate(text)), *args[2:])
        if self.loses_replies and args[0] in _CHANGES:
            super().execute_command(*args, **options)
        return super().execute_command(*args, **options)

    def _digest(self, text: str) -> str:
        """Return the digest of a script that the server knows."""
        if text not in self._digests:
            self._digests[text] = self.script_load(text)
        return self._digests[text]

    def set_clock(self, seconds: float) -> None:
        self.set(CLOCK, str(seconds))

    def dump(self) -> dict[str, Any]:
        """Return every key of bgpipe with its value; hashes as dictionaries."""
        content: Any = self.eval(DUMP, 0)
        return {key.decode(): _value(kind, value) for key, kind, value in content}


def virtual_redis(url: str, mutate: Mutation = unchanged) -> VirtualRedis:
    with connect(url) as client:
        pool = client.connection_pool
        redis = VirtualRedis(pool, client.address, client.retry_seconds)
    redis.mutate = mutate
    return redis


@cache
def product_scripts() -> dict[str, str]:
    """Return the text of every script of the product by its digest, as its clients load them."""
    common = (ROOT / "pipeline/jobs/lua/common.lua").read_text()
    texts = [
        (common if file.parent.parent.name == "jobs" else "") + file.read_text()
        for file in (ROOT / "pipeline").rglob("*.lua")
    ]
    return {hashlib.sha1(text.encode()).hexdigest(): text for text in texts}


def _value(kind: bytes, value: Any) -> Any:  # by the key's type
    if kind == b"hash":
        pairs = iter(value)
        return {name.decode(): item for name, item in zip(pairs, pairs, strict=True)}
    return value
