"""Stored forms of a job's record, errors and flags, and the summary of its counters."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from bgpipe.pipeline.errors import StoreCorrupted
from bgpipe.pipeline.types import (
    Failure,
    Item,
    Job,
    JobId,
    JobOutput,
    JobState,
    JobSummary,
    Matting,
    Output,
    Preset,
    Recipe,
    ReviewFlag,
)

VERSION = 1
"""Version of the record. Increased when an older program would misread it."""
ERROR = "error:"
"""Prefix of the counters of failures by code."""
FLAG = "flag:"
"""Prefix of the counters of cutouts by flag."""
WRITTEN = "output:"
"""Prefix of the counters of written files by output."""
UNWRITTEN = "unwritten:"
"""Prefix of the counters of failed files by output; a retry resets them."""
_COUNTERS = ("size", "done", "failed", "skipped", "flagged")


def write_record(job: Job) -> str:
    """Return `job` as JSON; equal jobs give equal texts."""
    values = asdict(job) | {"recipe": job.recipe.values}
    values["outputs"] = [asdict(each) | {"recipe": each.recipe.values} for each in job.outputs]
    if not job.outputs:
        del values["outputs"]  # older versions read jobs without
    if not job.review_below:
        del values["review_below"]
    return json.dumps({"version": VERSION} | values, sort_keys=True)


def read_record(job: JobId, text: str | bytes) -> Job:
    """Parse the record of `job`; StoreCorrupted if another version or program wrote it."""
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
    job: JobId, head: Mapping[str, str], running: int, now: float, *, interrupted: bool
) -> JobSummary:
    """Return the summary of a job by its head's fields, with `running` items in flight.

    `now` is the server's time; the clock of an `interrupted` job stops at its last outcome.
    StoreCorrupted if the fields are not those of a job.
    """
    record = read_record(job, head.get("job", ""))
    size, done, failed, skipped, flagged = (int(head.get(name, 0)) for name in _COUNTERS)
    if interrupted:  # the last outcome or start; records of older versions have neither
        now = max(float(head.get("settled", now)), float(head.get("started", now)))
    finished = float(head.get("finished", now))
    # The time between an end and a reopening does not count.
    seconds = float(head.get("spent", 0)) + finished - float(head.get("started", finished))
    return JobSummary(
        job=record.id,
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
        source=record.source,
        out=record.out,
        model=record.recipe.model,
        interrupted=interrupted,
        paused=_describe_pause(head),
        errors=_counters(head, ERROR),
        flags=_counters(head, FLAG),
        outputs={
            output.name: _count_output(head, output.name, skipped + done + failed)
            for output in record.outputs
        },
    )


def _count_output(head: Mapping[str, str], name: str, images: int) -> dict[str, int]:
    """Return how many files of this output there are by state; `images` have been settled or skipped."""
    done, failed = (int(head.get(prefix + name, 0)) for prefix in (WRITTEN, UNWRITTEN))
    # After a retry some were written for images that are open again.
    return {"done": done, "skipped": max(images - done - failed, 0), "failed": failed}


def _describe_pause(head: Mapping[str, str]) -> str:
    if head["state"] != JobState.RUNNING or "paused" not in head:
        return ""
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(float(head["refused"])))
    return f"since {since}: {head['refusal']}"


def write_flags(flags: Iterable[ReviewFlag]) -> int:
    """Return a bit for each flag, by its position in ReviewFlag."""
    positions = list(ReviewFlag)
    return sum(1 << positions.index(flag) for flag in flags)


def read_flags(bits: int) -> tuple[ReviewFlag, ...]:
    return tuple(flag for position, flag in enumerate(ReviewFlag) if bits >> position & 1)


def write_score(score: float | None) -> bytes:
    """Return a byte, 1 more than the hundredths of a score in [0, 1]; nothing without one."""
    return b"" if score is None else bytes([1 + round(100 * score)])


def read_score(byte: int) -> float | None:
    return (byte - 1) / 100 if byte else None


def read_failure(job: JobId, item: Item, error: bytes | None, repeats: int) -> Failure:
    """Return the failure of `item`, which was claimed again `repeats` times."""
    try:
        values = json.loads(error or "")
        code, detail = str(values["code"]), str(values["detail"])
    except (ValueError, TypeError, KeyError) as damage:
        raise StoreCorrupted(f"the error of item {item.index} of job {job} is damaged") from damage
    return Failure(item.index, item.source, item.target, code, detail, attempts=1 + repeats)


def _counters(head: Mapping[str, str], prefix: str) -> dict[str, int]:
    fields = sorted(name for name in head if name.startswith(prefix))
    return {name.removeprefix(prefix): int(head[name]) for name in fields}


def _job(values: dict[str, Any]) -> Job:
    outputs = values.get("outputs", ())  # missing in most records
    read = {
        "recipe": _recipe(values["recipe"]),
        "outputs": tuple(
            JobOutput(**each | {"recipe": _recipe(each["recipe"])}) for each in outputs
        ),
    }
    patterns = {name: tuple(values[name]) for name in ("include", "exclude")}
    return Job(**values | patterns | read)


def _recipe(values: dict[str, Any]) -> Recipe:
    height, width = values["size"]
    matting = values.get("matting")  # missing in older records
    read = {
        "matting": Matting(**matting | {"size": tuple(matting["size"])}) if matting else None,
        "preset": Preset(**values["preset"]),
        "output": Output(**values["output"]),
        "size": (height, width),
    }
    return Recipe(**values | read)
