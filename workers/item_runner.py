"""Runs one item in a lane, and decides what becomes of an item that fails.

The order of effects is the argument for correctness. The attempt is counted before any work, so
that an image which kills its workers is found out. The targets are written atomically and before the
item is settled: a crash in between repeats the image, which gives the same bytes. The lane alone
writes to the job store; the stages run in a thread that may get stuck (watchdog.py).
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import Any

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
from bgpipe.pipeline.logging import EventLogger
from bgpipe.pipeline.matting.review import Review
from bgpipe.pipeline.planning.ownership import (
    RECIPE_METADATA,
    check_replaceable,
    read_provenance,
    refuse_cutout,
)
from bgpipe.pipeline.storage.base import Store
from bgpipe.pipeline.storage.factory import StoreFactory
from bgpipe.pipeline.types import JobId, Outcome, OutputResult
from bgpipe.workers.claims import ClaimedElsewhere, ClaimManager
from bgpipe.workers.heartbeat import WorkerCounters
from bgpipe.workers.image_processor import ImageProcessor
from bgpipe.workers.lifecycle import WorkerShuttingDown
from bgpipe.workers.watchdog import StageTimer, Watchdog

STORES_CACHED = 32
"""A source and a target for each of the few jobs that a worker meets at a time."""
ELSEWHERE_ATTEMPT = 2
"""An item that is held elsewhere is looked at again as late as after this attempt."""

log = EventLogger(__name__)


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Repeat the message in `delay` seconds; None: return it to the queue, as this worker ends."""

    error: BgpipeError
    delay: float | None = None


@dataclass(frozen=True, slots=True)
class ItemAttempt:
    """What becomes of the outputs of a claimed item, by their positions in the job."""

    claim: Claim
    timer: StageTimer
    identities: dict[int, str] = field(default_factory=dict)
    """Of the objects that exist now."""
    errors: dict[int, ItemError] = field(default_factory=dict)

    @property
    def stale_outputs(self) -> list[int]:
        """The outputs that were not up to date when the job was listed."""
        outputs = range(len(self.claim.job.every_output))
        return [position for position in outputs if self.claim.item.stale >> position & 1]

    @property
    def results(self) -> list[OutputResult]:
        """The results of the named outputs: what is stale and was not written has failed."""
        failed = set(self.stale_outputs) - self.identities.keys()
        return [
            OutputResult(output.name, self.identities.get(position, ""), position in failed)
            for position, output in enumerate(self.claim.job.outputs)
        ]

    @contextmanager
    def collecting_errors(self, position: int) -> Iterator[None]:
        """Collect the error of one of several outputs, unless every image would have it."""
        try:
            yield
        except Refused:
            raise
        except ItemError as error:
            if not self.claim.job.outputs:
                raise
            self.errors[position] = error

    def check(self) -> None:
        """Raise an error with the name and the error of each output that failed.

        It is transient if one of them is, and has the code of the first of its kind.
        """
        outputs = self.claim.job.outputs
        named = (f"{outputs[position].name}: {error}" for position, error in self.errors.items())
        for kind in (TransientError, PermanentError):
            for error in self.errors.values():
                if isinstance(error, kind):
                    raise kind(error.code, "; ".join(named))


@dataclass
class ItemRunner:
    """Threads may share it; each call runs one item."""

    claims: ClaimManager
    watchdog: Watchdog
    processor: ImageProcessor
    stores: StoreFactory
    counters: WorkerCounters
    settings: Settings

    @cached_property
    def _store(self) -> Callable[[str], Store]:
        return lru_cache(STORES_CACHED)(self.stores.open)

    def run(self, job: JobId, index: int, source: str) -> Outcome | RetryLater | None:
        """Claim the item, make its cutout and settle it; return None if nothing is left to do.

        Raises:
            UsageError: the job has no such item, or one with another key.
            StoreCorrupted: the job's keys cannot be read.
            RedisUnavailable: the job store is away; the image may be repeated.
        """
        try:
            with self.claims.claim(job, index, source) as claim:
                if claim is None:
                    return None
                timer = StageTimer(self.settings.limits.model_dump())
                attempt = ItemAttempt(claim, timer)
                try:
                    self._check_predecessor(claim)
                    review = self.watchdog.run(source, timer, partial(self._make_files, attempt))
                except Exception as error:
                    return self._after_error(error, attempt)
                outcome = Outcome(index, flags=review.flags, score=review.score)
                return self._settle(attempt, outcome)
        except ClaimedElsewhere as error:
            return RetryLater(error, self._delay(ELSEWHERE_ATTEMPT))

    def _check_predecessor(self, claim: Claim) -> None:
        """Raise if the item killed a worker while it ran alone, and its attempts are used up."""
        if claim.predecessor is None:
            return
        if claim.predecessor.redelivered and claim.attempt > self.settings.queue.max_attempts:
            lost = "its worker died each time it was in flight, in the end alone"
            raise PermanentError(Code.WORKER_LOST, f"{lost}: {claim.attempt - 1} attempts")
        log.warning("image runs alone: its worker died", **_fields(claim))

    def _make_files(self, attempt: ItemAttempt) -> Review:
        """Write the item's outputs that are not up to date; return the review of their cutouts.

        Raises the error of an output after the others were written.
        """
        job, item, timer = attempt.claim.job, attempt.claim.item, attempt.timer
        with timer("read"):
            todo = [each for each in attempt.stale_outputs if self._is_to_do(attempt, each)]
            if not todo:
                attempt.check()
                return Review()
            data = self._store(job.source).read(item.source, self.settings.images.max_bytes)
            refuse_cutout(data)
        recipes = [job.every_output[position].recipe for position in todo]
        files, review = self.processor.process(data, item.identity, recipes, timer)
        review = review.flagged_below(job.review_below or self.settings.review.below)
        with timer("write"):
            for position, recipe, file in zip(todo, recipes, files, strict=True):
                with attempt.collecting_errors(position):
                    if isinstance(file, ItemError):
                        raise file
                    metadata = {RECIPE_METADATA: recipe.hash, "bgpipe-source": item.identity}
                    key = item.targets[position]
                    attempt.identities[position] = self._store(job.out).write(key, file, metadata)
                    if review.flags and (review_out := self.settings.review.out):
                        self._store(review_out).write(f"{job.id}/{key}", file, metadata)
                    self.counters.record_write(job.out)
        attempt.check()
        return review

    def _is_to_do(self, attempt: ItemAttempt, position: int) -> bool:
        """Whether an output has to be written; an earlier attempt may have done so."""
        job, item = attempt.claim.job, attempt.claim.item
        target, key, provenance = self._store(job.out), item.targets[position], None
        with attempt.collecting_errors(position):
            if not job.overwrite:
                provenance = check_replaceable(target, key)
            elif job.outputs:
                with suppress(ItemError):
                    provenance = read_provenance(target, key)
            if not job.outputs or job.force or provenance is None:
                return True
            if not provenance.matches(job.outputs[position].recipe.hash, item.identity):
                return True
            made = target.head(key)
            attempt.identities[position] = made.identity if made else ""
        return False

    def _after_error(self, error: Exception, attempt: ItemAttempt) -> Outcome | RetryLater | None:
        """Requeue the item, release it for another attempt, or settle it as failed."""
        claim = attempt.claim
        is_last_attempt = claim.attempt >= self.settings.queue.max_attempts
        failure: ItemError
        match error:
            case DeviceLost() if claim.predecessor and is_last_attempt:
                failure = error
            case WorkerShuttingDown() | DeviceLost():
                if isinstance(error, WorkerShuttingDown):
                    self.claims.items.give_back(claim)
                # Otherwise it stays claimed, so that the next attempt runs alone.
                log.warning("image given back", **_fields(claim), reason=str(error))
                return RetryLater(error)
            case Refused() | Unavailable():  # a store that this worker cannot open, for example
                return self._refuse(error, claim)
            case ItemError():
                failure = error
            case BgpipeError():
                failure = TransientError(Code.INTERNAL, str(error))
            case _:
                log.exception("unexpected error", **_fields(claim))
                failure = TransientError(Code.INTERNAL, repr(error))
        if is_last_attempt or isinstance(failure, PermanentError):
            return self._settle(attempt, Outcome.failed(claim.item.index, failure))
        fields = {**_fields(claim), "attempt": claim.attempt, "error": str(failure)}
        log.warning("image will be tried again", **fields)
        self.claims.items.release(claim)
        return RetryLater(failure, self._delay(claim.attempt))

    def _refuse(self, error: Refused | Unavailable, claim: Claim) -> RetryLater | None:
        """Give back an image that is not at fault; None if its job is paused, whose leader repeats it."""
        reason = error.detail if isinstance(error, Refused) else str(error)
        is_paused = self.claims.items.give_back(claim, reason)
        log.warning("image refused", **_fields(claim), reason=reason, paused=is_paused)
        return None if is_paused else RetryLater(error, self._delay(claim.attempt))

    def _settle(self, attempt: ItemAttempt, outcome: Outcome) -> Outcome:
        """Record the outcome, first in the job store, then in counters and log."""
        claim, timer = attempt.claim, attempt.timer
        identity = "" if claim.job.outputs else attempt.identities.get(0, "")
        self.claims.items.settle(claim.job.id, outcome, claim, identity, attempt.results)
        self.counters.record_outcome(timer.seconds, timer.stages)
        fields = {**_fields(claim), "attempt": claim.attempt, "code": outcome.code}
        seconds: dict[str, Any] = {"seconds": timer.seconds, **timer.stages}
        if outcome.code is None:
            log.info("image done", **fields, **seconds)
        else:
            log.warning("image failed", **fields, detail=outcome.detail, **seconds)
        return outcome

    def _delay(self, attempt: int) -> float:
        """Return seconds: doubled with each attempt, jittered, and below the visibility timeout.

        A delayed message waits unacknowledged in a worker; beyond the timeout it would run twice.
        """
        queue = self.settings.queue
        delay = queue.retry_delay * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.5)
        return min(delay, queue.visibility_timeout / 2)


def _fields(claim: Claim) -> dict[str, Any]:
    return {"job": claim.job.id, "index": claim.item.index, "key": claim.item.source}
