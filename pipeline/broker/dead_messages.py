"""Messages of the queue that no worker can read, kept with their reason."""

import json
import time
from typing import cast

import redis

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.logging import EventLogger

KEPT = 100
"""Messages at most, each with its first BYTES."""
BYTES = 2000

log = EventLogger(__name__)


def set_aside(client: redis.Redis, message: bytes, reason: str) -> None:
    """Keep the beginning of the message with the reason, and the newest of all."""
    log.error("message set aside: see bgpipe jobs", reason=reason)
    text = message[:BYTES].decode("utf-8", "backslashreplace")
    record = json.dumps({"time": time.time(), "reason": reason, "message": text})
    with client.pipeline() as pipeline:
        pipeline.lpush(keys.DEAD, record)
        pipeline.ltrim(keys.DEAD, 0, KEPT - 1)
        pipeline.execute()


def describe_dead(client: redis.Redis) -> str:
    """Return a line about the messages that were set aside; empty without any."""
    records = cast("list[bytes]", client.lrange(keys.DEAD, 0, -1))
    if not records:
        return ""
    newest = json.loads(records[0])
    minutes = (time.time() - newest["time"]) / 60
    return (
        f"unreadable messages were set aside: {len(records)}, the newest {minutes:.0f} min ago: "
        f"{newest['reason']}: find their sender, then redis-cli DEL {keys.DEAD}"
    )
