"""Uploads that mean no good: each is refused with the code that says why, and leaves nothing."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import httpx2
import pytest
from PIL import Image

from ...support.http_service import Service


def png(size: tuple[int, int] = (32, 32)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "orange").save(file, "PNG")
    return file.getvalue()


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((200, 200), 80).convert("RGB").save(file, "JPEG")
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of a few hundred bytes whose header promises 3.6 gigapixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    data = zlib.compress(b"\0" * 100_000)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


REFUSED = {
    "bomb": ("a.png", bomb(), 413, "E_TOO_LARGE"),
    "no bytes": ("a.png", b"", 422, "E_EMPTY"),
    "text": ("a.png", b"<html><script>alert(1)</script>", 415, "E_NOT_IMAGE"),
    "svg": ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "E_UNSUPPORTED"),
    "pdf called png": ("a.png", b"%PDF-1.7\n" + b"\0" * 100, 415, "E_UNSUPPORTED"),
    "png cut short": ("a.png", png((300, 300))[:-40], 422, "E_TRUNCATED"),
    "jpeg cut short": ("a.jpg", jpeg()[:4000], 422, "E_TRUNCATED"),
    "steps up": ("../../a.png", png(), 422, "E_TARGET"),
    "steps up by backslash": ("..\\..\\a.png", png(), 422, "E_TARGET"),
    "steps up in the middle": ("a/../../b.png", png(), 422, "E_TARGET"),
    "absolute": ("/etc/cron.d/a.png", png(), 422, "E_TARGET"),
    "hidden": (".ssh/a.png", png(), 422, "E_TARGET"),
    "our own folder": (".bgpipe/a.png", png(), 422, "E_TARGET"),
    "control characters": ("a\x1b[31m.png", png(), 422, "E_TARGET"),
    "long": ("a" * 300 + ".png", png(), 422, "E_TARGET"),
    "deep": ("a/" * 400 + "b.png", png(), 422, "E_TARGET"),
}


def files_in(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", REFUSED)
def test_a_hostile_upload_is_refused_with_its_code_and_leaves_nothing(
    service: Service, client: httpx2.Client, case: str
) -> None:
    name, data, status, code = REFUSED[case]
    upload = client.post("/v1/uploads").json()["upload"]
    before = files_in(service.home / "uploads")
    answer = client.post(f"/v1/uploads/{upload}/files", files={"files": (name, data)})
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    answer = client.post("/v1/jobs/from-images", files={"files": (name, data)})
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert files_in(service.home / "uploads") == before


def test_a_request_that_is_too_large_or_has_too_many_files_is_refused(service: Service) -> None:
    limits = {"BGPIPE_SERVE__REQUEST_BYTES": "20000", "BGPIPE_SERVE__FILES": "2"}
    with service.another(**limits) as small, small.client() as client:
        large = {"files": ("a.png", png() + b"\0" * 30_000)}
        answer = client.post("/v1/jobs/from-images", files=large)
        assert (answer.status_code, answer.json()["code"]) == (413, "E_TOO_LARGE")

        def endless():  # without a length, in chunks
            yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
            for _ in range(100):
                yield b"\0" * 1000

        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        answer = client.post("/v1/jobs/from-images", content=endless(), headers=kind)
        assert (answer.status_code, answer.json()["code"]) == (413, "E_TOO_LARGE")
        many = [("files", (f"{number}.png", png())) for number in range(3)]
        answer = client.post("/v1/jobs/from-images", files=many)
        assert (answer.status_code, answer.json()["code"]) == (413, "too-many-files")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not a form",
        b"--b\r\n\r\n",
        b'--b\r\nContent-Disposition: form-data; name="files"\r\n',
    ],
)
def test_a_broken_form_is_a_problem(client: httpx2.Client, body: bytes) -> None:
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = client.post("/v1/jobs/from-images", content=body, headers=kind)
    assert answer.status_code in {400, 422}, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
