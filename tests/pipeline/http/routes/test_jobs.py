"""Jobs over HTTP, from the upload to the cutout."""

from __future__ import annotations

import io
import json
import threading
import time
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import connect

from ....support.http_service import SECONDS, Service

Photo = Callable[..., Path]
Finished = Callable[..., dict[str, Any]]


def send(client: httpx2.Client, *paths: Path, **fields: Any) -> dict[str, Any]:
    """The job that was made of the files."""
    headers = fields.pop("headers", {})
    files = [("files", (path.name, path.read_bytes())) for path in paths]
    answer = client.post("/v1/jobs/from-images", files=files, data=fields, headers=headers)
    assert answer.status_code == 201, answer.text
    job: dict[str, Any] = answer.json()
    return job


def problem(answer: httpx2.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["code"]


def test_an_uploaded_image_becomes_a_cutout_that_can_be_fetched_in_parts(
    client: httpx2.Client, photo: Photo, finished: Finished
) -> None:
    job = send(client, photo("a cup.jpg", (96, 64)), photo("b.png"), preset="products")["job"]
    summary = finished(job)
    assert (summary["state"], summary["total"], summary["done"]) == ("finished", 2, 2)
    items = client.get(f"/v1/jobs/{job}/items").json()
    assert [item["source"] for item in items["items"]] == ["a cup.jpg", "b.png"]
    assert {item["state"] for item in items["items"]} == {"done"}
    assert items["next"] is None
    whole = client.get(f"/v1/jobs/{job}/items/0/result")
    cutout = Image.open(io.BytesIO(whole.content))
    assert (cutout.mode, cutout.size) == ("RGBA", (96, 64))
    assert whole.headers["content-type"] == "image/png"
    assert whole.headers["content-disposition"].startswith('attachment; filename="a cup.png"')
    url, tag = f"/v1/jobs/{job}/items/0/result", whole.headers["etag"]
    for asked, status, content in (
        ("bytes=0-7", 206, whole.content[:8]),
        ("bytes=8-", 206, whole.content[8:]),
        ("bytes=-8", 206, whole.content[-8:]),
        ("bytes=999999999-", 416, b""),
        ("bytes=0-1,4-5", 200, whole.content),
        ("lines=1-2", 200, whole.content),
    ):
        part = client.get(url, headers={"Range": asked})
        assert (part.status_code, part.content) == (status, content), asked
    assert client.get(url, headers={"If-None-Match": tag}).status_code == 304
    stale = client.get(url, headers={"Range": "bytes=0-7", "If-Range": '"old"'})
    assert (stale.status_code, stale.content) == (200, whole.content)


def test_previews_are_small_webps_of_source_result_and_mask(
    client: httpx2.Client, photo: Photo, finished: Finished
) -> None:
    job = send(client, photo("wide.png", (640, 320)))["job"]
    finished(job)
    for of, mode in (("source", "RGB"), ("result", "RGBA"), ("mask", "RGB")):
        answer = client.get(f"/v1/jobs/{job}/items/0/preview", params={"of": of, "side": 128})
        image = Image.open(io.BytesIO(answer.content))
        assert (image.format, image.mode, image.size) == ("WEBP", mode, (128, 64)), of
        tag = {"If-None-Match": answer.headers["etag"]}
        again = client.get(
            f"/v1/jobs/{job}/items/0/preview", params={"of": of, "side": 128}, headers=tag
        )
        assert again.status_code == 304


def test_all_cutouts_come_as_one_zip(
    client: httpx2.Client, photo: Photo, finished: Finished
) -> None:
    job = send(client, photo("a.jpg"), photo("ü b.png"))["job"]
    finished(job)
    answer = client.get(f"/v1/jobs/{job}/results.zip")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["a.png", "ü b.png"]
        created = client.get(f"/v1/jobs/{job}").json()["created"] // 2 * 2  # ZIP counts in twos
        entry = archive.getinfo("a.png")
        assert time.mktime((*entry.date_time, 0, 0, -1)) == created
        assert entry.external_attr >> 16 == 0o100644
        single = client.get(f"/v1/jobs/{job}/items/1/result").content
        assert archive.read("ü b.png") == single


def test_an_upload_may_come_file_by_file_and_be_used_by_several_jobs(
    client: httpx2.Client, photo: Photo, finished: Finished
) -> None:
    upload = client.post("/v1/uploads").json()["upload"]
    for name in ("one.jpg", "folder/two.png"):
        path = photo(name.rpartition("/")[2])
        answer = client.post(
            f"/v1/uploads/{upload}/files", files={"files": (name, path.read_bytes())}
        )
        assert (answer.status_code, answer.json()["files"]) == (201, [name])
    for preset in ("balanced", "portraits"):
        answer = client.post("/v1/jobs", json={"upload": upload, "preset": preset})
        assert answer.status_code == 201, answer.text
        assert answer.headers["location"] == f"/v1/jobs/{answer.json()['job']}"
        assert answer.json()["source"] == f"upload:{upload}"
        summary = finished(answer.json()["job"])
        assert (summary["total"], summary["done"]) == (2, 2)


def test_equal_names_in_one_request_are_kept_apart(
    client: httpx2.Client, photo: Photo, finished: Finished
) -> None:
    data = photo("image.jpg").read_bytes()
    files = [("files", (name, data)) for name in ("image.jpg", "image.jpg", "noname", "noname")]
    job = client.post("/v1/jobs/from-images", files=files).json()["job"]
    assert finished(job)["done"] == 4
    items = client.get(f"/v1/jobs/{job}/items").json()["items"]
    assert [item["source"] for item in items] == [
        "image-2.jpg",
        "image.jpg",
        "noname-2.jpeg",
        "noname.jpeg",
    ]


def test_values_of_a_preset_and_the_format_can_be_chosen(
    client: httpx2.Client, photo: Photo, finished: Finished
) -> None:
    upload = client.post("/v1/uploads").json()["upload"]
    files = {"files": ("a.png", photo("a.png").read_bytes())}
    client.post(f"/v1/uploads/{upload}/files", files=files)
    options = {"upload": upload, "set": {"contrast": 2, "smooth": True}, "format": "webp"}
    options["review_below"] = 1
    job = client.post("/v1/jobs", json=options).json()
    assert (job["preset"]["contrast"], job["preset"]["smooth"], job["format"]) == (2, True, "webp")
    finished(job["job"])
    item = client.get(f"/v1/jobs/{job['job']}/items/0").json()
    assert "low-score" in item["flags"]
    assert 0 <= item["score"] < 1
    answer = client.get(f"/v1/jobs/{job['job']}/items/0/result")
    assert answer.headers["content-type"] == "image/webp"
    form = send(client, photo("b.png"), set=["contrast=2", "smooth=true"])
    assert (form["preset"]["contrast"], form["preset"]["smooth"]) == (2, True)


def test_a_form_has_the_output_options_of_a_json_request(
    client: httpx2.Client, photo: Photo, finished: Finished
) -> None:
    sizes = []
    for quality in (1, 100):
        job = send(client, photo("c.png"), format="jpeg", quality=quality)["job"]
        finished(job)
        sizes.append(len(client.get(f"/v1/jobs/{job}/items/0/result").content))
    assert sizes[0] < sizes[1]
    files = {"files": ("a.png", photo("a.png").read_bytes())}
    for wrong in ({"quality": "0"}, {"format": "gif"}):
        answer = client.post("/v1/jobs/from-images", files=files, data=wrong)
        assert problem(answer) == (422, "invalid-request")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "invalid-request"),
        ({"upload": "a", "source": "/b"}, 422, "invalid-request"),
        ({"upload": "never-was-there"}, 404, "unknown-upload"),
        ({"upload": "../../etc"}, 404, "unknown-upload"),
        ({"source": "/etc"}, 403, "source-not-allowed"),
        ({"source": "s3://another/place"}, 403, "source-not-allowed"),
        ({"upload": "a", "preset": 3}, 422, "invalid-request"),
        ({"upload": "a", "on_finish": "http://169.254.169.254/"}, 403, "webhook-not-allowed"),
        ({"upload": "a", "more": 1}, 422, "invalid-request"),
    ],
)
def test_a_request_for_what_cannot_be_is_refused(
    client: httpx2.Client, body: dict[str, Any], status: int, code: str
) -> None:
    assert problem(client.post("/v1/jobs", json=body)) == (status, code)


@pytest.mark.parametrize("model", ["/etc/passwd", "no-such-model"])
def test_a_model_is_one_of_the_registry_never_a_path(
    client: httpx2.Client, photo: Photo, model: str
) -> None:
    files = {"files": ("a.png", photo("a.png").read_bytes())}
    answer = client.post("/v1/jobs/from-images", files=files, data={"model": model})
    assert problem(answer) == (422, "invalid-request")


def test_a_model_with_terms_is_never_pulled_by_a_request(
    client: httpx2.Client, photo: Photo
) -> None:
    files = {"files": ("a.png", photo("a.png").read_bytes())}
    answer = client.post("/v1/jobs/from-images", files=files, data={"model": "rmbg-2.0"})
    assert problem(answer) == (503, "unavailable")
    assert "non-commercial use only" in answer.json()["detail"]


def test_an_idempotency_key_makes_one_job_of_equal_requests_and_refuses_another(
    client: httpx2.Client, photo: Photo
) -> None:
    once = {"Idempotency-Key": f"order-{time.time_ns()}"}
    path = photo("a.png")
    first = send(client, path, headers=once)
    assert send(client, path, headers=once)["job"] == first["job"]
    files = {"files": ("a.png", photo("a.png", (32, 32)).read_bytes())}
    answer = client.post("/v1/jobs/from-images", files=files, headers=once)
    assert problem(answer) == (422, "key-reused")


def test_jobs_are_listed_by_pages_and_can_be_deleted(
    client: httpx2.Client, photo: Photo, finished: Finished
) -> None:
    names = [send(client, photo(f"{number}.png"))["job"] for number in range(3)]
    for name in names:
        finished(name)
    first = client.get("/v1/jobs", params={"limit": 2}).json()
    assert {job["job"] for job in first["jobs"]} <= {*names} | {first["next"]}
    second = client.get("/v1/jobs", params={"limit": 2, "after": first["next"]}).json()
    seen = [job["job"] for page in (first, second) for job in page["jobs"]]
    assert set(seen[:3]) == set(names)
    assert client.delete(f"/v1/jobs/{names[0]}").status_code == 204
    assert problem(client.get(f"/v1/jobs/{names[0]}")) == (404, "unknown-job")
    assert problem(client.get("/v1/jobs", params={"after": names[0]})) == (404, "unknown-job")


def test_what_a_jobs_state_does_not_allow_is_a_conflict(
    client: httpx2.Client, photo: Photo, finished: Finished
) -> None:
    job = send(client, photo("a.png"))["job"]
    finished(job)
    assert problem(client.post(f"/v1/jobs/{job}/cancel")) == (409, "conflict")
    assert client.post(f"/v1/jobs/{job}/retry").json()["state"] == "finished"


def test_an_image_that_fails_is_named_with_its_reason_and_can_be_tried_again(
    client: httpx2.Client, photo: Photo, finished: Finished
) -> None:
    path = photo("damaged.png", (64, 64))
    data = bytearray(path.read_bytes())
    middle = data.index(b"IDAT") + 20
    data[middle : middle + 8] = bytes(8)
    path.write_bytes(data)  # its header and its end are whole
    job = send(client, path, photo("whole.png"))["job"]
    for _ in range(2):
        summary = finished(job)
        assert (summary["done"], summary["failed"], summary["errors"]) == (1, 1, {"E_TRUNCATED": 1})
        item = client.get(f"/v1/jobs/{job}/items/0").json()
        assert (item["state"], item["code"], item["attempts"]) == ("failed", "E_TRUNCATED", 1)
        assert problem(client.get(f"/v1/jobs/{job}/items/0/result")) == (404, "E_MISSING")
        assert client.post(f"/v1/jobs/{job}/retry").json()["failed"] == 0


def test_what_is_not_there_is_a_problem(client: httpx2.Client, photo: Photo) -> None:
    job = send(client, photo("a.png"))["job"]
    for path, code in (
        ("/v1/jobs/unknown", "unknown-job"),
        ("/v1/jobs/%2e%2e%2fetc", "not-found"),
        ("/v1/jobs/a%20b", "unknown-job"),
        (f"/v1/jobs/{job}/items/7", "unknown-item"),
        (f"/v1/jobs/{job}/items/7/result", "unknown-item"),
        ("/nothing", "not-found"),
        ("/page/../app.py", "not-found"),
    ):
        assert problem(client.get(path)) == (404, code), path


def test_events_end_with_the_books_of_the_end(client: httpx2.Client, photo: Photo) -> None:
    job = send(client, photo("a.png"), photo("b.png"))["job"]
    with client.stream("GET", f"/v1/jobs/{job}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in stream.iter_lines() if line]
    assert lines[-2] == "event: end"
    summary = json.loads(lines[-1].removeprefix("data: "))
    assert (summary["state"], summary["done"]) == ("finished", 2)


def test_a_queue_above_its_mark_refuses_more_for_a_while(service: Service, photo: Photo) -> None:
    with (
        service.another(BGPIPE_SERVE__QUEUE_MARK="1") as small,
        small.client() as client,
        connect(service.redis_url) as redis,
    ):
        redis.hset(keys.UNACKED, "a message of the test", "in flight")
        try:
            answer = client.post("/v1/uploads")
        finally:
            redis.hdel(keys.UNACKED, "a message of the test")
        assert problem(answer) == (429, "queue-full")
        assert int(answer.headers["retry-after"]) > 0


def test_an_allowed_source_is_listed_and_its_end_is_posted(
    service: Service, photo: Photo, tmp_path: Path, hooks: Hooks
) -> None:
    photo("a.png")
    photo("b.png")
    with (
        service.another(
            BGPIPE_SERVE__SOURCES=json.dumps([str(tmp_path)]),
            BGPIPE_SERVE__WEBHOOK_HOSTS='["127.0.0.1"]',
            BGPIPE_SERVE__WEBHOOK_SECRET="hush",
        ) as open_server,
        open_server.client() as client,
    ):
        body = {"source": str(tmp_path), "on_finish": hooks.url}
        answer = client.post("/v1/jobs", json=body)
        assert answer.status_code == 201, answer.text
        beside = client.post("/v1/jobs", json={"source": f"{tmp_path}/../.."})
        assert problem(beside) == (403, "source-not-allowed")
        headers, reported = hooks.wait()
    assert (reported["state"], reported["total"], reported["done"]) == ("finished", 2, 2)
    assert headers["webhook-id"] == answer.json()["job"]
    assert reported["job"] == answer.json()["job"]
    # Any server knows the job, also once the one that took it has gone.
    with service.client() as client:
        assert client.get(f"/v1/jobs/{reported['job']}").json()["done"] == 2


class Hooks:
    """A receiver of webhooks on the loopback."""

    def __init__(self) -> None:
        self.bodies: list[tuple[dict[str, str], dict[str, Any]]] = []
        hooks = self

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hooks.bodies.append((dict(self.headers), json.loads(body)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *words: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        self.url = f"http://127.0.0.1:{self.server.server_port}/finished"

    def wait(self) -> tuple[dict[str, str], dict[str, Any]]:
        deadline = time.monotonic() + 2 * SECONDS
        while not self.bodies:
            assert time.monotonic() < deadline, "no webhook arrived"
            time.sleep(0.05)
        return self.bodies[0]


@pytest.fixture
def hooks() -> Any:
    receiver = Hooks()
    thread = threading.Thread(target=receiver.server.serve_forever)
    thread.start()
    yield receiver
    receiver.server.shutdown()
    thread.join()
    receiver.server.server_close()


def test_a_job_makes_named_outputs_of_each_image(service: Service, photo: Photo) -> None:
    named = {"web": {"format": "webp", "size": "48x48"}, "mask": {"format": "mask"}}
    with (
        service.another(BGPIPE_OUTPUTS=json.dumps(named)) as other,
        other.client() as client,
    ):
        assert client.get("/v1/options").json()["outputs"] == ["web", "mask"]
        unknown = {"files": ("a.jpg", photo("a.jpg").read_bytes())}
        answer = client.post("/v1/jobs/from-images", files=unknown, data={"outputs": "poster"})
        assert problem(answer) == (422, "invalid-request"), answer.text
        assert "unknown output: poster" in answer.json()["detail"], answer.text
        job = send(client, photo("a.jpg"), photo("b.jpg"), outputs=["web", "mask"])["job"]
        while (body := client.get(f"/v1/jobs/{job}").json())["state"] != "finished":
            time.sleep(0.1)
        every = {"done": 2, "skipped": 0, "failed": 0}
        assert body["outputs"] == {"web": every, "mask": every}
        item = client.get(f"/v1/jobs/{job}/items/1").json()
        assert item["outputs"] == {"web": "b-web.webp", "mask": "b-mask.png"}
        assert item["target"] == "b-web.webp"
        url = f"/v1/jobs/{job}/items/1"
        forms = {"": ("WEBP", (48, 32)), "web": ("WEBP", (48, 32)), "mask": ("PNG", (96, 64))}
        for output, form in forms.items():
            image = Image.open(io.BytesIO(client.get(f"{url}/result?output={output}").content))
            assert (image.format, image.size) == form
        small = client.get(f"{url}/preview?output=mask&side=16").content
        assert Image.open(io.BytesIO(small)).size == (16, 11)
        assert problem(client.get(f"{url}/result?output=poster")) == (404, "unknown-item")
        archive = zipfile.ZipFile(io.BytesIO(client.get(f"/v1/jobs/{job}/results.zip").content))
        assert archive.namelist() == ["a-web.webp", "a-mask.png", "b-web.webp", "b-mask.png"]
