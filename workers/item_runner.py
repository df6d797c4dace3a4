"""Runs one item in a lane, and decides what becomes of an item that fails.

The order of effects is the argument for correctness. The attempt is counted before any work, so
that an image which kills its workers is found out. The target is written atomically and before the
item is settled: a crash in between repeats the image, which gives the same bytes. The lane alone
writes to the job store; the stages run in a thread that may get stuck (watchdog.py).
"""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

from bgpipe.config.settings import Settings
from bgpipe.pipeline.errors import (
    BgpipeError,
    Code,
    DeviceLost,
    ItemError,
    PermanentError,
    Refused,
    TransientError,
    Unavailable,
)
from bgpipe.pipeline.jobs.items import Claim
from bgpipe.pipeline.planning.ownership import RECIPE_METADATA, check_replaceable, refuse_cutout
from bgpipe.pipeline.storage.base import Store
from bgpipe.pipeline.storage.factory import StoreFactory
from bgpipe.pipeline.types import JobId, Outcome, ReviewFlag
from bgpipe.workers.claims import ClaimedElsewhere, ClaimManager
from bgpipe.workers.heartbeat import WorkerCounters
from bgpipe.workers.image_processor import ImageProcessor
from bgpipe.workers.lifecycle import WorkerShuttingDown
from bgpipe.workers.watchdog import StageTimer, Watchdog

STORES_CACHED = 32
"""A source and a target for each of the few jobs that a worker meets at a time."""
ELSEWHERE_ATTEMPT = 2
"""An item that is held elsewhere is looked at again as late as after this attempt."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Repeat the message in `delay` seconds; None: return it to the queue, as this worker ends."""

    error: BgpipeError
    delay: float | None = None


class ItemRunner:
    """Threads may share it; each call runs one item."""

    def __init__(
        self,
        claims: ClaimManager,
        watchdog: Watchdog,
        processor: ImageProcessor,
        stores: StoreFactory,
        counters: WorkerCounters,
        settings: Settings,
    ) -> None:
        self._claims = claims
        self._items = claims.items
        self._watchdog = watchdog
        self._processor = processor
        self._counters = counters
        self._settings = settings
        self._store: Callable[[str], Store] = lru_cache(STORES_CACHED)(stores.open)

    def run(self, job: JobId, index: int, source: str) -> Outcome | RetryLater | None:
        """Claim the item, make its cutout and settle it; return None if nothing is left to do.

        Raises:
            UsageError: the job has no such item, or one with another key.
            StoreCorrupted: the job's keys cannot be read.
            RedisUnavailable: the job store is away; the image may be repeated.
        """
        try:
            with self._claims.claim(job, index, source) as claim:
                if claim is None:
                    return None
                timer = StageTimer(self._settings.limits.model_dump())
                try:
                    self._check_predecessor(claim)
                    identity, flags = self._watchdog.run(
                        source, timer, partial(self._make_cutout, claim, timer)
                    )
                except Exception as error:
                    return self._after_error(error, claim, timer)
                return self._settle(claim, Outcome.done(index, flags), timer, identity)
        except ClaimedElsewhere as error:
            return RetryLater(error, self._delay(ELSEWHERE_ATTEMPT))

    def _check_predecessor(self, claim: Claim) -> None:
        """Raise if the item killed a worker while it ran alone, and its attempts are used up."""
        if claim.predecessor is None:
            return
        if claim.predecessor.redelivered and claim.attempt > self._settings.queue.max_attempts:
            lost = "its worker died each time it was in flight, in the end alone"
            raise PermanentError(Code.WORKER_LOST, f"{lost}: {claim.attempt - 1} attempts")
        log.warning("image runs alone: its worker died", extra={"fields": _fields(claim)})

    def _make_cutout(self, claim: Claim, timer: StageTimer) -> tuple[str, tuple[ReviewFlag, ...]]:
        """Write the item's cutout; return the object's identity and the flags."""
        job, item, recipe = claim.job, claim.item, claim.job.recipe
        with timer("read"):
            if not job.overwrite:
                check_replaceable(self._store(job.out), item.target)
            data = self._store(job.source).read(item.source, self._settings.images.max_bytes)
            refuse_cutout(data)
        text = {"bgpipe:recipe": recipe.text, "bgpipe:source": item.identity}
        data, flags = self._processor.process(data, recipe, text, timer)
        with timer("write"):
            metadata = {RECIPE_METADATA: recipe.hash, "bgpipe-source": item.identity}
            identity = self._store(job.out).write(item.target, data, metadata)
            if flags and (review_out := self._settings.review.out):
                self._store(review_out).write(f"{job.id}/{item.target}", data, metadata)
            self._counters.record_write(job.out)
        return identity, flags

    def _after_error(
        self, error: Exception, claim: Claim, timer: StageTimer
    ) -> Outcome | RetryLater | None:
        """Requeue the item, release it for another attempt, or settle it as failed."""
        is_last_attempt = claim.attempt >= self._settings.queue.max_attempts
        failure: ItemError
        match error:
            case DeviceLost() if claim.predecessor and is_last_attempt:
                failure = error
            case WorkerShuttingDown() | DeviceLost():
                if isinstance(error, WorkerShuttingDown):
                    self._items.give_back(claim)
                # Otherwise it stays claimed, so that the next attempt runs alone.
                fields = _fields(claim) | {"reason": str(error)}
                log.warning("image given back", extra={"fields": fields})
                return RetryLater(error)
            case Refused() | Unavailable():  # a store that this worker cannot open, for example
                return self._refuse(error, claim)
            case ItemError():
                failure = error
            case BgpipeError():
                failure = TransientError(Code.INTERNAL, str(error))
            case _:
                log.exception("unexpected error", extra={"fields": _fields(claim)})
                failure = TransientError(Code.INTERNAL, repr(error))
        if is_last_attempt or isinstance(failure, PermanentError):
            return self._settle(claim, Outcome.failed(claim.item.index, failure), timer)
        fields = _fields(claim) | {"attempt": claim.attempt, "error": str(failure)}
        log.warning("image will be tried again", extra={"fields": fields})
        self._items.release(claim)
        return RetryLater(failure, self._delay(claim.attempt))

    def _refuse(self, error: Refused | Unavailable, claim: Claim) -> RetryLater | None:
        """Give back an image that is not at fault; None if its job is paused, whose leader repeats it."""
        reason = error.detail if isinstance(error, Refused) else str(error)
        is_paused = self._items.give_back(claim, reason)
        fields = _fields(claim) | {"reason": reason, "paused": is_paused}
        log.warning("image refused", extra={"fields": fields})
        return None if is_paused else RetryLater(error, self._delay(claim.attempt))

    def _settle(
        self, claim: Claim, outcome: Outcome, timer: StageTimer, identity: str = ""
    ) -> Outcome:
        """Record the outcome, first in the job store, then in counters and log."""
        self._items.settle(claim.job.id, outcome, claim, identity)
        self._counters.record_outcome(timer.seconds, timer.stages)
        fields = _fields(claim) | {"attempt": claim.attempt, "code": outcome.code}
        seconds = {"seconds": timer.seconds} | timer.stages
        if outcome.code is None:
            log.info("image done", extra={"fields": fields | seconds})
        else:
            fields["detail"] = outcome.detail
            log.warning("image failed", extra={"fields": fields | seconds})
        return outcome

    def _delay(self, attempt: int) -> float:
        """Return seconds: doubled with each attempt, jittered, and below the visibility timeout.

        A delayed message waits unacknowledged in a worker; beyond the timeout it would run twice.
        """
        queue = self._settings.queue
        delay = queue.retry_delay * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.5)
        return min(delay, queue.visibility_timeout / 2)


def _fields(claim: Claim) -> dict[str, object]:
    return {"job": claim.job.id, "index": claim.item.index, "key": claim.item.source}
