"""Sweeps as users declare them: in bgpipe.toml, started by hand or by the dispatcher's clock."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from standardwebhooks.webhooks import Webhook

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.scheduling.sweeps import SweepStateStore
from bgpipe.pipeline.types import JobState

from ..support.idle_cluster import Idler

if TYPE_CHECKING:
    from tests.conftest import FaultProxy, S3Server

    from .conftest import Bgpipe

NIGHT = 40
"""Seconds from a start to its deadline."""
IMAGES = 900
SLEEPING_WORKER = Path(__file__).parents[1] / "bench" / "sleeping_worker.py"
SECONDS = 240.0


def jpeg() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (64, 48), "teal").save(data, "jpeg")
    return data.getvalue()


def declare(bgpipe: Bgpipe, **values: object) -> None:
    """Write the settings file of the folder that commands run in."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    (bgpipe.home / "bgpipe.toml").write_text("\n".join(["[sweeps.night]", *lines, ""]))


def until(done: Callable[[], Any]) -> Any:
    """What `done` returns once that is true."""
    deadline = time.monotonic() + SECONDS
    while not (found := done()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.2)
    return found


@contextmanager
def receiver() -> Iterator[tuple[str, list[tuple[bytes, dict[str, str]]]]]:
    """An address, and the bodies and headers that were posted to it."""
    posted: list[tuple[bytes, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append((body, dict(self.headers)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", posted
        server.shutdown()
        thread.join()


@contextmanager
def ended(process: subprocess.Popen[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        print(process.communicate(timeout=60))


@pytest.mark.usefixtures("shared_cluster")
def test_a_sweep_is_run_by_hand_reported_and_listed(bgpipe: Bgpipe, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.jpg", "b.jpg", "c_mask.jpg"):
        Image.new("RGB", (64, 48), "teal").save(photos / name)
    with receiver() as (url, posted):
        declare(
            bgpipe,
            source=str(photos),
            target=str(tmp_path / "out"),
            exclude=["*_mask.jpg"],
            preset="products",
            model="birefnet-nano",
            schedule="0 1 * * *",
            time_zone="Europe/Berlin",
            on_finish=url,
        )
        done = bgpipe(
            "sweep", "run", "night", "--wait", "--json", BGPIPE_SWEEPS__NIGHT__SECRET="hush"
        )
        assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["done"], summary["total"]) == (2, 2)
    assert (summary.pop("ignored"), summary.pop("ignored_suffixes")) == ({"excluded": 1}, {})
    assert summary["job"].startswith("night-")
    ((body, headers),) = posted
    assert Webhook(b"hush").verify(body, headers) == {"sweep": "night"} | summary

    (standing,) = bgpipe.records("sweep", "list")
    assert standing["last"] == summary
    assert datetime.fromisoformat(standing["next"]).hour == 1
    assert bgpipe.records("sweep", "check") == [{"sweep": "night", "ok": True, "error": ""}]


@pytest.mark.usefixtures("shared_cluster")
def test_a_sweep_prunes_as_declared_and_goes_on_where_it_would_be_too_much(
    bgpipe: Bgpipe, tmp_path: Path
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (64, 48), "teal").save(photos / name)
    values = {"source": str(photos), "target": str(out), "model": "birefnet-nano", "prune": True}
    declare(bgpipe, **values)
    assert bgpipe("sweep", "run", "night", "--wait").returncode == 0
    (photos / "a.jpg").unlink()
    done = bgpipe("sweep", "run", "night", "--wait")
    assert (done.returncode, "nothing is pruned: 1 of 2" in done.stderr) == (0, True), done.stderr
    assert {path.name for path in out.glob("*.png")} == {"a.png", "b.png"}
    declare(bgpipe, **values, prune_most=0.5)
    done = bgpipe("sweep", "run", "night", "--wait")
    assert (done.returncode, "removed 1 cutout without a source" in done.stdout) == (0, True), (
        done.stderr
    )
    assert {path.name for path in out.glob("*.png")} == {"b.png"}


def test_pruning_costs_no_second_listing(
    bgpipe: Bgpipe, s3: S3Server, fault_proxy: Callable[..., FaultProxy]
) -> None:
    source, target = s3.make_bucket(), s3.make_bucket()
    for name in ("a.jpg", "b.jpg"):
        s3.put(f"{source}/{name}", jpeg())
    values = {"source": source, "target": target, "model": "birefnet-nano", "prune_most": 0.5}
    declare(bgpipe, **values, prune=True)
    done = bgpipe("sweep", "run", "night", **s3.environment)
    assert done.returncode == 0, done.stderr
    s3.delete(f"{source}/a.jpg")
    proxy = fault_proxy()
    done = bgpipe("sweep", "run", "night", **s3.environment | {"AWS_ENDPOINT_URL": proxy.url})
    assert (done.returncode, "removed 1 cutout without a source" in done.stdout) == (0, True), (
        done.stderr
    )
    assert "b.png" in s3.keys(target)
    assert "a.png" not in s3.keys(target)
    listings = [line for line in proxy.log.read_text().splitlines() if "list-type" in line]
    assert len(listings) == 2, listings  # the source's and the target's


def test_a_dry_run_says_what_a_sweep_would_do_and_writes_nothing(
    bgpipe: Bgpipe, s3: S3Server, tmp_path: Path
) -> None:
    bucket, photos = s3.make_bucket(), tmp_path / "photos"
    photos.mkdir()
    for name, size in (("a.jpg", (60, 40)), ("b.png", (2000, 1000)), ("c_mask.png", (9, 9))):
        Image.new("RGB", size, "teal").save(photos / name)
    (photos / "d.jpg").write_bytes(b"no picture")
    (photos / "notes.txt").write_bytes(b"text")
    declare(
        bgpipe,
        source=str(photos),
        target=bucket,
        exclude=["*_mask.png"],
        model="birefnet-nano",
    )
    known = {"BGPIPE_ESTIMATE__IMAGES_PER_SECOND": "0.5", "BGPIPE_ESTIMATE__PRICE_PER_HOUR": "60"}
    done = bgpipe("sweep", "run", "night", "--dry-run", "--json", **s3.environment, **known)
    assert done.returncode == 0, done.stderr
    size = sum((photos / name).stat().st_size for name in ("a.jpg", "b.png", "d.jpg"))
    assert json.loads(done.stdout) == {
        "total": 3,
        "skipped": 0,
        "new": 3,
        "changed": 0,
        "deleted": 0,
        "foreign": 0,
        "outputs": {},
        "ignored": {"not read": 1, "excluded": 1},
        "ignored_suffixes": {".txt": 1},
        "bytes": size,
        "megapixels": {"below 1": 1, "1 to 4": 1},
        "sample": 3,
        "estimated_device_hours": pytest.approx(3 / 0.5 / 3600),
        "estimated_cost": pytest.approx(0.1),
        "model": "birefnet-nano",
    }
    assert s3.keys(bucket) == []
    said = bgpipe("sweep", "run", "night", "--dry-run", **s3.environment).stdout
    assert "1 excluded" in said
    assert "2 of 3 sampled" in said
    assert "estimate" not in said


@pytest.mark.usefixtures("shared_cluster")
def test_a_sweep_writes_what_its_output_options_say(bgpipe: Bgpipe, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    Image.new("RGB", (64, 48), "teal").save(photos / "a.jpg")
    options = {"format": "jpeg", "quality": 70, "canvas": "40x30", "background": "#ff0000"}
    declare(
        bgpipe,
        source=str(photos),
        target=str(out),
        model="birefnet-nano",
        name="{stem}-cutout",
        **options,
    )
    done = bgpipe("sweep", "run", "night", "--wait")
    assert done.returncode == 0, done.stderr
    with Image.open(out / "a-cutout.jpg") as cutout:
        assert (cutout.format, cutout.size) == ("JPEG", (40, 30))
    given = [f"--{name}={value}" for name, value in options.items()]
    where = ("--out", out, "--name", "{stem}-cutout", "--model", "birefnet-nano")
    again = bgpipe("submit", photos, *where, *given, "--wait", "--json")
    assert json.loads(again.stdout.splitlines()[-1])["skipped"] == 1, again.stderr


def test_obstacles_to_a_sweep_are_reported(bgpipe: Bgpipe, s3: S3Server) -> None:
    declare(bgpipe, source="s3://no-such-bucket-anywhere/x", target="out", model="birefnet-nano")
    done = bgpipe("sweep", "check", **s3.environment)
    assert (done.returncode, "correct its name" in done.stdout) == (4, True), done.stderr
    declare(bgpipe, source=s3.make_bucket(), target="out")
    done = bgpipe("sweep", "check", **s3.environment)
    assert (done.returncode, "birefnet-general" in done.stdout) == (4, True), done.stderr
    declare(bgpipe, source="/", target="out", model="birefnet-nano", matting="vitmatte")
    done = bgpipe("sweep", "check")
    assert (done.returncode, "models pull vitmatte" in done.stdout) == (4, True), done.stderr
    declare(bgpipe, source="photos", target="out", schedule="at night")
    done = bgpipe("sweep", "list")
    assert (done.returncode, "sweeps.night.schedule" in done.stderr) == (2, True), done.stderr
    declare(bgpipe, source="photos", target="out", format="tiff")
    done = bgpipe("sweep", "list")
    assert (done.returncode, "sweeps.night.format" in done.stderr) == (2, True), done.stderr
    declare(bgpipe, source="/", target="out", model="birefnet-nano", format="webp", depth=16)
    done = bgpipe("sweep", "check")
    assert (done.returncode, "depth 16" in done.stdout) == (2, True), done.stderr
    done = bgpipe("sweep", "run", "morning")
    assert done.returncode == 2, done.stderr


def test_a_run_that_cannot_start_says_why(bgpipe: Bgpipe, redis_url: str, tmp_path: Path) -> None:
    def run(name: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bgpipe.pipeline.scheduling.run_sweep"]
        return subprocess.run(
            [*command, name, datetime.now(UTC).isoformat()],
            env=bgpipe.environment | {"BGPIPE_REDIS_URL": redis_url} | environment,
            capture_output=True,
            text=True,
            cwd=bgpipe.home,
            check=False,
        )

    (tmp_path / "empty").mkdir()
    declare(bgpipe, source=str(tmp_path / "empty"), target="out", model="birefnet-nano")
    for name, code, reason in (("morning", 2, "unknown sweep: morning"), ("night", 3, "no images")):
        done = run(name)
        assert (done.returncode, reason in done.stderr) == (code, True), done.stderr
    done = run("night", BGPIPE_DISPATCH__LEASE="long")
    assert (done.returncode, "BGPIPE_DISPATCH__LEASE" in done.stderr) == (2, True), done.stderr


def test_of_two_dispatchers_one_starts_a_sweep_and_the_other_does_not_start_it_again(
    bgpipe: Bgpipe, redis_url: str, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (photos / name).write_bytes(b"a photo")
    missed = datetime.now(UTC) - timedelta(minutes=10)
    declare(
        bgpipe,
        source=str(photos),
        target=str(tmp_path / "out"),
        model="birefnet-nano",
        schedule=f"{missed:%M %H} * * *",
    )
    with (bgpipe.home / "bgpipe.toml").open("a") as settings:
        settings.write(f"[sweeps.seen-last]\nsource = '{photos}'\ntarget = '{tmp_path}/other'\n")
    cluster = {"BGPIPE_REDIS_URL": redis_url, "BGPIPE_DISPATCH__LEASE": "2.0"}
    with connect(redis_url) as client, Idler(client).at_work(), ExitStack() as stack:
        SweepStateStore(client).read("night", missed - timedelta(hours=1))  # when it was first seen
        job_store = JobStore(client)
        processes = [bgpipe.start("dispatch", **cluster) for _ in range(2)]
        for process in processes:
            stack.enter_context(ended(process))

        def leader() -> int:
            holder = client.hget(keys.of_lease(keys.DISPATCH), "holder")
            return int(holder.decode().split(":")[1]) if holder else 0

        def runs() -> list[JobState]:
            return [job_store.summary(job).state for job in job_store.ids()]

        until(lambda: runs() == [JobState.FINISHED])
        until(lambda: SweepStateStore(client).read("night", missed).notified)
        first = until(leader)
        (other,) = (process.pid for process in processes if process.pid != first)
        next(process for process in processes if process.pid == first).kill()
        until(lambda: leader() == other)
        client.delete(keys.of_sweep("seen-last"))
        until(lambda: client.exists(keys.of_sweep("seen-last")))  # the new leader saw to both
        assert runs() == [JobState.FINISHED]


@pytest.mark.slow
def test_a_night_ends_at_its_deadline_and_the_next_one_goes_on(
    bgpipe: Bgpipe, s3: S3Server, redis_url: str, tmp_path: Path
) -> None:
    bucket = s3.make_bucket()
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(IMAGES):
        (photos / f"{number:03}.jpg").write_bytes(b"a photo")
    cluster = s3.environment | {"BGPIPE_REDIS_URL": redis_url, "BGPIPE_WORKER__LANES": "1"}

    def runs() -> list[dict[str, Any]]:
        done = bgpipe("jobs", "--json", **cluster)
        return [json.loads(line) for line in reversed(done.stdout.splitlines())]

    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, SLEEPING_WORKER, "--name", "slow@test"],
            env=bgpipe.environment | cluster,
            stdin=subprocess.PIPE,
            stderr=log,
        )
    with receiver() as (url, posted), ended(worker):
        deadline = _next_minute() + timedelta(seconds=NIGHT)
        declare(
            bgpipe,
            source=str(photos),
            target=f"{bucket}/cutouts",
            model="birefnet-nano",
            schedule="* * * * *",
            deadline=f"{deadline:%H:%M:%S}",
            on_finish=url,
            secret="hush",
        )
        with ended(bgpipe.start("dispatch", **cluster)):
            until(lambda: [run for run in runs() if run["state"] == "cancelled"])
            until(lambda: [run for run in runs() if run["state"] == "finished"])
            first, second = runs()[:2]
            until(lambda: posted)
    assert 0 < first["done"] < IMAGES
    assert first["done"] + second["done"] == second["total"] == IMAGES
    assert second["skipped"] == first["done"]
    reported = [json.loads(body)["job"] for body, _ in posted]
    assert reported.count(second["job"]) == 1
    assert first["job"] not in reported


def _next_minute() -> datetime:
    """The next start, far enough away for the dispatcher to be there before."""
    soon = datetime.now(UTC) + timedelta(seconds=10)
    return soon.replace(second=0, microsecond=0) + timedelta(minutes=1)
