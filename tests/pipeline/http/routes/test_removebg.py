"""The synchronous route: parameters, errors and headers of remove.bg's API, and its clients."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.http.api_keys import ApiKeys

from ....support.http_service import SECONDS, Service
from ....support.programs import require_packages, require_program

Photo = Callable[..., Path]
PATH = "/v1.0/removebg"
SIZE = (960, 640)


@pytest.fixture
def data(photo: Photo) -> bytes:
    return photo("cup.jpg", SIZE).read_bytes()


@pytest.fixture
def remove(client: httpx2.Client, data: bytes) -> Callable[..., httpx2.Response]:
    """`remove(size="full", ...)`: the response for a photo with these parameters."""

    def post(**parameters: object) -> httpx2.Response:
        files = {"image_file": ("cup.jpg", data)}
        return client.post(PATH, files=files, data=parameters, timeout=2 * SECONDS)

    return post


def image_of(response: httpx2.Response) -> Image.Image:
    assert response.status_code == 200, response.text
    image = Image.open(io.BytesIO(response.content))
    sides = response.headers["x-width"], response.headers["x-height"]
    assert image.size == tuple(map(int, sides))
    return image


def errors_of(response: httpx2.Response) -> tuple[int, list[dict[str, str]]]:
    assert response.headers["content-type"] == "application/json"
    return response.status_code, response.json()["errors"]


def test_a_preview_is_the_default_and_nothing_is_kept(
    service: Service, remove: Callable[..., httpx2.Response]
) -> None:
    def files() -> set[Path]:
        return {path for path in (service.home / "uploads").rglob("*") if path.is_file()}

    with connect(service.redis_url) as redis:
        kept = redis.zcard(keys.FOLDERS)
    before = files()
    response = remove()
    image = image_of(response)
    assert (image.format, image.mode) == ("PNG", "RGBA")
    assert 240_000 < image.width * image.height <= 250_000
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-type"] == "other"
    assert int(response.headers["x-ratelimit-limit"]) > int(
        response.headers["x-ratelimit-remaining"]
    )
    # The bright rectangle in the middle of the photo, in its own pixels.
    names = ("left", "top", "width", "height")
    found = [int(response.headers[f"x-foreground-{name}"]) for name in names]
    assert all(
        abs(at - expected) < 60 for at, expected in zip(found, (240, 160, 480, 320), strict=True)
    )
    assert files() == before
    with connect(service.redis_url) as redis:
        assert redis.zcard(keys.FOLDERS) == kept


def test_what_can_be_honored_is_honored(remove: Callable[..., httpx2.Response]) -> None:
    full = image_of(remove(size="full", type="product", semitransparency="false"))
    assert full.size == SIZE
    mask = image_of(remove(size="full", channels="alpha"))
    assert (mask.mode, mask.size) == ("L", SIZE)
    cropped = image_of(remove(size="auto", crop="true", crop_margin="10px"))
    assert cropped.width < SIZE[0] * 0.7
    white = remove(bg_color="fff", roi="0% 0% 50% 100%", format="auto")
    assert white.headers["content-type"] == "image/jpeg"
    assert image_of(white).getpixel((5, 5)) == (255, 255, 255)
    placed = image_of(remove(scale="40%", position="0% 100%", size="full"))
    left, _, _, bottom = placed.getchannel("A").point(lambda alpha: 255 * (alpha > 128)).getbbox()
    assert (left < 8, bottom > SIZE[1] - 8) == (True, True)
    archive = remove(format="zip")
    assert archive.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(archive.content)) as members:
        assert members.namelist() == ["color.jpg", "alpha.png"]


def test_a_background_image_and_base64_in_json(client: httpx2.Client, data: bytes) -> None:
    backdrop = io.BytesIO()
    Image.new("RGB", (50, 50), "lime").save(backdrop, "PNG")
    files = {"image_file": ("a.jpg", data), "bg_image_file": ("b.png", backdrop.getvalue())}
    image = image_of(client.post(PATH, files=files, data={"format": "png"}, timeout=2 * SECONDS))
    assert (image.mode, image.getpixel((3, 3))) == ("RGB", (0, 255, 0))
    body = {"image_file_b64": base64.b64encode(data).decode(), "size": "full", "bg_color": ""}
    accept = {"Accept": "application/json"}
    answer = client.post(PATH, json=body, headers=accept, timeout=2 * SECONDS)
    assert answer.status_code == 200, answer.text
    result = answer.json()["data"]
    with Image.open(io.BytesIO(base64.b64decode(result["result_b64"]))) as cutout:
        assert (cutout.mode, cutout.size) == ("RGBA", SIZE)
    assert result["foreground_width"] == int(answer.headers["x-foreground-width"])


@pytest.mark.parametrize(
    ("parameters", "code", "word"),
    [
        ({"size": "huge"}, "invalid_parameter", "size"),
        ({"shadow_type": "3D"}, "invalid_parameter", "shadow_type"),
        ({"add_shadow": "true"}, "invalid_parameter", "add_shadow"),
        ({"image_url": "https://example.com/a.jpg"}, "invalid_parameter", "image_url"),
        ({"bg_color": "81d4fa77"}, "invalid_parameter", "opaque"),
        ({"bg_color": "no color"}, "invalid_parameter", "bg_color"),
        ({"roi": "0 0 10"}, "invalid_parameter", "roi"),
        ({"scale": "ten"}, "invalid_parameter", "scale"),
        ({"position": "left"}, "invalid_parameter", "position"),
        ({"image_file_b64": "AAAA"}, "missing_source", "either"),
        ({"roi": "0 0 1px 1px"}, "unknown_foreground", "foreground"),
    ],
)
def test_the_rest_is_an_error_400(
    remove: Callable[..., httpx2.Response], parameters: dict[str, str], code: str, word: str
) -> None:
    status, errors = errors_of(remove(**parameters))
    assert (status, errors[0]["code"]) == (400, code)
    assert word in errors[0]["title"]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"[" + b"[]," * 300_000, "flat"),
        (b"{}", "either"),
        (b'{"image_file_b64": "!"}', "image_file_b64"),
    ],
)
def test_a_body_that_is_no_flat_object_is_an_error_400(
    client: httpx2.Client, content: bytes, word: str
) -> None:
    kind = {"Content-Type": "application/json"}
    status, errors = errors_of(client.post(PATH, content=content, headers=kind))
    assert (status, word in errors[0]["title"]) == (400, True), errors


def test_files_that_are_no_images_and_too_large_ones(client: httpx2.Client) -> None:
    answer = client.post(PATH, files={"image_file": ("a.jpg", b"no image")})
    assert errors_of(answer)[0] == 400
    assert errors_of(answer)[1][0]["code"] == "e_not_image"
    kind = {"Content-Type": "application/json"}
    large = client.post(PATH, content=b"0" * ((1 << 25) + 1), headers=kind)
    assert (errors_of(large)[0], errors_of(large)[1][0]["code"]) == (400, "file_too_large")


def test_a_wrong_key_and_too_many_requests_have_its_codes(
    guarded: Service, keyed: httpx2.Client
) -> None:
    with guarded.another(BGPIPE_SERVE__REQUESTS_PER_MINUTE="2") as small, small.client() as client:
        answer = client.post(PATH, headers={"X-Api-Key": "bgp_wrong"})
        assert (errors_of(answer)[0], errors_of(answer)[1][0]["code"]) == (403, "auth_failed")
        key = {"X-Api-Key": keyed.headers["authorization"].removeprefix("Bearer ")}
        answers = [client.post(PATH, headers=key) for _ in range(6)]  # in two minutes, if unlucky
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert errors_of(refused)[1][0]["code"] == "rate_limit_exceeded"
        assert refused.headers["x-ratelimit-remaining"] == "0"
        assert int(refused.headers["retry-after"]) > 0


@pytest.fixture
def api_key(service: Service) -> Iterator[str]:
    """A key, which is gone for the other tests."""
    with connect(service.redis_url) as redis:
        yield ApiKeys(redis).add("sdk")
        ApiKeys(redis).revoke("sdk")


NODE = """
const fs = require("fs");
const [folder, url, apiKey, photo, out] = process.argv.slice(2);
const sdk = `${folder}/node_modules/remove.bg/dist/`;
const code = fs.readFileSync(sdk + "index.js", "utf8");
fs.writeFileSync(sdk + "here.js", code.replace("https://api.remove.bg", url));
const { removeBackgroundFromImageFile, removeBackgroundFromImageBase64 } = require(sdk + "here.js");
const base64img = fs.readFileSync(photo, "base64");
(async () => {
  const options = { apiKey, size: "full", crop: true, outputFile: out };
  const file = await removeBackgroundFromImageFile({ path: photo, ...options });
  const text = await removeBackgroundFromImageBase64({ base64img, apiKey, scale: "50%" });
  const wrong = await removeBackgroundFromImageFile({ path: photo, apiKey, size: "huge" })
    .catch((errors) => errors);
  console.log(JSON.stringify({ file, text, wrong }));
})().catch((errors) => {
  console.error(JSON.stringify(errors));
  process.exit(1);
});
"""


@pytest.mark.slow
def test_remove_bg_of_npm_works_when_pointed_here(
    service: Service, api_key: str, photo: Photo, tmp_path: Path
) -> None:
    require_program("npm")
    install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "remove.bg@1.3.0"]
    subprocess.run(install, cwd=tmp_path, check=True, capture_output=True, timeout=5 * SECONDS)
    source, out = photo("cup.jpg", SIZE), tmp_path / "out.png"
    done = subprocess.run(
        ["node", "-", str(tmp_path), service.url, api_key, str(source), str(out)],
        input=NODE,
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(done.stdout)
    with Image.open(out) as cutout:
        assert (cutout.mode, str(cutout.width)) == ("RGBA", results["file"]["resultWidth"])
    assert results["file"]["detectedType"] == "other"
    assert int(results["text"]["rateLimitRemaining"]) > 0
    assert results["wrong"][0]["code"] == "invalid_parameter"


PYTHON = """
import base64, sys
from removebg import removebg

removebg.API_ENDPOINT, key, photo, out = sys.argv[1:]
sdk = removebg.RemoveBg(key, "/dev/null")
sdk.remove_background_from_img_file(photo, size="full", bg_color="white")
with open(photo, "rb") as file:
    data = base64.b64encode(file.read()).decode()
sdk.remove_background_from_base64_img(data, new_file_name=out)
"""


@pytest.mark.slow
def test_removebg_of_pypi_works_when_pointed_here(
    service: Service, api_key: str, photo: Photo, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    plain = "--no-deps", "--no-build-isolation"
    sdk = require_packages(request.config, "removebg", *plain, "removebg==0.4")
    source, out = photo("cup.jpg", SIZE), tmp_path / "b64.png"
    done = subprocess.run(
        [sys.executable, "-", service.url + PATH, api_key, str(source), str(out)],
        input=PYTHON,
        env=os.environ | {"PYTHONPATH": str(sdk)},
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with Image.open(f"{source}_no_bg.png") as cutout:
        assert (cutout.format, cutout.size) == ("JPEG", SIZE)
    with Image.open(out) as cutout:
        assert cutout.mode == "RGBA"
