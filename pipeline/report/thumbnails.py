"""The pictures of a job, small enough for a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import TYPE_CHECKING

from bgpipe.pipeline.errors import ItemError
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.images.preview import render_thumbnail
from bgpipe.pipeline.report.contact_sheet import THUMBNAIL, SheetImage

if TYPE_CHECKING:
    from bgpipe.config.settings import ImageSettings
    from bgpipe.pipeline.jobs.store import JobStore
    from bgpipe.pipeline.storage.factory import StoreFactory
    from bgpipe.pipeline.types import Item, JobId

AT_ONCE = 4
"""Images in work; the codecs release the GIL, and each holds a decoded picture."""
CHUNK = 64


def load_thumbnails(
    job_store: JobStore, stores: StoreFactory, job_id: JobId, settings: ImageSettings, most: int
) -> Iterator[SheetImage]:
    """Up to `most` images of the job, source beside cutout, as far as both can still be read.

    The flagged ones come first.
    """
    job, flags = job_store.job(job_id), job_store.items.flags(job_id)
    source, target = stores.open(job.source), stores.open(job.out)
    limits = Limits.from_settings(settings)

    def show(item: Item) -> SheetImage | None:
        try:
            before = source.read(item.source, limits.max_bytes)
            after = target.read(item.target, limits.max_bytes)
            pictures = (
                render_thumbnail(before, limits, THUMBNAIL),
                render_thumbnail(after, limits, THUMBNAIL),
            )
            return SheetImage(item.source, *pictures, flags=flags.get(item.index, ()))
        except ItemError:
            return None  # failed, or gone since: the page names the failures anyway

    others = (
        item
        for item in job_store.items.read(job_id, 0, job_store.items.size(job_id))
        if item.index not in flags
    )
    items = chain(job_store.items.pick(job_id, flags), others)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        shown = (exhibit for chunk in _chunks(items) for exhibit in pool.map(show, chunk))
        yield from islice((exhibit for exhibit in shown if exhibit), most)


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """A bounded number of pictures waits for the page."""
    remaining = iter(items)
    while chunk := list(islice(remaining, CHUNK)):
        yield chunk
