"""What only a bucket can do to a store."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import pytest
from botocore import exceptions as boto

from bgpipe.config.output import Format, Output
from bgpipe.config.settings import load_settings
from bgpipe.pipeline.errors import (
    Code,
    ItemError,
    PermanentError,
    Refused,
    StorageUnavailable,
    TransientError,
    UsageError,
)
from bgpipe.pipeline.storage.factory import StoreFactory
from bgpipe.pipeline.storage.s3 import item_errors

pytestmark = pytest.mark.usefixtures("aws")


@pytest.fixture
def settings():
    return load_settings().s3


@pytest.fixture
def location(s3):
    return s3.make_bucket()


@pytest.fixture(scope="module")
def stores():
    """One factory, so one client: making a client takes longer than a test."""
    return StoreFactory(load_settings().s3)


@pytest.fixture
def store(stores, location):
    return stores.open(f"{location}/photos")


@pytest.fixture
def through(settings, fault_proxy, location):
    """`through(rule, ...)`: the store behind a proxy that answers as the rules say."""

    def opened(*rules, **changes):
        bucket = location.removeprefix("s3:/")
        options = [word for rule in rules for word in ("--answer", rule.replace("BUCKET", bucket))]
        url = fault_proxy(*options).url
        changed = settings.model_copy(update={"endpoint_url": url, "timeout": 1.0} | changes)
        return StoreFactory(changed).open(f"{location}/photos")

    return opened


def keys(store):
    return [entry.key for entry in store.list()]


def error_of(call, *arguments):
    with pytest.raises(ItemError) as caught:
        call(*arguments)
    return caught.value


@pytest.mark.parametrize(
    "location", ["s3://", "s3:///key", "s3://a", "s3://no space/x", "s3://-a-", "gs://bucket/x"]
)
def test_what_is_no_buckets_address_is_refused(settings, location):
    with pytest.raises(UsageError, match="bucket"):
        StoreFactory(settings).open(location)


def test_only_what_lies_under_the_prefix_is_listed(s3, location, settings):
    for key in ["photos/a.jpg", "photos/sub/b.jpg", "photos-2/c.jpg", "photos.jpg", "d.jpg"]:
        s3.put(f"{location}/{key}", b"x")
    stores = StoreFactory(settings)
    assert keys(stores.open(f"{location}/photos")) == ["a.jpg", "sub/b.jpg"]
    assert keys(stores.open(f"{location}/photos/")) == ["a.jpg", "sub/b.jpg"]
    assert len(keys(stores.open(location))) == 5


def test_markers_of_folders_are_no_images(s3, location, store):
    for key in ["photos/", "photos/sub/", "photos/x.jpg/"]:
        s3.put(f"{location}/{key}", b"")
    s3.put(f"{location}/photos/sub/a.jpg", b"x")
    assert keys(store) == ["sub/a.jpg"]


@pytest.mark.parametrize("key", ["/a.jpg", "b//a.jpg", "../a.jpg", "b/../../a.jpg", "./a.jpg"])
def test_a_key_that_no_folder_could_hold_is_an_item_that_fails(s3, location, store, key):
    s3.put(f"{location}/photos/{key}", b"x")
    assert keys(store) == [key]
    assert error_of(store.read, key, 9).code is Code.TARGET


def test_a_key_may_have_a_thousand_bytes_and_no_more_than_s3_takes(store):
    long = "é" * 500 + ".png"
    store.write(long, b"x")
    assert keys(store) == [long]
    error = error_of(store.write, "é" * 510 + ".png", b"x")
    assert (type(error), error.code) == (PermanentError, Code.TARGET)
    assert keys(store) == [long]


def test_a_listing_goes_on_over_many_pages(settings, s3, location):
    names = [f"{number:04}.jpg" for number in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: s3.put(f"{location}/{name}", b""), names))
    assert keys(StoreFactory(settings).open(location)) == names


def test_a_cutout_says_what_it_is_and_how_it_was_made(s3, location, store):
    store.write("a.png", b"x", {"bgpipe-recipe": "0123", "bgpipe-source": "4567"})
    response = s3.get(f"{location}/photos/a.png")
    assert response["ContentType"] == "image/png"
    assert response["Metadata"] == {"bgpipe-recipe": "0123", "bgpipe-source": "4567"}
    assert response["ChecksumCRC32"]


@pytest.mark.parametrize("format_", get_args(Format))
def test_every_format_has_its_content_type(s3, location, store, format_):
    name = f"a{Output(format=format_).suffix}"
    store.write(name, b"x")
    assert s3.get(f"{location}/photos/{name}")["ContentType"] in {
        "application/zip",
        *(f"image/{kind}" for kind in ("avif", "jpeg", "png", "webp")),
    }


def test_encryption_and_storage_class_are_the_settings(s3, location, settings):
    changes = {"encryption": "aws:kms", "kms_key": "alias/x", "storage_class": "STANDARD_IA"}
    store = StoreFactory(settings.model_copy(update=changes)).open(location)
    store.write("a.png", b"x")
    response = s3.get(f"{location}/a.png")
    assert response["ServerSideEncryption"] == "aws:kms"
    assert response["SSEKMSKeyId"] == "alias/x"
    assert response["StorageClass"] == "STANDARD_IA"
    changes = {"encryption": "AES256"}
    StoreFactory(settings.model_copy(update=changes)).open(location).write("b.png", b"x")
    assert s3.get(f"{location}/b.png")["ServerSideEncryption"] == "AES256"


def test_requests_that_the_asker_pays_for_work(settings, location):
    changes = {"requester_pays": True, "addressing": "path"}
    store = StoreFactory(settings.model_copy(update=changes)).open(location)
    store.write("a.png", b"x")
    assert keys(store) == ["a.png"]
    assert store.read("a.png", 1) == store.read_range("a.png", 0, 1) == b"x"
    assert store.head("a.png").size == 1


def test_threads_share_the_stores_and_their_client(settings, location):
    stores = StoreFactory(settings, connections=4)
    start = threading.Barrier(8)

    def work(number):
        start.wait()
        store = stores.open(f"{location}/{number % 2}")
        store.write(f"{number}.png", bytes([number]) * 1000)
        return store.read(f"{number}.png", 1000)

    with ThreadPoolExecutor(8) as pool:
        contents = list(pool.map(work, range(8)))
    assert contents == [bytes([number]) * 1000 for number in range(8)]


def test_a_bucket_that_is_not_there_is_unavailable_and_says_what_to_do(settings):
    store = StoreFactory(settings).open("s3://no-such-bucket-anywhere/photos")
    with pytest.raises(StorageUnavailable, match=r"NoSuchBucket.*: create the bucket or correct"):
        keys(store)
    error = error_of(store.write, "a.png", b"x")
    assert (type(error), error.code) == (Refused, Code.MISSING)


def test_without_a_server_nothing_can_be_listed(settings):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        store = StoreFactory(settings.model_copy(update={"endpoint_url": url})).open("s3://bucket")
        with pytest.raises(StorageUnavailable, match="endpoint_url"):
            keys(store)
        error = error_of(store.read, "a.jpg", 9)
    assert (type(error), error.code) == (Refused, Code.STORAGE)


def test_without_credentials_it_says_where_they_are_looked_for(settings, location, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StorageUnavailable, match=r"credentials.*AWS_ACCESS_KEY_ID"):
        keys(StoreFactory(settings).open(location))


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"profile": "missing"}, StorageUnavailable, "missing.*profile"),
        ({"endpoint_url": "no address"}, UsageError, "no address"),
    ],
)
def test_settings_that_lead_nowhere_are_named(settings, location, changes, kind, words):
    with pytest.raises(kind, match=words):
        StoreFactory(settings.model_copy(update=changes)).open(location)


@pytest.mark.parametrize(
    ("status", "answer", "advice"),
    [
        (403, "AccessDenied", "s3:ListBucket"),
        (403, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
        (400, "ExpiredToken", "log in again"),
        (400, "AuthorizationHeaderMalformed", "region"),
        (301, "PermanentRedirect", "region"),
        (403, "RequestTimeTooSkewed", "clock"),
    ],
)
def test_a_store_that_cannot_be_listed_says_what_to_do(through, status, answer, advice):
    store = through(f"GET BUCKET?list {status} {answer}")
    with pytest.raises(StorageUnavailable, match=f"{answer}.*{advice}"):
        keys(store)


@pytest.mark.parametrize(
    ("status", "answer", "kind", "code"),
    [
        (403, "AccessDenied", PermanentError, Code.ACCESS),
        (404, "NoSuchKey", PermanentError, Code.MISSING),
        (403, "InvalidObjectState", PermanentError, Code.ACCESS),
        (500, "InternalError", TransientError, Code.STORAGE),
        (400, "SomethingNew", TransientError, Code.STORAGE),
    ],
)
def test_one_key_may_fail_and_the_next_one_not(through, s3, location, status, answer, kind, code):
    s3.put(f"{location}/photos/good.jpg", b"good")
    store = through(f"GET BUCKET/photos/bad.jpg {status} {answer}")
    error = error_of(store.read, "bad.jpg", 9)
    assert (type(error), error.code) == (kind, code)
    assert "bad.jpg" in error.detail
    assert store.read("good.jpg", 9) == b"good"


@pytest.mark.parametrize(
    ("status", "answer", "code", "advice"),
    [
        (400, "ExpiredToken", Code.ACCESS, "log in again"),
        (403, "InvalidAccessKeyId", Code.ACCESS, "AWS_ACCESS_KEY_ID"),
        (403, "RequestTimeTooSkewed", Code.ACCESS, "clock"),
        (301, "PermanentRedirect", Code.ACCESS, "region"),
        pytest.param(503, "SlowDown", Code.STORAGE, "fewer lanes", marks=pytest.mark.slow),
        (507, "XMinioStorageFull", Code.STORAGE, "make room"),
    ],
)
def test_a_refusal_is_the_same_for_every_key_and_request(
    through, location, status, answer, code, advice
):
    store = through(f"GET BUCKET/ {status} {answer}", f"PUT BUCKET/ {status} {answer}")
    with ThreadPoolExecutor() as pool:  # each is tried again for seconds
        read = pool.submit(error_of, store.read, "a.jpg", 9)
        errors = [error_of(store.write, "b.png", b"x"), read.result()]
    assert {(type(error), error.code) for error in errors} == {(Refused, code)}
    (detail,) = {error.detail for error in errors}
    assert detail.startswith(f"{location} answers {answer}: ")
    assert advice in detail


def test_a_target_that_may_only_be_read_refuses_the_cutout(through, store):
    store.write("a.png", b"old")
    locked = through("PUT BUCKET/ 403 AccessDenied")
    error = error_of(locked.write, "a.png", b"new")
    assert (type(error), error.code) == (PermanentError, Code.ACCESS)
    assert "s3:PutObject" in error.detail
    assert store.read("a.png", 9) == b"old"


def test_no_right_to_look_is_not_taken_for_an_absence(through):
    store = through("HEAD BUCKET/ 403 AccessDenied")
    assert error_of(store.head, "a.png").code is Code.ACCESS


def test_contents_that_break_off_are_asked_for_again(settings, fault_proxy, store):
    content = bytes(range(256)) * 40
    store.write("a.png", content)
    proxy = fault_proxy("--rate", "0.3", "--seed", "3")
    changes = {"endpoint_url": proxy.url, "timeout": 1.0}
    hard = StoreFactory(settings.model_copy(update=changes)).open(store.location)
    with ThreadPoolExecutor(8) as pool:
        for read in [pool.submit(hard.read, "a.png", 99_999) for _ in range(40)]:
            assert read.result() == content
    assert {"cut-short", "reset", "stall", "slow-down"} <= set(proxy.fates())


@pytest.mark.parametrize(
    ("kind", "code", "advice"),
    [
        (boto.NoCredentialsError, Code.ACCESS, "AWS_ACCESS_KEY_ID"),
        (boto.PartialCredentialsError, Code.ACCESS, "AWS_ACCESS_KEY_ID"),
        (boto.ProfileNotFound, Code.ACCESS, "AWS_ACCESS_KEY_ID"),
        (boto.CredentialRetrievalError, Code.ACCESS, "aws sso login"),
        (boto.TokenRetrievalError, Code.ACCESS, "aws sso login"),
        (boto.UnauthorizedSSOTokenError, Code.ACCESS, "aws sso login"),
        (boto.LoginRefreshRequired, Code.ACCESS, "aws sso login"),
        (boto.NoRegionError, Code.ACCESS, "region of"),
        (boto.ConnectTimeoutError, Code.STORAGE, "check the network"),
        (boto.ConnectionClosedError, Code.STORAGE, "check the network"),
        (boto.DataNotFoundError, Code.STORAGE, "try again"),
    ],
)
def test_an_error_without_a_response_is_explained_by_its_class_or_a_base_of_it(kind, code, advice):
    with pytest.raises(ItemError, match=advice) as caught, item_errors("a.jpg", "b"):
        raise kind.__new__(kind)
    assert caught.value.code is code
