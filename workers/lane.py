"""One image's way through a lane, and what becomes of an image that fails.

The order of effects is the argument for correctness. The attempt is counted before any work, so
that an image which kills its worker is found out. The target is written before the ledger is told,
and atomically: whatever dies in between only makes the image be done again, to the same bytes.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from bgpipe.config.settings import Settings
from bgpipe.pipeline.errors import (
    Code,
    ItemError,
    PermanentError,
    RedisUnavailable,
    TransientError,
    UsageError,
)
from bgpipe.pipeline.images import Limits, decode, encode_png, model_input
from bgpipe.pipeline.ledger import Claim, Ledger
from bgpipe.pipeline.matting import cut_out
from bgpipe.pipeline.storage import Store, open_store
from bgpipe.pipeline.types import Cutout, Item, Job, JobId, Matte, Outcome, Picture, Recipe

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Pixels

# A worker meets few jobs at a time, each with a source and a target.
JOBS_KEPT = 16
STORES_KEPT = 32

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Codec:
    """How files become pictures and cutouts files; a benchmark hands in others."""

    decode: Callable[[bytes, Limits], Picture] = decode
    encode: Callable[[Cutout, Picture, Mapping[str, str]], bytes] = encode_png


@dataclass(frozen=True, slots=True)
class Again:
    """The item is to be tried again in `delay` seconds."""

    error: TransientError
    delay: float


class Lane:
    """Does images, one per call; any number of threads may call at once."""

    def __init__(
        self,
        ledger: Ledger,
        infer: Callable[[Recipe, Pixels], Matte],
        settings: Settings,
        worker: str,
        codec: Codec,
        image_done: Callable[[], None],
    ) -> None:
        """`infer` waits for the device; `worker` is the name that claims are made under.

        `image_done` hears of every image that has ended.
        """
        self._ledger = ledger
        self._infer = infer
        self._queue = settings.queue
        self._limits = Limits(**settings.images.model_dump())
        self._worker = worker
        self._codec = codec
        self._image_done = image_done
        self._job: Callable[[JobId], Job] = lru_cache(JOBS_KEPT)(ledger.job)
        self._store: Callable[[str], Store] = lru_cache(STORES_KEPT)(open_store)

    def run(self, job_id: JobId, index: int, source: str) -> Outcome | Again | None:
        """Do one image, or return None where there is nothing to do any more.

        Raises:
            UsageError: the ledger knows no such job, or another source at `index`.
            RedisUnavailable: the ledger cannot be told; the image may be done again.

        """
        job = self._job(job_id)
        claim = self._ledger.claim(job_id, index, self._worker)
        if claim is None:
            return None
        if claim.item.source != source:
            self._ledger.release(job_id, index)
            raise UsageError(f"image {index} of job {job_id} is another one: {claim.item.source}")
        if claim.attempt > self._queue.max_attempts:
            lost = PermanentError(Code.WORKER_LOST, "its worker died each time it was in flight")
            return self._after(lost, job, claim)
        return self._attempt(job, claim)

    def _attempt(self, job: Job, claim: Claim) -> Outcome | Again:
        watch = Stopwatch()
        try:
            self._make(job, claim.item, watch)
        except ItemError as error:
            return self._after(error, job, claim)
        except RedisUnavailable:
            raise
        except Exception as error:
            log.exception("unexpected error", extra={"fields": _names(job, claim.item)})
            return self._after(TransientError(Code.INTERNAL, repr(error)), job, claim)
        outcome = self._settle(job, Outcome.done(claim.item.index))
        log.info("image done", extra={"fields": _names(job, claim.item) | watch.fields()})
        return outcome

    def _make(self, job: Job, item: Item, watch: Stopwatch) -> None:
        """Write the item's cutout."""
        recipe = job.recipe
        with watch("read"):
            data = self._store(job.source).read(item.source, self._limits.max_bytes)
        with watch("decode"):
            picture = self._codec.decode(data, self._limits)
        with watch("resize"):
            pixels = model_input(picture.rgb, recipe.size)
        with watch("infer"):
            matte = self._infer(recipe, pixels)
        with watch("refine"):
            cutout = cut_out(picture, matte, recipe.preset)
        with watch("encode"):
            text = {"bgpipe:recipe": recipe.text, "bgpipe:source": item.identity}
            png = self._codec.encode(cutout, picture, text)
        with watch("write"):
            self._store(job.out).write(item.target, png)

    def _after(self, error: ItemError, job: Job, claim: Claim) -> Outcome | Again:
        """Give the item back for another attempt, or up."""
        fields = _names(job, claim.item) | {"attempt": claim.attempt, "error": str(error)}
        if isinstance(error, TransientError) and claim.attempt < self._queue.max_attempts:
            log.warning("image will be tried again", extra={"fields": fields})
            self._ledger.release(job.id, claim.item.index)
            return Again(error, self._delay(claim.attempt))
        log.warning("image failed", extra={"fields": fields})
        return self._settle(job, Outcome.failed(claim.item.index, error))

    def _settle(self, job: Job, outcome: Outcome) -> Outcome:
        self._ledger.settle(job.id, outcome)
        self._image_done()
        return outcome

    def _delay(self, attempt: int) -> float:
        """Seconds, doubled with each attempt, jittered, and below the visibility timeout.

        A delayed message waits unacknowledged in a worker; beyond the timeout it would run twice.
        """
        delay = self._queue.retry_delay * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.5)
        return min(delay, self._queue.visibility_timeout / 2)


class Stopwatch:
    """Seconds since it was made, and those of each stage."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._stages: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._stages[stage] = time.perf_counter() - start

    def fields(self) -> dict[str, float]:
        return {"seconds": time.perf_counter() - self._start} | self._stages


def _names(job: Job, item: Item) -> dict[str, object]:
    return {"job": job.id, "index": item.index, "source": item.source}
