"""Write the plan of a job into its item store, and into the target's catalog."""

from __future__ import annotations

from collections.abc import Iterable

from bgpipe.pipeline.jobs.manifest import BLOCK
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.planning.catalog import CatalogRow, CatalogWriter
from bgpipe.pipeline.planning.diff import PlannedItem, TargetState
from bgpipe.pipeline.types import Item, Job


class PlanWriter:
    """Appends batches of a plan; `token` is that of the job's lease."""

    def __init__(self, jobs: JobStore, job: Job, token: int, catalog: CatalogWriter | None) -> None:
        self._jobs = jobs
        self._job = job
        self._token = token
        self._catalog = catalog
        self._is_catalog_begun = False
        self._size = 0
        self._skipped = 0
        self._pending: list[Item] = []

    @property
    def has_work(self) -> bool:
        """Whether an item needs a worker."""
        return self._size > 0

    def write(self, batch: Iterable[PlannedItem]) -> None:
        if self._catalog and not self._is_catalog_begun:
            # Not earlier: a source without images, or one among its cutouts, leaves no trace.
            self._catalog.begin()
            self._is_catalog_begun = True
        for planned in batch:
            self._write_item(planned)
        self._jobs.skip(self._job.id, self._skipped, self._token)
        while len(self._pending) >= BLOCK:
            self._jobs.add(self._job.id, self._pending[:BLOCK], self._token)
            del self._pending[:BLOCK]

    def close(self) -> None:
        self._jobs.add(self._job.id, self._pending, self._token)
        if self._catalog:
            self._catalog.close()

    def _write_item(self, planned: PlannedItem) -> None:
        source, index = planned.source, -1
        if planned.is_work:
            index = self._size
            self._size += 1
            self._pending.append(Item(index, source.key, planned.target, source.identity))
        elif planned.state is TargetState.CURRENT:
            self._skipped += 1
        if self._catalog:
            self._catalog.add(
                CatalogRow(
                    planned.target,
                    planned.made,
                    source.key,
                    source.identity,
                    planned.recipe,
                    index,
                )
            )
