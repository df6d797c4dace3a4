"""The pictures of a job, small enough for a page."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from bgpipe.pipeline.errors import ItemError
from bgpipe.pipeline.images import Limits, thumbnail
from bgpipe.pipeline.report.contact_sheet import THUMBNAIL, Exhibit
from bgpipe.pipeline.storage import open_store

if TYPE_CHECKING:
    from bgpipe.config.settings import ImageSettings
    from bgpipe.pipeline.ledger import Ledger
    from bgpipe.pipeline.types import Item, JobId


def exhibits(
    ledger: Ledger, job_id: JobId, settings: ImageSettings, most: int
) -> Iterator[Exhibit]:
    """Up to `most` images of the job, source beside cutout, as far as both can still be read."""
    job = ledger.job(job_id)
    source, target = open_store(job.source), open_store(job.out)
    limits = Limits(**settings.model_dump())

    def show(item: Item) -> Exhibit | None:
        try:
            before = source.read(item.source, limits.max_bytes)
            after = target.read(item.target, limits.max_bytes)
            pictures = (thumbnail(data, limits, THUMBNAIL) for data in (before, after))
            return Exhibit(item.source, *pictures)
        except ItemError:
            return None  # failed, or gone since: the page names the failures anyway

    items = ledger.items(job_id, 0, ledger.books(job_id).total)
    return islice((exhibit for exhibit in map(show, items) if exhibit), most)
