"""What a job would do, before it is done: counts, bytes, and a sample of the pictures' sizes."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

from bgpipe.pipeline.errors import ItemError
from bgpipe.pipeline.images.decode import read_pixel_count
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.planning.catalog import Catalog, CatalogRow
from bgpipe.pipeline.planning.diff import PlannedItem, TargetState
from bgpipe.pipeline.planning.ignored import IgnoredObjects
from bgpipe.pipeline.planning.planner import plan_job
from bgpipe.pipeline.storage.base import Store
from bgpipe.pipeline.types import Job, ObjectInfo

SAMPLE = 200
"""Images whose headers are read, one request each."""
WHOLE = 1 << 20
"""Bytes up to which a file is read whole: some formats have their size at the end."""
HEADER = 1 << 18
"""Bytes read of a longer file: a JPEG may have a preview and a profile before its size."""
THREADS = 8
EDGES = (1, 4, 12, 24, 50, 100)
"""Megapixels."""
BANDS = (
    f"below {EDGES[0]}",
    *(f"{low} to {high}" for low, high in pairwise(EDGES)),
    f"{EDGES[-1]} and more",
)


@dataclass(slots=True)
class DryRunReport:
    """What was found. `size` is the bytes to read; `lost` counts cutouts that no source asks for."""

    states: Counter[TargetState] = field(default_factory=Counter)
    ignored: IgnoredObjects = field(default_factory=IgnoredObjects)
    orphans: int = 0
    size: int = 0
    megapixels: Counter[str] = field(default_factory=Counter)
    """How many images of the sample are in each of BANDS."""
    sample: int = 0
    """Headers that were read; those that said nothing are in no band."""

    @property
    def to_do(self) -> int:
        return self.states[TargetState.NEW] + self.states[TargetState.CHANGED]

    @property
    def foreign(self) -> int:
        """Images that would fail, as their targets were not made by bgpipe."""
        return self.states[TargetState.FOREIGN]


class HeaderSample:
    """At most `size` of all that are offered, each as likely as any other (Vitter's algorithm R)."""

    def __init__(self, size: int) -> None:
        self.entries: list[ObjectInfo] = []
        self._size = size
        self._offered = 0
        # Two looks at an unchanged source are to say the same.
        self._random = Random(0)

    def offer(self, entry: ObjectInfo) -> None:
        self._offered += 1
        if len(self.entries) < self._size:
            self.entries.append(entry)
        elif (place := self._random.randrange(self._offered)) < self._size:
            self.entries[place] = entry


def estimate_job(
    job: Job,
    source: Store,
    target: Store,
    limits: Limits,
    *,
    entries: Iterable[ObjectInfo] | None = None,
    catalog: Catalog | None = None,
) -> DryRunReport:
    """Survey `job` and measure a sample of what it would do. `entries`: None for all of `source`.

    Raises:
        NoImages, UsageError: as of `survey`.

    """
    found, sample = DryRunReport(), HeaderSample(SAMPLE)
    listed = source.list(on_skipped=found.ignored.add_unread) if entries is None else entries
    for batch in plan_job(job, listed, source, target, catalog, found.ignored):
        for one in batch:
            _count(one, found, sample)
    found.sample = len(sample.entries)
    found.megapixels = _histogram(source, sample.entries, limits)
    return found


def _count(one: PlannedItem | CatalogRow, found: DryRunReport, sample: HeaderSample) -> None:
    if isinstance(one, CatalogRow):
        found.orphans += 1
        return
    found.states[one.state] += 1
    if one.state in (TargetState.NEW, TargetState.CHANGED):
        found.size += one.entry.size
        sample.offer(one.entry)


def _histogram(source: Store, entries: Iterable[ObjectInfo], limits: Limits) -> Counter[str]:
    def band(entry: ObjectInfo) -> str | None:
        length = entry.size if entry.size <= WHOLE else HEADER
        try:
            pixels = read_pixel_count(source.read_range(entry.key, 0, length), limits)
        except ItemError:
            return None  # the job itself will say what is wrong with it, if anything is
        return BANDS[bisect_right(EDGES, pixels / 1e6)]

    with ThreadPoolExecutor(THREADS, thread_name_prefix="measure") as pool:
        return Counter(name for name in pool.map(band, entries) if name)
