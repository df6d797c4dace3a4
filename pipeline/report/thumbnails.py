"""Thumbnails of a job's images for its contact sheet."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from bgpipe.config.settings import ImageSettings
from bgpipe.pipeline.errors import ItemError
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.images.preview import render_thumbnail
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.report.contact_sheet import THUMBNAIL, SheetImage
from bgpipe.pipeline.storage.factory import StoreFactory
from bgpipe.pipeline.types import Item, JobId

THREADS = 4
"""Each holds a decoded image; the codecs release the GIL."""
CHUNK = 64
"""Images loaded ahead of the page."""
FLAGGED_SCORE = 0.5
"""A good score excludes only some of the faults that raise a flag."""


def load_thumbnails(
    job_store: JobStore, stores: StoreFactory, job_id: JobId, settings: ImageSettings, maximum: int
) -> Iterator[SheetImage]:
    """Yield up to `maximum` images whose source and cutout are readable, the lowest score first.

    Flagged ones count as FLAGGED_SCORE at most, and ones without a score as good.
    """
    job, flags = job_store.job(job_id), job_store.items.flags(job_id)
    scores = dict(enumerate(job_store.items.scores(job_id)))
    source, target = stores.open(job.source), stores.open(job.out)
    limits = Limits.from_settings(settings)

    def load(item: Item) -> SheetImage | None:
        try:
            before = render_thumbnail(source.read(item.source, limits.max_bytes), limits, THUMBNAIL)
            after = render_thumbnail(target.read(item.target, limits.max_bytes), limits, THUMBNAIL)
        except ItemError:
            return None  # the page lists failures in any case
        return SheetImage(
            item.source, before, after, flags.get(item.index, ()), scores.get(item.index)
        )

    def rank(index: int) -> float:
        score = scores.get(index)
        return min(1 if score is None else score, FLAGGED_SCORE if index in flags else 1)

    indices = sorted(range(job_store.items.size(job_id)), key=rank)
    items = job_store.items.manifests.pick(job_id, indices)
    chunks = iter(lambda: list(islice(items, CHUNK)), [])
    with ThreadPoolExecutor(THREADS) as pool:
        images = (image for chunk in chunks for image in pool.map(load, chunk))
        yield from islice(filter(None, images), maximum)
