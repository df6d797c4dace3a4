"""One image's way through a lane, and what becomes of an image that fails.

The order of effects is the argument for correctness. The attempt is counted before any work, so
that an image which kills its worker is found out. The target is written before the ledger is told,
and atomically: whatever dies in between only makes the image be done again, to the same bytes. The
lane alone talks to the ledger; the stages are another thread's, which may get stuck (watchdog.py).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from bgpipe.config.settings import Settings
from bgpipe.pipeline.errors import (
    BgpipeError,
    Code,
    DeviceLost,
    ItemError,
    PermanentError,
    TransientError,
    UsageError,
)
from bgpipe.pipeline.jobs.items import Claim
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.planning.ownership import RECIPE_METADATA, check_replaceable, refuse_cutout
from bgpipe.pipeline.storage.base import Store
from bgpipe.pipeline.storage.factory import StoreFactory
from bgpipe.pipeline.types import Item, Job, JobId, Outcome, ReviewFlag
from bgpipe.workers.claims import ActiveClaim, ClaimedElsewhere, ClaimManager
from bgpipe.workers.heartbeat import WorkerCounters
from bgpipe.workers.image_processor import ImageProcessor
from bgpipe.workers.lifecycle import WorkerShuttingDown
from bgpipe.workers.watchdog import StageTimer, Watchdog

# A worker meets few jobs at a time, each with a source and a target.
STORES_KEPT = 32
ELSEWHERE = 2
"""An image that is in other hands is looked after as late as one that failed so often."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RetryLater:
    """The item is to be tried again in `delay` seconds."""

    error: BgpipeError
    delay: float


@dataclass(frozen=True, slots=True)
class Requeue:
    """The item is another worker's now: this one leaves."""

    error: BgpipeError


RunResult = Outcome | RetryLater | Requeue | None


class ItemRunner:
    """Does images, one per call; any number of threads may call at once."""

    def __init__(
        self,
        job_store: JobStore,
        custody: ClaimManager,
        watchdog: Watchdog,
        studio: ImageProcessor,
        settings: Settings,
        stores: StoreFactory,
        tally: WorkerCounters,
    ) -> None:
        self._job_store = job_store
        self._custody = custody
        self._watchdog = watchdog
        self._studio = studio
        self._queue = settings.queue
        self._limits = settings.limits.model_dump()
        self._max_bytes = settings.images.max_bytes
        self._review_out = settings.review.out
        self._tally = tally
        self._store: Callable[[str], Store] = lru_cache(STORES_KEPT)(stores.open)

    def run(self, job: JobId, index: int, source: str) -> RunResult:
        """Do one image, or return None where there is nothing to do any more.

        Raises:
            UsageError: the ledger knows no such job, or another source at `index`.
            LedgerDamaged: it cannot be read.
            RedisUnavailable: the ledger cannot be told; the image may be done again.

        """
        try:
            with self._custody.claim(job, index) as hold:
                return self._do(hold, source) if hold else None
        except ClaimedElsewhere as error:
            return RetryLater(error, self._delay(ELSEWHERE))

    def _do(self, hold: ActiveClaim, source: str) -> RunResult:
        claim, watch = hold.claim, StageTimer(self._limits)
        if claim.item.source != source:
            self._job_store.items.give_back(claim.job.id, claim.item.index)
            raise UsageError(
                f"image {claim.item.index} of job {claim.job.id} is another one: "
                f"{claim.item.source}"
            )
        if hold.crashed_alone and claim.attempt > self._queue.max_attempts:
            return self._after(_lost(claim), claim, watch)
        if hold.alone:
            log.warning("image runs alone: its worker died", extra={"fields": _names(claim)})
        return self._attempt(hold, watch)

    def _attempt(self, hold: ActiveClaim, watch: StageTimer) -> RunResult:
        claim = hold.claim
        try:
            made = self._watchdog.run(
                claim.item.source, watch, lambda: self._make(claim.job, claim.item, watch)
            )
        except WorkerShuttingDown as error:
            self._job_store.items.give_back(claim.job.id, claim.item.index)
            return _requeue(error, claim)
        except DeviceLost as error:
            return self._after_loss(error, hold, watch)
        except ItemError as error:
            return self._after(error, claim, watch)
        except BgpipeError as error:  # a store that this worker cannot open, say
            return self._after(TransientError(Code.INTERNAL, str(error)), claim, watch)
        except Exception as error:
            log.exception("unexpected error", extra={"fields": _names(claim)})
            return self._after(TransientError(Code.INTERNAL, repr(error)), claim, watch)
        identity, flags = made
        self._job_store.items.write_fingerprint(claim.job.id, claim.item.index, identity)
        return self._settle(claim, Outcome.done(claim.item.index, flags), watch)

    def _make(self, job: Job, item: Item, watch: StageTimer) -> tuple[str, tuple[ReviewFlag, ...]]:
        """Write the item's cutout; returns its identity and its flags."""
        recipe = job.recipe
        with watch("read"):
            if not job.overwrite:
                check_replaceable(self._store(job.out), item.target)
            data = self._store(job.source).read(item.source, self._max_bytes)
            refuse_cutout(data)
        text = {"bgpipe:recipe": recipe.text, "bgpipe:source": item.identity}
        made = self._studio.process(data, recipe, text, watch)
        with watch("write"):
            notes = {RECIPE_METADATA: recipe.hash, "bgpipe-source": item.identity}
            identity = self._store(job.out).write(item.target, made.file, notes)
            if made.flags and self._review_out:
                self._store(self._review_out).write(f"{job.id}/{item.target}", made.file, notes)
            self._tally.record_write(job.out)
        return identity, made.flags

    def _after(self, error: ItemError, claim: Claim, watch: StageTimer) -> Outcome | RetryLater:
        """Give the item back for another attempt, or up."""
        if isinstance(error, TransientError) and claim.attempt < self._queue.max_attempts:
            fields = _names(claim) | {"attempt": claim.attempt, "error": str(error)}
            log.warning("image will be tried again", extra={"fields": fields})
            self._job_store.items.release(claim.job.id, claim.item.index)
            return RetryLater(error, self._delay(claim.attempt))
        return self._settle(claim, Outcome.failed(claim.item.index, error), watch)

    def _after_loss(
        self, error: DeviceLost, hold: ActiveClaim, watch: StageTimer
    ) -> Outcome | Requeue:
        """Leave the claim as it is, so that the next one runs alone; or give a culprit up."""
        claim = hold.claim
        if hold.alone and claim.attempt >= self._queue.max_attempts:
            return self._settle(claim, Outcome.failed(claim.item.index, error), watch)
        return _requeue(error, claim)

    def _settle(self, claim: Claim, outcome: Outcome, watch: StageTimer) -> Outcome:
        """Tell the ledger, then those who watch: one event for each image that has ended."""
        self._job_store.items.settle(claim.job.id, outcome)
        self._tally.record_outcome(watch.seconds, watch.stages)
        fields = _names(claim) | {"attempt": claim.attempt, "code": outcome.code}
        if outcome.code is None:
            log.info("image done", extra={"fields": fields | watch.fields()})
        else:
            told = fields | {"detail": outcome.detail} | watch.fields()
            log.warning("image failed", extra={"fields": told})
        return outcome

    def _delay(self, attempt: int) -> float:
        """Seconds, doubled with each attempt, jittered, and below the visibility timeout.

        A delayed message waits unacknowledged in a worker; beyond the timeout it would run twice.
        """
        delay = self._queue.retry_delay * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.5)
        return min(delay, self._queue.visibility_timeout / 2)


def _lost(claim: Claim) -> PermanentError:
    return PermanentError(
        Code.WORKER_LOST,
        f"its worker died each time it was in flight, in the end alone: {claim.attempt - 1} attempts",
    )


def _requeue(error: BgpipeError, claim: Claim) -> Requeue:
    fields = _names(claim) | {"reason": str(error)}
    log.warning("image given back", extra={"fields": fields})
    return Requeue(error)


def _names(claim: Claim) -> dict[str, object]:
    return {"job": claim.job.id, "index": claim.item.index, "key": claim.item.source}
