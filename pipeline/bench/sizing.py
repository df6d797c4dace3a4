"""How much hardware a device needs around it: the arithmetic of `bgpipe bench --plan`.

A pipeline is as fast as its slowest part. Each part's share of an image is measured or assumed here
(infra/docs/sizing.md says which); how many of it work at once follows from Little's law: the images
in a part are the images a second, times the seconds each spends there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

CORE_SECONDS = ((1.0, 0.073), (4.0, 0.107), (12.0, 0.220), (24.0, 0.386))
"""Megapixels and seconds of one core for an image, beside the network (infra/docs/performance.md)."""
MESSAGE = 0.004
"""Seconds of one core for a message's way through Celery."""
BUSY = 0.8
"""Share of its time that a core may be busy before images wait for it."""
SPARE = 2.0
"""Times the connections that are busy on average: requests do not come evenly."""
BATCH = 8
"""Lanes whose images are with the device: a micro-batch."""
SOURCE_BYTES = 0.25e6
CUTOUT_BYTES = 0.65e6
"""Of a JPEG at quality 90 and of a cutout's PNG, for a megapixel."""
BYTES_PER_PIXEL = 28
BYTES_PER_REDUCED_PIXEL = 112
REDUCED = 1e6
"""What an image in flight takes of memory (infra/docs/performance.md)."""
HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Load:
    """`images_per_second`: what the device alone can do; `megapixels`: of a typical source."""

    images_per_second: float
    megapixels: float
    images: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Storage:
    """Seconds that a request takes before its first byte, and bytes a second of one connection."""

    latency: float = 0.05
    speed: float = 80e6


@dataclass(frozen=True, slots=True)
class Host:
    """What there is for one device; 0: as much as it needs."""

    cores: float = 0
    connections: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """For one device. `limit`: the part that is slowest; `cost`: None without a price."""

    cores: int
    connections: int
    lanes: int
    memory: int
    """Bytes of the images in the lanes."""
    images_per_second: float
    limit: str
    hours: float
    cost: float | None


def plan(load: Load, host: Host, storage: Storage, price_per_hour: float = 0.0) -> Plan:
    """What one device needs to be busy, and how fast it is on `host`."""
    work, wait = core_seconds(load.megapixels), storage_seconds(load.megapixels, storage)
    paces = _paces(load, host, work, wait)
    limit = min(paces, key=lambda part: paces[part])
    pace = paces[limit]
    lanes = BATCH + ceil(load.images_per_second * (work + wait) * SPARE)
    hours = load.images / pace / HOUR
    return Plan(
        cores=ceil(load.images_per_second * work / BUSY),
        connections=ceil(load.images_per_second * wait * SPARE),
        lanes=lanes,
        memory=round(lanes * bytes_in_flight(load.megapixels)),
        images_per_second=pace,
        limit=limit,
        hours=hours,
        cost=hours * price_per_hour if price_per_hour else None,
    )


def core_seconds(megapixels: float) -> float:
    """Of one image, read off the measured line; beyond its ends it goes straight on."""
    (left, low), (right, high) = next(
        (pair for pair in pairwise(CORE_SECONDS) if megapixels <= pair[1][0]),
        (CORE_SECONDS[-2], CORE_SECONDS[-1]),
    )
    return MESSAGE + max(0.0, low + (megapixels - left) * (high - low) / (right - left))


def storage_seconds(megapixels: float, storage: Storage) -> float:
    """For reading one image and writing its cutout."""
    size = megapixels * (SOURCE_BYTES + CUTOUT_BYTES)
    return 2 * storage.latency + size / storage.speed


def bytes_in_flight(megapixels: float) -> float:
    """What an image takes of memory at most, its file included."""
    pixels = megapixels * 1e6
    reduced = BYTES_PER_REDUCED_PIXEL * min(pixels, REDUCED)
    return megapixels * SOURCE_BYTES + BYTES_PER_PIXEL * pixels + reduced


def _paces(load: Load, host: Host, work: float, wait: float) -> Mapping[str, float]:
    """Images a second that each part allows; what is not given is no limit."""
    paces = {"device": load.images_per_second}
    if host.cores:
        paces["cores"] = host.cores * BUSY / work
    if host.connections:
        paces["connections"] = host.connections / wait
    return paces
