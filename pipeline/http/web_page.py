"""The web page: files of this package, nothing from anywhere else."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import Response

from bgpipe.pipeline.http.problems import Problem

router = APIRouter(include_in_schema=False)

FILES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""The parts of the page by name, and their types."""


@router.get("/")
def show_page() -> Response:
    return _file("index.html")


@router.get("/page/{name}")
def show_part(name: Annotated[str, Path(max_length=40)]) -> Response:
    return _file(name)


def _file(name: str) -> Response:
    if name not in FILES:
        raise Problem(404, "not-found", f"no part of the page: {name}")
    data = files("bgpipe.pipeline.http").joinpath("page", name).read_bytes()
    return Response(data, media_type=FILES[name], headers={"Cache-Control": "no-cache"})
