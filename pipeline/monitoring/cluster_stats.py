"""Statistics over all jobs: their present state, and totals since counting began.

The totals are counted as images are settled. They do not shrink when a job is forgotten or its
failures are retried: each outcome counts once and for good.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient, load_lua
from bgpipe.pipeline.types import JobState


@dataclass(frozen=True, slots=True)
class OutcomeTotals:
    """`since` names the start of counting; it changes if Redis was emptied."""

    since: str
    counts: Counter[str]
    """Images that were done, skipped or flagged, by ERROR and code, and by FLAG and flag."""


@dataclass(frozen=True, slots=True)
class ClusterStats:
    """All jobs at one moment; all fields but `totals` and `jobs` cover the running jobs.

    `oldest`: seconds since the first of them was listed, the age of the oldest unsettled image.
    `images_per_second`: the sum of their averages.
    """

    totals: OutcomeTotals
    jobs: Mapping[JobState, int]
    unsettled: int
    in_flight: int
    oldest: float
    images_per_second: float


def read_cluster_stats(client: RedisClient) -> ClusterStats:
    script = load_lua(client, __package__, "cluster_stats")
    totals, stats = map(_pairs, script(keys=[keys.JOBS, keys.TOTALS], args=[keys.JOB_PREFIX]))
    return ClusterStats(
        totals=OutcomeTotals(
            totals.pop("since", ""), Counter({k: int(v) for k, v in totals.items()})
        ),
        jobs={state: int(stats[state]) for state in JobState},
        unsettled=int(stats["unsettled"]),
        in_flight=int(stats["in_flight"]),
        oldest=float(stats["oldest"]),
        images_per_second=float(stats["speed"]),
    )


def _pairs(flat: Sequence[bytes | int]) -> dict[str, str]:
    words = [word.decode() if isinstance(word, bytes) else str(word) for word in flat]
    return dict(zip(words[::2], words[1::2], strict=True))
