"""What an error of Redis means: wait, refuse with the next step, or damaged data."""

import re
from collections.abc import Sequence

import redis

from bgpipe.pipeline.errors import RedisUnavailable, StoreCorrupted, Unavailable

WAITS = {
    "OOM": "free the server's memory or raise its maxmemory",
    "READONLY": "use the address of the primary, unless a failover is going on",
    "MISCONF": "free the server's disk",
    "NOREPLICAS": "start its replicas",
    "BUSY": "end the script that blocks it with redis-cli SCRIPT KILL",
    "LOADING": "wait until it has read its data",
    "MASTERDOWN": "start its primary",
    "CLUSTERDOWN": "start its other nodes",
    "TRYAGAIN": "wait until its keys have moved",
}
"""What helps if a reply with this code does not end by itself."""

# Redis 6 puts the error of a script behind a text and a dash, redis-py that of a pipeline behind a text.
_CODE = re.compile(rf"(?:^|-|caused error: )({'|'.join(WAITS)})\b")
_RIGHT = re.compile(
    "NOPERM|ACL failure|can't run this command|can't access at least one of the keys"
)
_DAMAGE = re.compile("WRONGTYPE|user_script|is not an integer|is not a valid float|out of range")
_UNKNOWN = re.compile("unknown .*command", re.IGNORECASE)


def waits(error: Exception) -> bool:
    """Whether the same command may succeed later: Redis is away, fails over or takes no writes."""
    error = _cause(error)
    if isinstance(error, redis.AuthenticationError):
        return False
    if _CODE.search(_text(error)):
        return True
    away = (redis.ConnectionError, redis.TimeoutError)
    return isinstance(error, away) or not isinstance(error, redis.RedisError)


def is_away(error: Exception) -> bool:
    """Whether nothing answers, as opposed to a server that answers with an error."""
    return waits(error) and not _CODE.search(_text(_cause(error)))


def lacks_right(error: Exception) -> bool:
    """Whether the user has no right to the command, which a reload of users makes so for a moment."""
    return bool(_RIGHT.search(_text(_cause(error))))


def translate(error: Exception, address: str, command: Sequence[object] = ()) -> Unavailable:
    """Return the error to raise instead; `command`: the words of the command that failed."""
    error = _cause(error)
    text = _text(error)
    if code := _CODE.search(text):
        return _refused(address, text, WAITS[code[1]])
    if waits(error) or isinstance(error, redis.AuthenticationError):
        server = "a server with TLS" if address.startswith("rediss:") else "the server"
        return RedisUnavailable(
            f"redis is not available: {address}: {error}: check that {server} runs there and "
            "accepts this user"
        )
    if _RIGHT.search(text):
        name = str(command[0]).lower() if command else "COMMAND"
        return _refused(address, text, f"allow it: ACL SETUSER NAME +{name} ~bgpipe*")
    if _DAMAGE.search(text) and not _UNKNOWN.search(text):
        return StoreCorrupted(
            f"a key of the ledger is damaged: {_key(command)} or one below it: {text}: find the "
            "program that wrote it; bgpipe jobs --forget JOB removes all keys of a job"
        )
    return _refused(address, text, "use a Redis or Valkey server with all commands, not a cluster")


def _refused(address: str, text: str, remedy: str) -> RedisUnavailable:
    return RedisUnavailable(f"redis refuses a command: {address}: {text}: {remedy}")


def _cause(error: Exception) -> Exception:
    """Return the error of Redis within one of kombu."""
    cause = error.__cause__
    return cause if isinstance(cause, redis.RedisError) else error


def _text(error: Exception) -> str:
    """Return the reply with its code, which redis-py cuts off if it has a class for it."""
    return f"{getattr(error, 'status_code', None) or ''} {error}".strip()


def _key(command: Sequence[object]) -> str:
    """Return the first key; a script has its number of keys before it."""
    position = 3 if command and str(command[0]).upper().startswith("EVAL") else 1
    return str(command[position]) if len(command) > position else "unknown"
