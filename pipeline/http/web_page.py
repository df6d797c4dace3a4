"""The web page: files of this package, nothing from anywhere else."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import Response

from bgpipe.pipeline.http.problems import Problem

router = APIRouter(include_in_schema=False)

PARTS = ("index.html", "page.css", "api.js", "page.js", "sending.js", "viewer.js", "icon.svg")
SHEET = "sheet.css"
"""The contact sheet's style, which is the page's too."""
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@router.get("/")
def show_page() -> Response:
    return _static_file("index.html")


@router.get("/page/{name}")
def show_part(name: Annotated[str, Path(max_length=40)]) -> Response:
    return _static_file(name)


def _static_file(name: str) -> Response:
    if name == SHEET:
        file = files("bgpipe.pipeline.report").joinpath(SHEET)
    elif name in PARTS:
        file = files("bgpipe.pipeline.http.page").joinpath(name)
    else:
        raise Problem(404, "not-found", f"no part of the page: {name}")
    kind = TYPES[name[name.rindex(".") :]]
    return Response(file.read_bytes(), media_type=kind, headers={"Cache-Control": "no-cache"})
