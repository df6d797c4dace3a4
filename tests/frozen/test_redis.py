"""Names of Redis keys, and each kind of value as it is stored."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from bgpipe.config.settings import Settings
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.broker.queue import make_app, publish
from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.jobs.records import read_record, write_record
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.monitoring.heartbeat import Histogram, WorkerStats, read_heartbeats
from bgpipe.pipeline.types import (
    Item,
    Job,
    JobId,
    JobOutput,
    Matting,
    Outcome,
    Output,
    OutputResult,
    Preset,
    Recipe,
    ReviewFlag,
)

from .snapshot import assert_frozen, frozen
from .test_recipes import CHANGED, EDGES, WEIGHTS

JOB = JobId("spring-2024")
TIMES = {"started", "settled", "since"}
KEYS = {
    "jobs": keys.JOBS,
    "running jobs": keys.RUNNING,
    "unacknowledged messages": keys.UNACKED,
    "index of unacknowledged messages": keys.UNACKED_INDEX,
    "unreadable messages": keys.DEAD,
    "totals": keys.TOTALS,
    "fencing tokens": keys.FENCE,
    "API keys": keys.ACCESS,
    "jobs of the HTTP service": keys.SERVED,
    "folders of the HTTP service": keys.FOLDERS,
    "bytes of the HTTP service's callers": keys.USAGE,
    "head of a prompt's keys": keys.PROMPTS,
    "numbers of prompts": keys.PROMPT_NUMBERS,
    "head of all keys": keys.PREFIX,
    "head of a job's keys": keys.JOB_PREFIX,
    "name of the dispatchers' lease": keys.DISPATCH,
    "name of the servers' lease": keys.MAINTENANCE,
    "name of a job's lease": keys.lease_of_job(JOB),
    "a job": list(keys.of_job(JOB)),
    "lease": keys.of_lease("dispatch"),
    "place": keys.of_locations("0a" * 32),
    "sweep": keys.of_sweep("products"),
    "jobs of a caller": keys.of_owner("shop"),
    "open jobs of a caller": keys.of_open_jobs("shop"),
    "requests of a caller in a minute": keys.of_rate("shop", 28_333_333),
    "browser session": keys.of_session("0b" * 32),
    "heartbeat": keys.of_worker("cpu0@host/1"),
    "prompt": keys.of_prompt("0c"),
    "prompts of a caller": keys.prompts_of("shop"),
    "open prompts of a caller": keys.open_prompts_of("shop"),
    "unreported prompts of a client": keys.unreported_prompts_of("shop", "0d"),
    "websocket of a client": keys.listener_of("shop", "0d"),
    "names of a caller's files": keys.prompt_names_of("shop"),
    "file of a prompt": keys.prompt_file_of("shop", "0e"),
    "files that clients of a caller keep": keys.user_files_of("shop"),
    "photos of a caller": keys.input_images_of("shop"),
    "photo of a caller": keys.input_image_of("shop", "0f"),
}
PLAIN = Job(
    JOB, "/photos", "/photos-cutouts", Recipe("birefnet-nano", WEIGHTS, (256, 320), Preset()), 1.7e9
)
WHOLE = Job(
    JobId("products-20240101"),
    "s3://bucket/photos",
    "s3://bucket/cutouts",
    Recipe(
        "/weights.safetensors",
        WEIGHTS,
        (512, 512),
        CHANGED,
        Output("jpeg", "small", 8, 75, "keep", "/wall.jpg", "ef" * 32),
        Matting("vitmatte", EDGES, (512, 512), 0.02),
    ),
    1.7e9,
    include=("*.jpg", "shoes/*"),
    exclude=("*/draft/*",),
    force=True,
    overwrite=True,
    named="12" * 32,
    naming="{stem}-{model}{suffix}",
    sweep="products",
    owner="shop",
    on_finish="https://shop.example/done",
)
SMALL = Recipe(
    "birefnet-nano",
    WEIGHTS,
    (256, 320),
    Preset(size="9x9", enlarge=True, outline="3:white", background="blur:7"),
    Output("webp"),
)
OUTPUTS = replace(
    PLAIN,
    outputs=(JobOutput("web", SMALL, "-web"), JobOutput("print", PLAIN.recipe, naming="{stem}_p")),
)
STAGE = Histogram()
STAGE.observe(0.03)
STAGE.observe(400.0)
VITALS = WorkerStats(
    device="cuda",
    model=WEIGHTS,
    lanes=24,
    batch=8,
    restarts=1,
    images=70,
    progress=1.7e9,
    beat=1.7e9 + 2.5,
    in_flight=20,
    oldest=3.5,
    steps=12,
    device_images=80,
    device_seconds=4.25,
    memory=2**31,
    disk_free=2**40,
    stages={"decode": STAGE},
)


def test_names_of_keys() -> None:
    assert_frozen("redis_keys", KEYS)


def test_every_constant_name_is_frozen() -> None:
    constants = {
        value for name, value in vars(keys).items() if name.isupper() and isinstance(value, str)
    }
    assert constants <= {name for name in KEYS.values() if isinstance(name, str)}


def test_the_record_of_a_job() -> None:
    assert_frozen("job_record", [write_record(PLAIN), write_record(WHOLE)])


def test_an_old_record_of_a_job_is_read_as_what_it_was() -> None:
    plain, whole = frozen("job_record")
    assert read_record(PLAIN.id, plain) == PLAIN
    assert read_record(WHOLE.id, whole) == WHOLE


def test_the_digest_of_where_a_job_reads_and_writes() -> None:
    assert_frozen("job_places", [PLAIN.locations_digest, WHOLE.locations_digest])


def test_a_heartbeat(client: RedisClient) -> None:
    assert {field.name for field in fields(VITALS) if is_default(field.name)} == set()
    client.hset(keys.of_worker("gpu0@host/1"), mapping=VITALS.write())
    stored = client.hgetall(keys.of_worker("gpu0@host/1"))
    assert_frozen("heartbeat", {name.decode(): text.decode() for name, text in stored.items()})


def is_default(name: str) -> bool:
    return bool(getattr(VITALS, name) == getattr(WorkerStats(), name))


def test_an_old_heartbeat_is_read_as_what_it_was(client: RedisClient) -> None:
    client.hset(keys.of_worker("gpu0@host/1"), mapping=frozen("heartbeat"))
    client.expire(keys.of_worker("gpu0@host/1"), 20)
    (seen,) = read_heartbeats(client)
    assert (seen.worker, seen.stats.write()) == ("gpu0@host", VITALS.write())


def run_a_job(client: RedisClient) -> None:
    """Three images: one is done with flags, one failed at its second attempt, one is in flight."""
    job_store = JobStore(client)
    job_store.open(PLAIN)
    job_store.skip(JOB, 2)
    job_store.add(
        JOB, [Item(index, f"größe/{index}.jpg", f"größe/{index}.png", f"{index}-1") for index in range(3)]
    )  # fmt: skip
    job_store.start(JOB)
    job_store.set_cursor(JOB, 3)
    for index in (0, 1, 1, 2):
        job_store.items.claim(JOB, index, "cpu0@host/1")
    outcome = Outcome(0, flags=tuple(ReviewFlag), score=0.87)
    job_store.items.settle(JOB, outcome, identity="8787-1")
    job_store.items.settle(JOB, Outcome.failed(1, PermanentError(Code.EMPTY, "no bytes")))


def dumped(client: RedisClient) -> dict[str, Any]:
    """Every key but the place's; times and the unique ends of claims are made equal."""
    return {
        name: plain(client, name)
        for name in sorted(key.decode() for key in client.scan_iter(match=f"{keys.PREFIX}*"))
    }


def plain(client: RedisClient, name: str) -> Any:
    kind = client.type(name).decode()
    if kind == "hash":
        return {field: stored(name, field, value) for field, value in sorted(hash_of(client, name))}
    if kind == "zset":
        return {
            member.decode(): score for member, score in client.zrange(name, 0, -1, withscores=True)
        }
    assert kind == "string"
    return {"bytes": client.get(name).hex()}


def hash_of(client: RedisClient, name: str) -> Iterator[tuple[str, bytes]]:
    return ((field.decode(), value) for field, value in client.hgetall(name).items())


def stored(name: str, field: str, value: bytes) -> str:
    if name.endswith(":manifest"):
        return value.hex()
    if field in TIMES:
        assert float(value) > PLAIN.created
        return f"{PLAIN.created + 1}"
    return re.sub("[0-9a-f]{32}$", "0" * 32, value.decode())


def restore(client: RedisClient, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if set(value) == {"bytes"}:
            client.set(name, bytes.fromhex(value["bytes"]))
        elif name == keys.JOBS:
            client.zadd(name, value)
        elif name.endswith(":manifest"):
            client.hset(name, mapping={key: bytes.fromhex(text) for key, text in value.items()})
        else:
            client.hset(name, mapping=value)


def test_a_job_in_redis(client: RedisClient) -> None:
    run_a_job(client)
    assert_frozen("job_in_redis", dumped(client))


def test_an_old_job_in_redis_is_read_and_goes_on(client: RedisClient) -> None:
    restore(client, frozen("job_in_redis"))
    job_store = JobStore(client)
    summary = job_store.summary(JOB)
    assert (summary.state, summary.total, summary.done, summary.skipped) == ("running", 5, 1, 2)
    assert (summary.failed, summary.queued, summary.running) == (1, 0, 1)
    assert job_store.items.flags(JOB) == {0: tuple(ReviewFlag)}
    (failure,) = job_store.items.failures(JOB)
    assert (failure.source, failure.code, failure.attempts) == ("größe/1.jpg", "E_EMPTY", 2)
    assert job_store.items.claims(JOB) == {2: "cpu0@host/1"}
    assert job_store.items.settle(JOB, Outcome.done(2))
    assert job_store.summary(JOB).state == "finished"


def test_a_job_with_outputs_in_redis(client: RedisClient) -> None:
    """One image is done, of which one output was up to date; one failed in part."""
    job_store = JobStore(client)
    job_store.open(OUTPUTS)
    job_store.add(
        JOB, [Item(i, f"d/{i}.jpg", f"d/{i}-web.webp", f"{i}-1", (f"{i}_p.png",), 3 - i) for i in (0, 1)]
    )  # fmt: skip
    job_store.start(JOB)
    error = PermanentError(Code.TARGET, "print: E_TARGET: foreign")
    both = [OutputResult("web", "9-9"), OutputResult("print", is_failed=True)]
    job_store.items.settle(JOB, Outcome.failed(0, error), outputs=both)
    both = [OutputResult("web"), OutputResult("print", "8-8")]
    job_store.items.settle(JOB, Outcome.done(1), outputs=both)
    head, *_, fingerprints = keys.of_job(JOB)
    names = "job", "output:web", "output:print", "unwritten:print"
    stored = dict(zip(names, map(bytes.decode, client.hmget(head, names)), strict=True))
    kept = {"fingerprints": client.get(fingerprints).hex()}
    kept["manifest"] = client.hget(keys.of_job(JOB).manifest, "0").hex()
    assert_frozen("job_with_outputs", stored | kept)
    assert read_record(JOB, frozen("job_with_outputs")["job"]) == OUTPUTS


def test_a_message_in_the_queue(client: RedisClient, settings: Settings, redis_url: str) -> None:
    """Messages of an earlier version wait there, and its workers may take those of this one."""
    with make_app(settings, redis_url) as app:
        publish(app, JOB, [Item(7, "a.jpg", "a.png", "7-1")], settings.queue.name)
    (text,) = client.lrange("bgpipe", 0, -1)
    message = json.loads(text)
    headers = {name: message["headers"][name] for name in ("task", "argsrepr", "ignore_result")}
    body = json.loads(base64.b64decode(message["body"]))
    form = {name: message[name] for name in ("content-encoding", "content-type")}
    assert isinstance(message["headers"]["published"], float)
    assert_frozen("message", {"headers": headers, "body": body[:2]} | form)
