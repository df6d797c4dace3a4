"""The ledger seen from above: all jobs together, and what was ever counted.

The totals are counted as images are settled, beside the books of their jobs. They do not shrink
when a job is forgotten or its failures are tried again: each outcome counts once and for good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.jobs.records import ERROR, FLAG
from bgpipe.pipeline.types import JobState

# KEYS: jobs, totals. ARGV: what every head's key begins with. Returns the totals, then flat: how many
# jobs are in which state, and of those that run the images unsettled and in flight, the seconds of
# the one that runs for longest, and the sum of their images a second. What is damaged is left out.
CLUSTER_STATS = """
local states = {listing = 0, running = 0, finished = 0, cancelled = 0}
local unsettled, in_flight, oldest, speed = 0, 0, 0, 0
local time = redis.call('TIME')
local moment = time[1] + time[2] / 1e6
for _, job in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local books = redis.pcall(
    'HMGET', ARGV[1] .. job, 'state', 'size', 'done', 'failed', 'started', 'spent')
  local state = books[1]
  if state and states[state] then states[state] = states[state] + 1 end
  if state == 'running' then
    local done = tonumber(books[3] or 0)
    unsettled = unsettled + tonumber(books[2] or 0) - done - tonumber(books[4] or 0)
    local running = redis.pcall('HLEN', ARGV[1] .. job .. ':running')
    in_flight = in_flight + (tonumber(running) or 0)
    local seconds = moment - tonumber(books[5] or moment)
    oldest = math.max(oldest, seconds)
    seconds = seconds + tonumber(books[6] or 0)
    if seconds > 0 then speed = speed + done / seconds end
  end
end
local found = {'unsettled', unsettled, 'in_flight', in_flight}
for state, count in pairs(states) do
  found[#found + 1] = state
  found[#found + 1] = count
end
for name, value in pairs({oldest = oldest, speed = speed}) do
  found[#found + 1] = name
  found[#found + 1] = string.format('%.6f', value)
end
return {redis.call('HGETALL', KEYS[2]), found}
"""


@dataclass(frozen=True, slots=True)
class OutcomeTotals:
    """Images by how they ended. `since`: when the counting began, another moment if Redis was emptied."""

    since: str
    counts: Mapping[str, int]

    def ended(self, how: str) -> int:
        """`how`: done, skipped or flagged."""
        return self.counts.get(how, 0)

    def failed(self, code: str) -> int:
        return self.counts.get(f"{ERROR}{code}", 0)

    def with_flag(self, flag: str) -> int:
        return self.counts.get(f"{FLAG}{flag}", 0)


@dataclass(frozen=True, slots=True)
class ClusterStats:
    """Of the jobs that run: images unsettled and in flight, and their images a second on average.

    `oldest`: seconds since the first of them was listed, which is the age of the oldest image that
    has not been settled.
    """

    totals: OutcomeTotals
    jobs: Mapping[JobState, int]
    unsettled: int
    in_flight: int
    oldest: float
    images_per_second: float


def read_cluster_stats(client: RedisClient) -> ClusterStats:
    """How all jobs stand now, at one moment."""
    counted, flat = client.eval(CLUSTER_STATS, 2, keys.JOBS, keys.TOTALS, keys.JOB_PREFIX)
    now = _pairs(flat)
    return ClusterStats(
        totals=_totals(_pairs(counted)),
        jobs={state: int(now[state]) for state in JobState},
        unsettled=int(now["unsettled"]),
        in_flight=int(now["in_flight"]),
        oldest=float(now["oldest"]),
        images_per_second=float(now["speed"]),
    )


def _totals(fields: dict[str, str]) -> OutcomeTotals:
    since = fields.pop("since", "")
    return OutcomeTotals(since, {name: int(count) for name, count in fields.items()})


def _pairs(flat: Sequence[bytes | int]) -> dict[str, str]:
    words = [word.decode() if isinstance(word, bytes) else str(word) for word in flat]
    return dict(zip(words[::2], words[1::2], strict=True))
