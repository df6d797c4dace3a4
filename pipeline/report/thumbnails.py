"""Thumbnails of a job's images for its contact sheet."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice

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


def load_thumbnails(
    job_store: JobStore, stores: StoreFactory, job_id: JobId, settings: ImageSettings, maximum: int
) -> Iterator[SheetImage]:
    """Yield up to `maximum` images whose source and cutout are readable, flagged ones first."""
    job, flags = job_store.job(job_id), job_store.items.flags(job_id)
    source, target = stores.open(job.source), stores.open(job.out)
    limits = Limits.from_settings(settings)

    def load(item: Item) -> SheetImage | None:
        try:
            before = render_thumbnail(source.read(item.source, limits.max_bytes), limits, THUMBNAIL)
            after = render_thumbnail(target.read(item.target, limits.max_bytes), limits, THUMBNAIL)
        except ItemError:
            return None  # the page lists failures in any case
        return SheetImage(item.source, before, after, flags.get(item.index, ()))

    every = job_store.items.read(job_id, 0, job_store.items.size(job_id))
    unflagged = (item for item in every if item.index not in flags)
    items = chain(job_store.items.pick(job_id, flags), unflagged)
    chunks = iter(lambda: list(islice(items, CHUNK)), [])
    with ThreadPoolExecutor(THREADS) as pool:
        images = (image for chunk in chunks for image in pool.map(load, chunk))
        yield from islice(filter(None, images), maximum)
