"""Jobs over HTTP, from the upload to the cutout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

Photo = Callable[..., Path]
Finished = Callable[[str], dict[str, Any]]


def test_an_uploaded_image_becomes_a_cutout(
    client: httpx2.Client, photo: Photo, finished: Finished
) -> None:
    files = [("files", (name, photo(name).read_bytes())) for name in ("a cup.jpg", "b.png")]
    answer = client.post("/v1/jobs/from-images", files=files)
    assert answer.status_code == 201, answer.text
    books = finished(answer.json()["job"])
    assert (books["state"], books["total"], books["done"]) == ("finished", 2, 2)


def test_an_unknown_job_is_a_problem(client: httpx2.Client) -> None:
    answer = client.get("/v1/jobs/nobody")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert answer.json()["code"] == "unknown-job"
