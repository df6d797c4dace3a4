"""The heartbeats of the workers (bgpipe.workers.health writes them), read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from bgpipe.pipeline import keys
from bgpipe.pipeline.connection import Connection


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a worker last said of itself. Times are Unix times, 0 for never."""

    worker: str
    """The name it claims under, like gpu0@host/1a2b3c."""
    images: int
    """Ended since its start."""
    steps: int
    """Forward passes of its device."""
    in_flight: int
    oldest: float
    """Seconds for which the oldest image has been in flight."""
    beat: float
    progress: float
    """When the last image ended."""

    @property
    def host(self) -> str:
        return self.worker.rpartition("@")[2].partition("/")[0]

    @property
    def idle(self) -> float:
        """Seconds since an image ended; without one, for which the oldest has been in flight."""
        return self.beat - self.progress if self.progress else self.oldest

    def is_stalled(self, limit: float) -> bool:
        """Whether for `limit` seconds there was work in hand and none of it came to its end."""
        return self.in_flight > 0 and min(self.oldest, self.idle) > limit


_NUMBERS = tuple(field.name for field in fields(Pulse) if field.name != "worker")


def pulses(client: Connection) -> list[Pulse]:
    """The workers with a heartbeat, by name. One that died seconds ago may be among them."""
    names = sorted(client.scan_iter(match=keys.of_worker("*"), count=1000))
    found = [_pulse(name.decode(), client.hmget(name, _NUMBERS)) for name in names]
    return [pulse for pulse in found if pulse.beat]


def _pulse(key: str, values: Sequence[bytes | str | None]) -> Pulse:
    said = {name: float(value or 0) for name, value in zip(_NUMBERS, values, strict=True)}
    return Pulse(
        worker=key.removeprefix(keys.of_worker("")),
        images=int(said["images"]),
        steps=int(said["steps"]),
        in_flight=int(said["in_flight"]),
        oldest=said["oldest"],
        beat=said["beat"],
        progress=said["progress"],
    )
