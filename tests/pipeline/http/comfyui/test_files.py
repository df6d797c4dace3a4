"""Settings and files that clients keep, and masks that they put on images."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Callable
from pathlib import Path

import httpx2
import numpy as np
import pytest
from PIL import Image

from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.http.api_keys import ApiKeys
from bgpipe.pipeline.http.comfyui.files import MAX_BYTES, MAX_FILES

from ....support.http_service import Service

Photo = Callable[..., Path]


def key_of_a_stranger(guarded: Service) -> str:
    with connect(guarded.redis_url) as redis:
        return ApiKeys(redis).add(f"u{uuid.uuid4().hex[:12]}")


def test_settings_are_kept_for_each_caller(guarded: Service) -> None:
    key, other = key_of_a_stranger(guarded), key_of_a_stranger(guarded)
    with guarded.client(key) as client:
        assert client.get("/settings").json() == {}
        assert client.get("/settings/a.b").json() is None
        assert client.post("/settings", json={"a.b": 1, "c": [True]}).status_code == 200
        assert client.post("/settings/a.b", json="x").status_code == 200
        assert client.get("/api/settings").json() == {"a.b": "x", "c": [True]}
        assert client.get("/settings/a.b").json() == "x"
        assert client.post("/settings", json=[1]).status_code == 400
        assert client.get("/users").json() == {"storage": "server", "migrated": True}
    with guarded.client(other) as client:
        assert client.get("/settings").json() == {}
    with guarded.client() as anonymous:
        for path in ("/settings", "/users", "/userdata?dir=x", "/userdata/x"):
            assert anonymous.get(path).status_code == 401, path


def test_files_are_written_listed_read_and_removed(guarded: Service) -> None:
    with guarded.client(key_of_a_stranger(guarded)) as client:
        path = "/userdata/workflows%2Fcup.json"
        assert client.get("/userdata", params={"dir": "workflows"}).status_code == 404
        assert client.post(path, content=b"{1}\n{2}").json() == "workflows/cup.json"
        assert client.post(path, content=b"", params={"overwrite": "false"}).status_code == 409
        deep = client.post("/userdata/workflows/a/b.json?full_info=true", content=b"x").json()
        assert (deep["path"], deep["size"]) == ("workflows/a/b.json", 1)
        assert client.get(path).content == b"{1}\n{2}"
        listed = {"dir": "workflows"}
        assert client.get("/userdata", params=listed).json() == ["cup.json"]
        listed |= {"recurse": "true", "split": "true"}
        parts = [["a/b.json", "a", "b.json"], ["cup.json", "cup.json"]]
        assert client.get("/userdata", params=listed).json() == parts
        assert client.delete(path).status_code == 204
        assert client.get(path).status_code == client.delete(path).status_code == 404


def test_files_have_a_size_a_number_and_a_safe_name(guarded: Service) -> None:
    with guarded.client(key_of_a_stranger(guarded)) as client:
        assert client.post("/userdata/big", content=b"x" * MAX_BYTES).status_code == 200
        assert client.post("/userdata/big", content=b"x" * (MAX_BYTES + 1)).status_code == 413
        for name in ("..%2Fx", "a%2F..%2F..%2Fx", ".hidden", "a%00b", "%2Fetc%2Fpasswd"):
            assert client.post(f"/userdata/{name}", content=b"x").status_code == 422, name
        for number in range(MAX_FILES - 1):
            assert client.post(f"/userdata/{number}", content=b"x").status_code == 200
        assert client.post("/userdata/more", content=b"x").status_code == 413
        assert client.post("/userdata/0", content=b"y").status_code == 200


def test_a_mask_becomes_the_alpha_of_the_image_that_it_names(
    client: httpx2.Client, photo: Photo
) -> None:
    path = photo(f"{uuid.uuid4().hex}.png", (40, 30))
    client.post("/upload/image", files={"image": (path.name, path.read_bytes())})
    painted = Image.new("RGBA", (40, 30), (9, 9, 9, 77))
    reference = {"filename": path.name, "type": "input", "subfolder": ""}
    answer = post_mask(client, painted, json.dumps(reference))
    assert answer.status_code == 200, answer.text
    assert sorted(answer.json()) == ["name", "subfolder", "type"]
    stored = client.get("/view", params={"filename": answer.json()["name"], "type": "input"})
    with Image.open(io.BytesIO(stored.content)) as image, Image.open(path) as original:
        assert np.array_equal(np.asarray(image)[..., :3], np.asarray(original))
        assert (np.asarray(image)[..., 3] == 77).all()
    wrong = Image.new("RGBA", (41, 30))
    assert post_mask(client, wrong, json.dumps(reference)).status_code == 415


@pytest.mark.parametrize(
    ("reference", "status"),
    [
        ("{", 400),
        ("[]", 400),
        ('{"filename": 3}', 400),
        ('{"filename": "x.png", "type": "etc"}', 400),
        ('{"filename": "never-made.png"}', 404),
        ('{"filename": "../x.png", "type": "input"}', 404),
    ],
)
def test_a_mask_for_anything_else_is_refused(
    client: httpx2.Client, reference: str, status: int
) -> None:
    answer = post_mask(client, Image.new("RGBA", (4, 3)), reference)
    assert (answer.status_code, "error" in answer.json()) == (status, True), answer.text


def post_mask(client: httpx2.Client, mask: Image.Image, reference: str) -> httpx2.Response:
    file = io.BytesIO()
    mask.save(file, "PNG")
    files = {"image": (f"{uuid.uuid4().hex}.png", file.getvalue())}
    return client.post("/upload/mask", files=files, data={"original_ref": reference})
