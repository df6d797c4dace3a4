"""Report what a job would do: counts, bytes, and the image sizes of a sample."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import chain
from random import Random

from bgpipe.pipeline.errors import ItemError
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.planning.catalog import Catalog
from bgpipe.pipeline.planning.diff import THREADS, PlannedItem, TargetState
from bgpipe.pipeline.planning.plan_writer import by_image
from bgpipe.pipeline.planning.planner import IgnoredObjects, plan_job
from bgpipe.pipeline.planning.prune import Prune, handle_orphans
from bgpipe.pipeline.storage.base import Store
from bgpipe.pipeline.types import Job, ObjectInfo

SAMPLE_SIZE = 200
"""Images whose headers are read, one request each."""
MAX_WHOLE_BYTES = 1 << 20
"""Smaller files are read whole: some formats have their size at the end."""
HEADER_BYTES = 1 << 18
"""Read of a longer file: a JPEG may have a preview and a profile before its size."""
EDGES = (1, 4, 12, 24, 50, 100)
"""Megapixels."""
BANDS = ("below 1", "1 to 4", "4 to 12", "12 to 24", "24 to 50", "50 to 100", "100 and more")


@dataclass(slots=True)
class DryRunReport:
    """Counts of a plan. `size` is the bytes to read; `orphans` are not among the states."""

    states: Counter[TargetState] = field(default_factory=Counter)
    """Of images: changed if only some of its outputs are new, foreign if one of them is."""
    outputs: dict[str, Counter[TargetState]] = field(default_factory=dict)
    """States of the files of each named output."""
    ignored: IgnoredObjects = field(default_factory=IgnoredObjects)
    orphans: int = 0
    size: int = 0
    megapixels: Counter[str] = field(default_factory=Counter)
    """Images of the sample in each of BANDS."""
    sample: int = 0
    """Headers that were read; those without a readable size are in no band."""

    @property
    def to_do(self) -> int:
        return self.states[TargetState.NEW] + self.states[TargetState.CHANGED]


def estimate_job(
    job: Job,
    source: Store,
    target: Store,
    limits: Limits,
    *,
    entries: Iterable[ObjectInfo] | None = None,
    catalog: Catalog | None = None,
    prune: Prune | None = None,
) -> DryRunReport:
    """Plan `job` and measure a sample of its work. `entries`: None for all of `source`.

    `prune` is called with the orphans, if it is given.

    Raises:
        NoImages, UsageError: see `plan_job`.
    """
    report = DryRunReport(outputs={output.name: Counter() for output in job.outputs})
    listed = source.list(on_skipped=report.ignored.add_unread) if entries is None else entries
    batches = plan_job(job, listed, source, target, catalog, report.ignored)
    images = chain.from_iterable(by_image(job, handle_orphans(batches, source, target, prune)))
    sample = draw_sample(_count(images, report), SAMPLE_SIZE)
    report.orphans = report.states.pop(TargetState.ORPHANED, 0)
    report.sample = len(sample)
    report.megapixels = _count_megapixels(source, sample, limits)
    return report


def draw_sample(entries: Iterable[ObjectInfo], size: int) -> list[ObjectInfo]:
    """Return a uniform sample of at most `size` entries, the same in every run."""
    draw = Random(0).random
    return nlargest(size, entries, key=lambda _: draw())


def _count(images: Iterable[Sequence[PlannedItem]], report: DryRunReport) -> Iterator[ObjectInfo]:
    """Count images and outputs, and yield the sources of the images to do."""
    for image in images:
        states = {planned.state for planned in image}
        state = image[0].state
        if len(states) > 1:
            state = TargetState.FOREIGN if TargetState.FOREIGN in states else TargetState.CHANGED
        report.states[state] += 1
        if state is not TargetState.ORPHANED:
            for planned, counts in zip(image, report.outputs.values(), strict=False):
                counts[planned.state] += 1
        if state in (TargetState.NEW, TargetState.CHANGED):
            report.size += image[0].source.size
            yield image[0].source


def _count_megapixels(source: Store, entries: Iterable[ObjectInfo], limits: Limits) -> Counter[str]:
    from bgpipe.pipeline.images.decode import read_pixel_count  # Pillow: a submit does without

    def band(entry: ObjectInfo) -> str | None:
        length = entry.size if entry.size <= MAX_WHOLE_BYTES else HEADER_BYTES
        try:
            pixels = read_pixel_count(source.read_range(entry.key, 0, length), limits)
        except ItemError:
            return None  # the job itself reports the error
        return BANDS[bisect_right(EDGES, pixels / 1e6)]

    with ThreadPoolExecutor(THREADS, thread_name_prefix="measure") as pool:
        return Counter(name for name in pool.map(band, entries) if name)
