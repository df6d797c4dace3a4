"""Write a plan: its images into the job's item store, its targets into the catalog."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby, islice
from operator import attrgetter

from bgpipe.pipeline.jobs.manifest import BLOCK
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.planning.catalog import CatalogRow, CatalogWriter
from bgpipe.pipeline.planning.diff import BATCH, PlannedItem, TargetState
from bgpipe.pipeline.planning.targets import key_bytes, sort_rows
from bgpipe.pipeline.types import Item, Job, ObjectInfo


def by_image(
    job: Job, batches: Iterable[Sequence[PlannedItem]]
) -> Iterator[list[list[PlannedItem]]]:
    """Yield the plan in batches of images, each the list of its outputs; an orphan is by itself.

    Images of a job with named outputs come in the order of their sources' keys, sorted on disk.
    """
    if not job.outputs:
        yield from ([[planned] for planned in batch] for batch in batches)
        return
    columns = attrgetter("source.key", "source.size", "source.identity", *PlannedItem._fields[1:])
    rows = sort_rows(
        map(columns, chain.from_iterable(batches)),
        lambda row: (key_bytes(row[0]), row[4] == TargetState.ORPHANED, row[-1]),
    )
    ordered = (
        PlannedItem(ObjectInfo(*row[:3]), row[3], TargetState(row[4]), *row[5:]) for row in rows
    )
    groups = groupby(
        ordered, lambda planned: planned.target if planned.is_orphan else planned.source
    )
    images = (list(group) for _, group in groups)
    while batch := list(islice(images, BATCH)):
        yield batch


class PlanWriter:
    """Writes a plan into the job's item store and into the target's catalog, if any.

    `token` is that of the job's lease; `on_work` is called after each batch once an item needs a worker.
    """

    def __init__(
        self,
        jobs: JobStore,
        job: Job,
        token: int,
        catalog: CatalogWriter | None,
        on_work: Callable[[], None],
    ) -> None:
        self._jobs = jobs
        self._job = job
        self._token = token
        self._catalog = catalog
        self._on_work = on_work
        self._size = 0
        self._skipped = 0
        self._pending: list[Item] = []

    def write(self, batches: Iterable[list[list[PlannedItem]]]) -> None:
        """Write the batches of `by_image`."""
        rows: Iterable[CatalogRow] = chain.from_iterable(map(self._write_images, batches))
        if self._job.outputs:  # the images are in the order of their sources' keys
            ordered = sort_rows(rows, lambda row: key_bytes(row[0]))
            rows = (CatalogRow(*row) for row in ordered)
        for row in rows:
            if self._catalog:
                self._catalog.add(row)
        self._jobs.add(self._job.id, self._pending, self._token)
        if self._catalog:
            self._catalog.close()

    def _write_images(self, images: list[list[PlannedItem]]) -> Iterator[CatalogRow]:
        """Add the images that need a worker to the job; return the rows of all."""
        rows = [row for image in images for row in self._add(image)]
        self._jobs.skip(self._job.id, self._skipped, self._token)
        while len(self._pending) >= BLOCK:
            self._jobs.add(self._job.id, self._pending[:BLOCK], self._token)
            del self._pending[:BLOCK]
        if self._size:
            self._on_work()
        return iter(rows)

    def _add(self, image: Sequence[PlannedItem]) -> Iterator[CatalogRow]:
        source, first = image[0].source, self._size * len(image)
        if any(planned.is_work for planned in image):
            target, *others = (planned.target for planned in image)
            stale = sum(planned.is_work << planned.output for planned in image)
            self._pending.append(
                Item(self._size, source.key, target, source.identity, tuple(others), stale)
            )
            self._size += 1
        else:
            self._skipped += not image[0].is_orphan
        for planned in image:
            index = first + planned.output if planned.is_work else -1
            made_by = (source.key, source.identity, planned.recipe)
            yield CatalogRow(planned.target, planned.made, *made_by, index)
