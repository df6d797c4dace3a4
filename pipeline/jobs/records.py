"""What the ledger keeps of a job besides its images: the record of what was asked for, and the
accounts that follow from its counters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from bgpipe.pipeline.errors import StoreCorrupted
from bgpipe.pipeline.types import (
    Failure,
    Item,
    Job,
    JobId,
    JobState,
    JobSummary,
    Matting,
    Output,
    Preset,
    Recipe,
    ReviewFlag,
)

VERSION = 1
"""Of the record. Raised when what an older program would read from it is wrong."""
ERROR = "error:"
"""What the counters of failures by code begin with."""
FLAG = "flag:"
"""What the counters of cutouts by flag begin with."""


def write_record(job: Job) -> str:
    """`job` as JSON; equal jobs give equal texts."""
    return json.dumps({"version": VERSION} | asdict(job), sort_keys=True)


def read_record(job: JobId, text: str | bytes) -> Job:
    """The job of which `text` is the record.

    Raises:
        LedgerDamaged: another version of bgpipe wrote it, or nobody did.

    """
    try:
        values = json.loads(text)
        version = values.pop("version", None)
        if version != VERSION:
            raise StoreCorrupted(
                f"job {job} was opened by another version of bgpipe: its record has version "
                f"{version}, this program reads {VERSION}: use that one, or bgpipe jobs --forget {job}"
            )
        return _job(values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreCorrupted(
            f"the record of job {job} is damaged: {error!r}: bgpipe jobs --forget {job} removes it"
        ) from error


def summarize(
    job: JobId, head: Mapping[str, str], running: int, now: float, *, interrupted: bool = False
) -> JobSummary:
    """The books by the head's fields, with `running` items in flight; `now` is the server's time.

    The clock of an `interrupted` job stands at its last outcome.

    Raises:
        LedgerDamaged: the fields are not those of a job.

    """
    order = read_record(job, head.get("job", ""))
    size, done, failed, skipped, flagged = (
        int(head.get(name, 0)) for name in ("size", "done", "failed", "skipped", "flagged")
    )
    seconds = _seconds(head, _last_sign(head, now) if interrupted else now)
    return JobSummary(
        job=order.id,
        state=JobState(head["state"]),
        total=size + skipped,
        done=done,
        skipped=skipped,
        failed=failed,
        flagged=flagged,
        queued=size - done - failed - running,
        running=running,
        seconds=seconds,
        images_per_second=done / seconds if seconds > 0 else 0.0,
        source=order.source,
        out=order.out,
        model=order.recipe.model,
        interrupted=interrupted,
        errors=_counters(head, ERROR),
        flags=_counters(head, FLAG),
    )


def write_flags(flags: Iterable[ReviewFlag]) -> int:
    """A bit for each flag, by its place in `Flag`."""
    places = list(ReviewFlag)
    return sum(1 << places.index(flag) for flag in flags)


def read_flags(bits: int) -> tuple[ReviewFlag, ...]:
    return tuple(flag for place, flag in enumerate(ReviewFlag) if bits >> place & 1)


def write_error(code: str, detail: str) -> str:
    return json.dumps({"code": code, "detail": detail})


def read_failure(job: JobId, item: Item, error: bytes | None, repeats: int) -> Failure:
    """The dead letter of `item`: what `write_error` made, and how often it was claimed again.

    Raises:
        LedgerDamaged: `error` is something else.

    """
    try:
        values = json.loads(error or "")
        code, detail = str(values["code"]), str(values["detail"])
    except (ValueError, TypeError, KeyError) as damage:
        raise StoreCorrupted(f"the error of item {item.index} of job {job} is damaged") from damage
    return Failure(item.index, item.source, item.target, code, detail, attempts=1 + repeats)


def _counters(head: Mapping[str, str], prefix: str) -> dict[str, int]:
    return {
        name.removeprefix(prefix): int(count)
        for name, count in sorted(head.items())
        if name.startswith(prefix)
    }


def _job(values: dict[str, Any]) -> Job:
    recipe = values["recipe"]
    height, width = recipe["size"]
    matting = recipe.get("matting")  # books of before there was any have none
    recipe |= {
        "matting": Matting(**matting | {"size": tuple(matting["size"])}) if matting else None,
        "preset": Preset(**recipe["preset"]),
        "output": Output(**recipe["output"]),
        "size": (height, width),
    }
    patterns = {name: tuple(values[name]) for name in ("include", "exclude")}
    return Job(**values | patterns | {"recipe": Recipe(**recipe)})


def _last_sign(head: Mapping[str, str], now: float) -> float:
    """When the job was last known to run; records of older versions do not say so."""
    return max(float(head.get("settled", now)), float(head.get("started", now)))


def _seconds(head: Mapping[str, str], now: float) -> float:
    """For how long the job has run, without the time between its end and its being taken up again."""
    last = float(head.get("finished", now)) - float(head.get("started", head.get("finished", now)))
    return float(head.get("spent", 0)) + last
