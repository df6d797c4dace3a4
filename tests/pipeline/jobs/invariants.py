"""What holds in Redis after each step, read from its keys and not from the model."""

from __future__ import annotations

import json
from typing import Any

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.jobs.records import read_flags
from bgpipe.pipeline.types import JobId

from .job_model import OPEN, ItemModel, JobModel, StoreModel

Dump = dict[str, Any]


def assert_state(dump: Dump, model: StoreModel) -> None:
    """Redis holds what the model does."""
    jobs = [name.decode() for name in dump.get(keys.JOBS, [])]
    assert sorted(jobs) == sorted(model.jobs)
    for name, job in model.jobs.items():
        assert _stored(dump, name) == _expected(job), name
    for digest, name in model.targets.items():
        assert dump[keys.of_locations(digest)] == name.encode()
    assert len([key for key in dump if key.startswith(keys.of_locations(""))]) == len(model.targets)
    totals = {name: float(value) for name, value in dump.get(keys.TOTALS, {}).items()}
    assert totals == model.totals


def assert_invariants(dump: Dump) -> None:
    """Counts add up, each item is settled once, no claim lacks an owner, no key its job."""
    jobs = {name.decode() for name in dump.get(keys.JOBS, [])}
    open_targets = []
    for key in dump:
        if key.startswith(keys.JOB_PREFIX):
            assert key.removeprefix(keys.JOB_PREFIX).partition(":")[0] in jobs, key
    running = {name.decode() for name in dump.get(keys.RUNNING, [])}
    for name in jobs:
        _assert_job(dump, JobId(name))
        head = dump[keys.of_job(JobId(name)).head]
        assert head["state"] != b"running" or name in running
        if head["state"].decode() in OPEN:
            record = json.loads(head["job"])
            open_targets.append((record["source"], record["out"]))
    assert len(open_targets) == len(set(open_targets))


def _assert_job(dump: Dump, name: JobId) -> None:
    names = keys.of_job(name)
    head = dump[names.head]
    done, failed, claimed = (
        _bits(dump.get(key)) for key in (names.done, names.failed, names.claimed)
    )
    running = _indices(dump, names.running)
    count = {field: int(head.get(field, 0)) for field in ("size", "done", "failed", "flagged")}
    assert not done & failed
    assert (len(done), len(failed)) == (count["done"], count["failed"])
    assert _sum(head, "error:") == count["failed"]
    assert _indices(dump, names.errors) == failed
    assert _indices(dump, names.flags) <= done
    assert len(_indices(dump, names.flags)) == count["flagged"]
    assert not running & (done | failed)
    assert running <= claimed
    assert all(index < count["size"] for index in done | failed | claimed)
    complete = count["done"] + count["failed"] == count["size"]
    state = head["state"].decode()
    assert state != "finished" or complete
    assert state != "running" or not complete
    assert (state in {"finished", "cancelled"}) == ("finished" in head)
    assert int(head.get("fence", 0)) <= int(dump.get(keys.FENCE, 0))
    assert int(head["cursor"]) <= count["size"]


def _stored(dump: Dump, name: JobId) -> dict[str, object]:
    names = keys.of_job(name)
    head = dump[names.head]
    done, failed, claimed = (
        _bits(dump.get(key)) for key in (names.done, names.failed, names.claimed)
    )
    repeats, errors = dump.get(names.repeats, {}), dump.get(names.errors, {})
    flags, running = dump.get(names.flags, {}), dump.get(names.running, {})
    times = {field: _number(head.get(field)) for field in ("started", "finished", "settled")}
    return times | {
        "state": head["state"].decode(),
        "created": float(head["created"]),
        "size": int(head["size"]),
        "skipped": int(head.get("skipped", 0)),
        "cursor": int(head["cursor"]),
        "fence": int(head.get("fence", 0)),
        "spent": float(head.get("spent", 0)),
        "named": names.named in dump,
        "has manifest": names.manifest in dump,
        "attempts": {index: 1 + int(repeats.get(str(index), 0)) for index in claimed},
        "in flight": {
            int(index): (claim[:1] == b"!", claim[1:].decode().partition(" ")[0])
            for index, claim in running.items()
        },
        "done": done,
        "errors": {int(index): json.loads(error)["code"] for index, error in errors.items()},
        "failed": failed,
        "flags": {int(index): set(read_flags(int(bits))) for index, bits in flags.items()},
    }


def _expected(job: JobModel) -> dict[str, object]:
    def of(value: Any, items: list[tuple[int, ItemModel]]) -> dict[int, Any]:
        return {index: value(item) for index, item in items}

    items = list(enumerate(job.items))
    failed = [(index, item) for index, item in items if item.outcome not in {"", "done"}]
    return {
        "started": job.started,
        "finished": job.finished,
        "settled": job.settled,
        "state": job.state,
        "created": job.job.created,
        "size": len(items),
        "skipped": job.skipped,
        "cursor": job.cursor,
        "fence": job.fence,
        "spent": job.spent,
        "named": job.started is None,
        "has manifest": bool(items),
        "attempts": of(
            lambda item: item.attempts, [(i, item) for i, item in items if item.attempts]
        ),
        "in flight": of(
            lambda item: (item.redelivered, item.owner),
            [(i, item) for i, item in items if item.claim],
        ),
        "done": {index for index, item in items if item.outcome == "done"},
        "errors": of(lambda item: item.outcome, failed),
        "failed": {index for index, _ in failed},
        "flags": of(lambda item: set(item.flags), [(i, item) for i, item in items if item.flags]),
    }


def _bits(bitmap: bytes | None) -> set[int]:
    data = bitmap or b""
    return {8 * i + j for i, byte in enumerate(data) for j in range(8) if byte & 0x80 >> j}


def _indices(dump: Dump, key: str) -> set[int]:
    return {int(index) for index in dump.get(key, {})}


def _sum(head: dict[str, bytes], prefix: str) -> int:
    return sum(int(value) for name, value in head.items() if name.startswith(prefix))


def _number(value: bytes | None) -> float | None:
    return None if value is None else float(value)
