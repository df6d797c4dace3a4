"""Bodies that are too large or too slow: refused before they are parsed, and nothing else suffers."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from ...support.http_service import Service

NESTED = b"[" + b"[]," * 20_000_000
"""JSON of which a parser makes gigabytes of lists, for a minute."""
JSON = {"Content-Type": "application/json"}
Photo = Callable[..., Path]


@pytest.fixture(scope="module")
def impatient(service: Service) -> Iterator[Service]:
    with service.another(BGPIPE_SERVE__CLIENT_TIMEOUT="1") as server:
        yield server


@pytest.mark.parametrize(
    ("path", "maximum"),
    [
        ("/v1/session", 1 << 16),
        ("/v1/jobs", 1 << 18),
        ("/v1/jobs/from-images", 1 << 16),
        ("/upload/image", 1 << 16),
        ("/queue", 1 << 16),
        ("/prompt", 1 << 20),
        ("/api/prompt", 1 << 20),
    ],
)
@pytest.mark.parametrize("declared", [True, False], ids=["with a length", "in chunks"])
def test_a_body_over_its_route_s_limit_is_refused_and_not_parsed(
    client: httpx2.Client, path: str, maximum: int, declared: bool
) -> None:
    kind = JSON
    if path in {"/v1/jobs/from-images", "/upload/image"}:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}

    def chunks(size: int) -> Iterator[bytes]:
        for start in range(0, size, 1 << 16):
            yield NESTED[start : min(start + (1 << 16), size)]

    for size in (maximum + 1, len(NESTED)) if declared else (maximum + 1,):
        content = NESTED[:size] if declared else chunks(size)
        try:
            answer = client.post(path, content=content, headers=kind)
        except (httpx2.WriteError, httpx2.ReadError):  # closed while the client still sends
            continue
        assert answer.status_code == 413, (size, answer.text)
        assert "E_TOO_LARGE" in answer.text
    allowed = client.post(path, content=NESTED[:maximum], headers=kind)
    assert allowed.status_code in {400, 422}, allowed.text


def test_the_server_answers_while_it_refuses_giant_bodies(service: Service) -> None:
    waits: list[float] = []

    def send() -> None:
        with service.client() as client:
            for _ in range(3):
                with suppress(httpx2.TransportError):
                    client.post("/v1/session", content=NESTED, headers=JSON)

    senders = [threading.Thread(target=send) for _ in range(4)]
    with service.client() as client:
        for sender in senders:
            sender.start()
        while any(sender.is_alive() for sender in senders):
            began = time.monotonic()
            assert client.get("/healthz").status_code == 200
            waits.append(time.monotonic() - began)
            time.sleep(0.05)
    assert max(waits) < 5, waits


def test_photos_in_base64_from_many_clients_at_once_take_little_memory(service: Service) -> None:
    """They all wait before the last byte; the server's end checks its memory."""
    everyone = threading.Barrier(16)

    def body() -> Iterator[bytes]:
        yield b'{"image_file_b64": "'
        yield from [b"A" * (1 << 20)] * 24
        everyone.wait(60)
        yield b'"}'

    def send(server: Service) -> int:
        with server.client() as client:
            return client.post("/v1.0/removebg", content=body(), headers=JSON).status_code

    with service.another() as server, ThreadPoolExecutor(everyone.parties) as threads:
        assert set(threads.map(send, [server] * everyone.parties)) == {400}


def test_json_of_very_many_parts_is_refused_before_it_is_parsed(client: httpx2.Client) -> None:
    answer = client.post("/prompt", content=NESTED[: 1 << 20], headers=JSON)
    assert (answer.status_code, "lists and objects" in answer.text) == (400, True), answer.text


def test_a_form_has_a_limit_for_what_is_not_an_image(client: httpx2.Client, photo: Photo) -> None:
    file = {"files": ("a.png", photo("a.png").read_bytes())}
    for fields in ({"preset": "x" * 70_000}, {f"field{n}": "x" for n in range(101)}):
        answer = client.post("/v1/jobs/from-images", files=file, data=fields)
        assert answer.status_code == 400, answer.text


def closed_after(server: Service, *parts: bytes) -> tuple[float, bytes]:
    """Send the parts, one every 0.2 seconds; return when the server closed, and what it had sent."""
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    began, answer = time.monotonic(), b""
    with socket.create_connection((host, int(port))) as connection:
        connection.settimeout(0.2)
        remaining = list(parts)
        while time.monotonic() - began < 20:
            try:
                if remaining:
                    connection.sendall(remaining.pop(0))
                if not (received := connection.recv(65536)):
                    break
                answer += received
            except TimeoutError:
                continue
            except OSError:
                break
    return time.monotonic() - began, answer


POST = b"POST /v1/uploads/abc/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000\r\n"
FORM = b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
IMAGE = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([], b""),
        ([b"GET / HTTP/1.1\r\n", *([b"X: y\r\n"] * 90)], b""),
        ([POST + FORM, *([bytes((byte,)) for byte in IMAGE])], b"408"),
        ([b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", *([b"G"] * 90)], b"200"),
    ],
    ids=["silence", "headers", "body", "next request"],
)
def test_a_client_that_sends_too_slowly_is_cut_off(
    impatient: Service, parts: list[bytes], status: bytes
) -> None:
    seconds, answer = closed_after(impatient, *parts)
    assert seconds < 12
    assert answer.split(b" ")[1:2] == ([status] if status else [])


def test_a_slow_client_that_keeps_to_the_rules_is_served(impatient: Service, photo: Photo) -> None:
    data = photo("slow.png").read_bytes()
    body = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + data
    body += b"\r\n--b--\r\n"

    def slowly() -> Iterator[bytes]:
        yield body[:40]
        time.sleep(0.5)
        yield body[40:]

    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    with impatient.client() as client:
        answer = client.post("/v1/jobs/from-images", content=slowly(), headers=kind)
        assert answer.status_code == 201, answer.text
        # Its events last longer than a request's headers may take.
        with client.stream("GET", f"/v1/jobs/{answer.json()['job']}/events") as events:
            assert "event: end" in "".join(events.iter_text())


def test_an_image_for_a_prompt_is_refused_while_it_arrives(service: Service) -> None:
    head = (
        b"POST /upload/image HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n" + FORM
    )
    chunk = b"%x\r\n%s\r\n"
    limits = {"BGPIPE_IMAGES__MAX_BYTES": "100000", "BGPIPE_SERVE__CLIENT_TIMEOUT": "2"}
    with service.another(**limits) as small:
        parts = head + chunk % (len(IMAGE), IMAGE), *([chunk % (1 << 16, bytes(1 << 16))] * 3)
        _, answer = closed_after(small, *parts)
    assert answer.startswith(b"HTTP/1.1 413"), answer
    assert b"E_TOO_LARGE" in answer
