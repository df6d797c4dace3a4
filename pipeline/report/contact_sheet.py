"""A job at a glance: one HTML page that carries its pictures in itself."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from bgpipe.pipeline.types import Books, Failure

THUMBNAIL = 240
"""Pixels of a thumbnail's longer side."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #222; background: #fafafa; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(310px, 1fr)); gap: 1rem; }
figure { margin: 0; padding: .6rem; background: #fff; border: 1px solid #ddd; border-radius: 6px; }
figure div { display: flex; gap: .4rem; }
img { width: 50%; height: 180px; object-fit: contain; }
figcaption { overflow-wrap: anywhere; font-size: 13px; color: #555; }
label { margin-right: 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { text-align: left; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #ddd; }
.cutout { background: repeating-conic-gradient(#ccc 0 25%, #fff 0 50%) 0 0 / 16px 16px; }
#white:checked ~ main .cutout { background: #fff; }
#black:checked ~ main .cutout { background: #000; }
#green:checked ~ main .cutout { background: #0a0; }
"""

GROUNDS = ("checks", "white", "black", "green")


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One image on the sheet; both pictures are WebP files."""

    source: str
    before: bytes
    after: bytes


def contact_sheet(books: Books, exhibits: Iterable[Exhibit], failures: Iterable[Failure]) -> str:
    """The page as HTML: cutouts over a ground that the reader chooses, then what failed."""
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{escape(books.job)}</title>',
            f"<style>{STYLE}</style></head><body>",
            f"<h1>{escape(books.job)}</h1>",
            f"<p>{_sentence(books)}</p>",
            *(_choice(ground) for ground in GROUNDS),
            "<main>",
            *(_figure(exhibit) for exhibit in exhibits),
            "</main>",
            *_failures(failures),
            "</body></html>",
        ]
    )


def _sentence(books: Books) -> str:
    return (
        f"{books.total} images: {books.done} done, {books.skipped} up to date, "
        f"{books.failed} failed. Model: {escape(books.model)}. Cutouts: {escape(books.out)}"
    )


def _choice(ground: str) -> str:
    checked = " checked" if ground == GROUNDS[0] else ""
    return (
        f'<input type="radio" name="ground" id="{ground}"{checked}>'
        f'<label for="{ground}">{ground}</label>'
    )


def _figure(exhibit: Exhibit) -> str:
    name = escape(exhibit.source)
    return (
        f'<figure><div><img src="{_inline(exhibit.before)}" alt="{name}">'
        f'<img class="cutout" src="{_inline(exhibit.after)}" alt="cutout of {name}"></div>'
        f"<figcaption>{name}</figcaption></figure>"
    )


def _failures(failures: Iterable[Failure]) -> Iterable[str]:
    rows = [
        f"<tr><td>{escape(failure.code)}</td><td>{escape(failure.source)}</td>"
        f"<td>{escape(failure.detail)}</td></tr>"
        for failure in failures
    ]
    if rows:
        yield "<h2>Failed</h2><table><tr><th>code</th><th>image</th><th>reason</th></tr>"
        yield from rows
        yield "</table>"


def _inline(webp: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"
