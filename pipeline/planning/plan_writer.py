"""Write a plan: its images into the job's item store, its targets into the catalog."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby, islice, starmap
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
    groups = groupby(ordered, lambda item: item.target if item.is_orphan else item.source)
    images = (list(group) for _, group in groups)
    while batch := list(islice(images, BATCH)):
        yield batch


def add_items(
    jobs: JobStore,
    job: Job,
    token: int,
    batches: Iterable[list[list[PlannedItem]]],
    on_work: Callable[[], None],
) -> Iterator[CatalogRow]:
    """Add the images that need a worker to the job; yield the rows of all for `write_rows`.

    `batches` are those of `by_image`; `token` is that of the job's lease; `on_work` is called after each
    batch once an item needs a worker.
    """
    size = skipped = 0
    pending: list[Item] = []
    for images in batches:
        rows: list[CatalogRow] = []
        for image in images:
            rows += _rows(image, size)
            if any(planned.is_work for planned in image):
                pending.append(_item(image, size))
                size += 1
            else:
                skipped += not image[0].is_orphan
        jobs.skip(job.id, skipped, token)
        while len(pending) >= BLOCK:
            jobs.add(job.id, pending[:BLOCK], token)
            del pending[:BLOCK]
        if size:
            on_work()
        yield from rows
    jobs.add(job.id, pending, token)


def write_rows(job: Job, rows: Iterable[CatalogRow], catalog: CatalogWriter | None) -> None:
    """Write the rows of `add_items` into the target's catalog, if any."""
    if job.outputs:  # the images are in the order of their sources' keys
        rows = starmap(CatalogRow, sort_rows(rows, lambda row: key_bytes(row[0])))
    for row in rows:
        if catalog:
            catalog.add(row)
    if catalog:
        catalog.close()


def _item(image: Sequence[PlannedItem], index: int) -> Item:
    source, (target, *others) = image[0].source, (planned.target for planned in image)
    stale = sum(planned.is_work << planned.output for planned in image)
    return Item(index, source.key, target, source.identity, tuple(others), stale)


def _rows(image: Sequence[PlannedItem], index: int) -> Iterator[CatalogRow]:
    """Yield the rows of an image; `index` is that of its item, if it needs a worker."""
    for planned in image:
        source, target, _, recipe, made, output = planned
        item = index * len(image) + output if planned.is_work else -1
        yield CatalogRow(target, made, source.key, source.identity, recipe, item)
