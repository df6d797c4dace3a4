"""What an earlier version left behind goes on: its cutouts, its jobs, its Redis, its bucket.

The data lie in upgrade/ (upgrade/make.py says how they came about). Jobs hold absolute paths, so
that each test puts them back into the one folder where they were made.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..e2e.conftest import Bgpipe
from ..support.locks import is_free

if TYPE_CHECKING:
    from ..support.s3_server import FaultProxy, S3Server

DATA = Path(__file__).with_name("upgrade")
RECORD: dict[str, Any] = json.loads((DATA / "data.json").read_text(encoding="utf-8"))
REPORTED = {job["job"]: job for job in RECORD["reported"]["jobs"]}
FOLDER = Path("/tmp/bgpipe-upgrade")
BUCKET = "bgpipe-upgrade"
MODEL = FOLDER / "weights.safetensors"
MOMENT = 1_700_000_000
KEPT = {"BGPIPE_DISPATCH__KEEP_DAYS": "36500"}
"""The jobs get older with every year, and are not to be forgotten."""


@pytest.fixture
def left() -> Iterator[Bgpipe]:
    """The commands in the folder as the earlier version left it; one test at a time has it."""
    with FOLDER.with_suffix(".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir(mode=0o700)
        put(MODEL.name, (DATA / MODEL.name).read_bytes(), MOMENT * 10**9)
        for file in RECORD["files"]:
            put(file["path"], (DATA / file["content"]).read_bytes(), file["mtime_ns"])
        yield Bgpipe(FOLDER)
        for name in ("server.lock", "users.lock"):
            await_free(FOLDER / "state/bgpipe/redis" / name)
        for log in FOLDER.glob("state/bgpipe/**/*.log"):  # shown beside a test that fails
            print(f"--- {log.name}", log.read_text(errors="replace"), sep="\n")
        shutil.rmtree(FOLDER)


def await_free(path: Path) -> None:
    """A worker outlives its command a little; it would end the Redis of the next test's folder."""
    deadline = time.monotonic() + 60
    while not is_free(path):
        assert time.monotonic() < deadline, f"still in use: {path}"
        time.sleep(0.05)


@pytest.fixture
def left_bucket(s3: S3Server, left: Bgpipe) -> Iterator[S3Server]:
    """The server with the bucket as the earlier version left it."""
    s3.client.create_bucket(Bucket=BUCKET)
    for entry in RECORD["objects"]:
        body = (DATA / entry["content"]).read_bytes()
        stored = s3.client.put_object(
            Bucket=BUCKET,
            Key=entry["key"],
            Body=body,
            ContentType=entry["content_type"],
            Metadata=entry["metadata"],
        )
        assert stored["ETag"] == entry["etag"]
    yield s3
    for key in s3.keys(f"s3://{BUCKET}"):
        s3.delete(f"s3://{BUCKET}/{key}")
    s3.client.delete_bucket(Bucket=BUCKET)


def put(name: str, data: bytes, mtime_ns: int) -> None:
    path = FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=(mtime_ns, mtime_ns))


def submit(bgpipe: Bgpipe, source: object, **environment: str) -> tuple[int, int, int]:
    """How many images of `source` were done, skipped and failed."""
    done = bgpipe("submit", source, "--model", MODEL, "--json", **KEPT, **environment)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    return summary["done"], summary["skipped"], summary["failed"]


def reported(bgpipe: Bgpipe, *arguments: str) -> list[dict[str, Any]]:
    done = bgpipe(*arguments, "--json", **KEPT)
    assert done.returncode in {0, 1}, done.stderr
    assert "unreadable" not in done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def content(folder: str) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of change of what is in `folder`."""
    return {
        path.relative_to(FOLDER).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in (FOLDER / folder).rglob("*")
        if path.is_file()
    }


def test_cutouts_of_an_earlier_version_are_up_to_date(left: Bgpipe) -> None:
    before = content("photos-cutouts")
    assert len(before) == 3
    assert submit(left, FOLDER / "photos") == (0, 3, 0)
    assert content("photos-cutouts") == before


@pytest.mark.slow
def test_cutouts_of_an_earlier_version_speak_for_themselves_without_its_state(
    left: Bgpipe,
) -> None:
    before = content("photos-cutouts")
    shutil.rmtree(FOLDER / "state")
    assert submit(left, FOLDER / "photos") == (0, 3, 0)
    assert content("photos-cutouts") == before


@pytest.mark.slow
def test_the_catalog_of_an_earlier_version_confirms_cutouts_without_opening_them(
    left: Bgpipe,
) -> None:
    for name, (data, changed) in content("photos-cutouts").items():
        put(name, bytes(len(data)), changed)
    assert submit(left, FOLDER / "photos") == (0, 3, 0)


def test_the_jobs_of_an_earlier_version_are_reported_alike(left: Bgpipe) -> None:
    for now, then in zip(reported(left, "jobs"), RECORD["reported"]["jobs"], strict=True):
        assert now.items() >= then.items()  # fields may be added
    assert reported(left, "errors", "mixed") == RECORD["reported"]["errors"]
    assert reported(left, "status", "folder")[-1].items() >= REPORTED["folder"].items()


@pytest.mark.slow
def test_a_report_of_a_job_of_an_earlier_version_shows_its_cutouts(left: Bgpipe) -> None:
    done = left("report", "folder", "--out", FOLDER / "sheet.html", **KEPT)
    assert done.returncode == 0, done.stderr
    page = (FOLDER / "sheet.html").read_text(encoding="utf-8")
    assert page.count("data:image/") >= 3
    assert "b 1.jpg" in page


def test_a_job_that_an_earlier_version_did_not_finish_goes_on_where_it_was(left: Bgpipe) -> None:
    before, made = content("many-cutouts"), REPORTED["unfinished"]["done"]
    assert len(before) == made
    summary = reported(left, "resume", "unfinished")[-1]
    found = summary["state"], summary["done"], summary["total"], summary["failed"]
    assert found == ("finished", 16, 16, 0)
    assert len(content("many-cutouts")) == 16
    assert content("many-cutouts").items() >= before.items()


def test_what_an_earlier_version_gave_up_is_tried_again(left: Bgpipe) -> None:
    before = content("mixed-cutouts")
    put("mixed/empty.jpg", (FOLDER / "photos/a.jpg").read_bytes(), MOMENT * 10**9)
    summary = reported(left, "retry", "mixed")[-1]
    assert (summary["state"], summary["done"], summary["failed"]) == ("finished", 2, 0)
    assert content("mixed-cutouts").items() >= before.items()


@pytest.mark.parametrize(
    "state", ["with its state", pytest.param("without it", marks=pytest.mark.slow)]
)
def test_a_bucket_of_an_earlier_version_is_up_to_date(
    left: Bgpipe, left_bucket: S3Server, state: str
) -> None:
    if state == "without it":
        shutil.rmtree(FOLDER / "state")
    done = submit(left, f"s3://{BUCKET}/photos", **left_bucket.environment)
    assert done == (0, 3, 0)
    for entry in RECORD["objects"]:
        if entry["key"].endswith(".png"):
            found = left_bucket.get(f"s3://{BUCKET}/{entry['key']}")
            assert found["ETag"] == entry["etag"]
            assert found["Metadata"] == entry["metadata"]


@pytest.mark.slow
def test_the_catalog_in_a_bucket_of_an_earlier_version_confirms_objects_without_opening_them(
    left: Bgpipe, left_bucket: S3Server, fault_proxy: Callable[..., FaultProxy]
) -> None:
    proxy = fault_proxy()
    through = left_bucket.environment | {"AWS_ENDPOINT_URL": proxy.url}
    assert submit(left, f"s3://{BUCKET}/photos", **through) == (0, 3, 0)
    asked = [line for line in proxy.log.read_text().splitlines() if "list-type" not in line]
    assert asked
    assert all(".bgpipe/" in line for line in asked), asked
