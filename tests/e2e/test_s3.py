"""Buckets on the command line: a real server, a real worker, requests over HTTP."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from subprocess import CompletedProcess

    from tests.conftest import FaultProxy, S3Server

    from .conftest import Bgpipe

NANO = ("--model", "birefnet-nano", "--wait")
NAMES = ("a.jpg", "größe & more/b 1.jpg", "größe & more/c.jpg")
CUTOUTS = ("a.png", "größe & more/b 1.png", "größe & more/c.png")
BUSY = {"BGPIPE_S3__TIMEOUT": "1", "BGPIPE_QUEUE__RETRY_DELAY": "0.1"}


def photo(seed: int, side: int = 48) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise).resize((side + 16, side)).save(data, "jpeg", quality=90)
    return data.getvalue()


def books_of(done: CompletedProcess[str], code: int = 0) -> dict[str, Any]:
    assert done.returncode == code, done.stderr + done.stdout
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """A bucket with photos, and with what is none."""
    bucket = s3.make_bucket()
    for seed, name in enumerate(NAMES):
        s3.put(f"{bucket}/photos/{name}", photo(seed))
    for name in ("", "notes.txt", ".hidden.jpg", "größe & more/"):
        s3.put(f"{bucket}/photos/{name}", b"")
    return bucket


@pytest.mark.usefixtures("shared_cluster")
def test_a_prefix_becomes_cutouts_beside_it_and_a_second_run_opens_none(
    bgpipe: Bgpipe, s3: S3Server, bucket: str, fault_proxy: Callable[..., FaultProxy]
) -> None:
    summary = books_of(bgpipe("submit", f"{bucket}/photos", *NANO, "--json", **s3.environment))
    assert (summary["state"], summary["total"], summary["done"]) == ("finished", 3, 3)
    made = {key for key in s3.keys(bucket) if key.endswith(".png")}
    assert made == {f"photos-cutouts/{name}" for name in CUTOUTS}
    found = s3.get(f"{bucket}/photos-cutouts/a.png")
    assert found["ContentType"] == "image/png"
    etag = s3.get(f"{bucket}/photos/a.jpg")["ETag"].strip('"')
    assert found["Metadata"]["bgpipe-source"] == etag
    with Image.open(found["Body"]) as image:
        image.load()
        assert (image.mode, image.size) == ("RGBA", (64, 48))
        recipe = json.loads(image.info["bgpipe:recipe"])
    assert found["Metadata"]["bgpipe-recipe"] == recipe["hash"]

    proxy = fault_proxy()
    through = s3.environment | {"AWS_ENDPOINT_URL": proxy.url}
    summary = books_of(bgpipe("submit", f"{bucket}/photos", *NANO, "--json", **through))
    assert (summary["done"], summary["skipped"]) == (0, 3)
    asked = [line for line in proxy.log.read_text().splitlines() if "list-type" not in line]
    assert all(".bgpipe/" in line for line in asked), asked


@pytest.mark.usefixtures("shared_cluster")
def test_what_changed_in_a_bucket_is_done_again_and_nothing_else(
    bgpipe: Bgpipe, s3: S3Server, bucket: str
) -> None:
    def submit(*options: str) -> tuple[int, int]:
        done = bgpipe("submit", f"{bucket}/photos", *NANO, "--json", *options, **s3.environment)
        summary = books_of(done)
        return summary["done"], summary["skipped"]

    assert submit() == (3, 0)
    s3.put(f"{bucket}/photos/a.jpg", photo(seed=9))
    s3.put(f"{bucket}/photos/new.jpg", photo(seed=10))
    cutout = f"{bucket}/photos-cutouts/größe & more/b 1.png"
    s3.put(cutout, s3.get(cutout)["Body"].read()[:-20])
    assert submit() == (3, 1)
    assert submit("--preset", "raw", "--include", "a*") == (1, 0)
    assert submit("--preset", "raw") == (3, 1)


@pytest.mark.usefixtures("shared_cluster")
def test_prune_removes_what_lost_its_source_and_nothing_else(
    bgpipe: Bgpipe, s3: S3Server, bucket: str
) -> None:
    def submit(*options: str, **settings: str) -> CompletedProcess[str]:
        environment = s3.environment | settings
        return bgpipe("submit", f"{bucket}/photos", *NANO, "--json", *options, **environment)

    def cutouts() -> set[str]:
        return {key for key in s3.keys(bucket) if key.endswith(".png")}

    books_of(submit())
    kept = {f"photos-cutouts/{name}" for name in CUTOUTS[1:]} | {"photos-cutouts/theirs.png"}
    s3.put(f"{bucket}/photos-cutouts/theirs.png", b"foreign")
    s3.delete(f"{bucket}/photos/a.jpg")

    refused = submit("--prune")
    assert (refused.returncode, "BGPIPE_PRUNE__MOST" in refused.stderr) == (2, True)
    half = {"BGPIPE_PRUNE__MOST": "0.5"}
    listed = submit("--prune", "--dry-run", **half)
    orphan = {"orphan": "a.png", "source": "a.jpg"}
    assert json.loads(listed.stdout.splitlines()[0]) == orphan
    assert books_of(listed)["deleted"] == 1
    assert cutouts() == kept | {"photos-cutouts/a.png"}

    done = submit("--prune", "--exclude", "*b 1*", **half)
    assert (books_of(done)["total"], books_of(done)["skipped"]) == (1, 1)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert (lines[0], lines[1]) == (orphan, {"pruned": 1})
    assert cutouts() == kept
    assert books_of(submit("--prune"))["total"] == 2
    assert cutouts() == kept


@pytest.mark.usefixtures("shared_cluster")
def test_a_replaced_cutout_is_not_pruned(bgpipe: Bgpipe, s3: S3Server, bucket: str) -> None:
    submit = ("submit", f"{bucket}/photos", *NANO, "--json")
    books_of(bgpipe(*submit, **s3.environment))
    s3.delete(f"{bucket}/photos/a.jpg")
    s3.put(f"{bucket}/photos-cutouts/a.png", b"foreign")
    books_of(bgpipe(*submit, "--prune", **s3.environment))
    assert s3.get(f"{bucket}/photos-cutouts/a.png")["Body"].read() == b"foreign"


def test_a_list_and_hidden_names_in_a_bucket_cannot_be_pruned(
    bgpipe: Bgpipe, s3: S3Server, bucket: str
) -> None:
    photos = f"{bucket}/photos"
    one = bgpipe("submit", f"{photos}/a.jpg", "--out", bucket, *NANO, "--prune", **s3.environment)
    assert (one.returncode, "needs a folder or a prefix" in one.stderr) == (2, True), one.stderr
    hidden = bgpipe("submit", photos, "--name", ".{stem}", *NANO, "--prune", **s3.environment)
    assert (hidden.returncode, "does not support ZIP files" in hidden.stderr) == (2, True), (
        hidden.stderr
    )


@pytest.mark.usefixtures("shared_cluster")
def test_ends_may_be_mixed(bgpipe: Bgpipe, s3: S3Server, bucket: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    source = f"{bucket}/photos"
    summary = books_of(bgpipe("submit", source, "--out", out, *NANO, "--json", **s3.environment))
    assert summary["done"] == 3
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png")) == list(CUTOUTS)

    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(photo(0))
    target = f"{bucket}/from-folder"
    for expected in ((1, 0), (0, 1)):
        done = bgpipe("submit", folder, "--out", target, *NANO, "--json", **s3.environment)
        summary = books_of(done)
        assert (summary["done"], summary["skipped"]) == expected
    cutout = s3.get(f"{target}/a.png")["Body"].read()
    assert Image.open(io.BytesIO(cutout)).mode == "RGBA"


@pytest.mark.usefixtures("shared_cluster")
def test_one_object_and_a_list_of_objects_may_be_named(
    bgpipe: Bgpipe, s3: S3Server, bucket: str
) -> None:
    out = f"{bucket}/out"
    one = f"{bucket}/photos/a.jpg"
    summary = books_of(bgpipe("submit", one, "--out", out, *NANO, "--json", **s3.environment))
    assert summary["done"] == 1
    lines = f"{one}\n{bucket}/photos/{NAMES[1]}\n{bucket}/photos/gone.jpg\n"
    done = bgpipe("submit", "-", "--out", out, *NANO, "--json", stdin=lines, **s3.environment)
    summary = books_of(done, code=1)
    assert (summary["done"], summary["skipped"], summary["errors"]) == (1, 1, {"E_MISSING": 1})


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("GET BUCKET?list 403 AccessDenied", "s3:ListBucket"),
        ("GET BUCKET?list 400 ExpiredToken", "log in again"),
        ("GET BUCKET?list 400 AuthorizationHeaderMalformed", "AWS_DEFAULT_REGION"),
        ("PUT BUCKET/ 403 AccessDenied", "s3:PutObject"),
    ],
)
def test_a_store_that_refuses_ends_the_command_with_what_to_do(
    bgpipe: Bgpipe,
    s3: S3Server,
    bucket: str,
    fault_proxy: Callable[..., FaultProxy],
    rule: str,
    words: str,
) -> None:
    proxy = fault_proxy("--answer", rule.replace("BUCKET", bucket.removeprefix("s3:/")))
    through = s3.environment | {"AWS_ENDPOINT_URL": proxy.url}
    done = bgpipe("submit", f"{bucket}/photos", *NANO, **through)
    assert done.returncode == 4, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_bucket_and_an_empty_one_are_distinguished(
    bgpipe: Bgpipe, s3: S3Server, bucket: str
) -> None:
    nowhere = "s3://no-such-bucket-anywhere/photos"
    done = bgpipe("submit", nowhere, *NANO, **s3.environment)
    assert (done.returncode, "correct its name" in done.stderr) == (4, True)
    done = bgpipe("submit", f"{bucket}/photos", "--out", nowhere, *NANO, **s3.environment)
    assert (done.returncode, "correct its name" in done.stderr) == (4, True), done.stderr
    done = bgpipe("submit", f"{s3.make_bucket()}/photos", *NANO, **s3.environment)
    assert (done.returncode, "no images" in done.stderr) == (3, True)


def test_without_credentials_it_is_said_where_they_are_looked_for(
    bgpipe: Bgpipe, s3: S3Server, bucket: str
) -> None:
    anonymous = {
        "AWS_ACCESS_KEY_ID": "",
        "AWS_SECRET_ACCESS_KEY": "",
        "AWS_CONFIG_FILE": "/dev/null",
    }
    anonymous |= {"AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true"}
    done = bgpipe("submit", f"{bucket}/photos", *NANO, **(s3.environment | anonymous))
    assert (done.returncode, "AWS_ACCESS_KEY_ID" in done.stderr) == (4, True), done.stderr


def test_a_key_without_access_fails_and_the_others_are_done(
    bgpipe: Bgpipe, s3: S3Server, bucket: str, fault_proxy: Callable[..., FaultProxy]
) -> None:
    locked = f"GET {bucket.removeprefix('s3:/')}/photos/a.jpg 403 AccessDenied"
    proxy = fault_proxy("--answer", locked)
    through = s3.environment | {"AWS_ENDPOINT_URL": proxy.url}
    summary = books_of(bgpipe("submit", f"{bucket}/photos", *NANO, "--json", **through), code=1)
    assert (summary["done"], summary["errors"]) == (2, {"E_ACCESS": 1})
    (failure,) = bgpipe.records("errors", "--json")
    assert (failure["source"], failure["attempts"]) == ("a.jpg", 1)
    assert "s3:GetObject" in failure["detail"]


@pytest.mark.slow
def test_trouble_on_the_way_changes_no_byte_and_loses_no_image(
    bgpipe: Bgpipe, s3: S3Server, fault_proxy: Callable[..., FaultProxy]
) -> None:
    bucket = s3.make_bucket()
    images, distinct = 500, 10
    for number in range(images):
        s3.put(f"{bucket}/photos/{number:03}.jpg", photo(number % distinct))
    quiet = bgpipe(
        "submit", f"{bucket}/photos", "--out", f"{bucket}/quiet", "--include", "00?.jpg", *NANO,
        "--json", **s3.environment,
    )  # fmt: skip
    assert books_of(quiet)["done"] == distinct

    proxy = fault_proxy("--rate", "0.1", "--seed", "7")
    through = s3.environment | {"AWS_ENDPOINT_URL": proxy.url} | BUSY
    out = f"{bucket}/troubled"
    done = bgpipe("submit", f"{bucket}/photos", "--out", out, *NANO, "--json", **through)
    summary = books_of(done)
    assert (summary["state"], summary["total"], summary["done"]) == ("finished", images, images)
    expected = [
        s3.get(f"{bucket}/quiet/{number:03}.png")["Body"].read() for number in range(distinct)
    ]
    for number in range(images):
        made = s3.get(f"{out}/{number:03}.png")["Body"].read()
        assert made == expected[number % distinct], number
    assert sum(fate != "passed" for fate in proxy.fates()) > images / 20
