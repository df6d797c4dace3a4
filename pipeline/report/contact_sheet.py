"""A job at a glance: an HTML page that carries its pictures, styles and script in itself.

It asks nobody for anything: its Content-Security-Policy names the two inline parts by their hash
and allows no other source than the page. Every text in it is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from itertools import islice
from urllib.parse import quote

from bgpipe.pipeline.types import Failure, JobSummary, Recipe, ReviewFlag

THUMBNAIL = 320
"""Pixels of a thumbnail's longer side."""
FAILURES = 2000
"""Failures that a page names; `bgpipe errors` names all."""

VIEWS = {"cutout": "cutout", "split": "before / after", "mask": "mask", "source": "source"}
GROUNDS = ("checks", "white", "grey", "black", "green")
KEYS = {
    "← → ↑ ↓": "walk through the images",
    "Enter": "look at one, Esc to go back",
    "v": "next view",
    "b": "before / after",
    "m": "mask",
    "g": "next ground",
    "f": "next flag",
    "/": "search for a name",
}


@dataclass(frozen=True, slots=True)
class SheetImage:
    """One image on the sheet; both pictures are WebP files."""

    source: str
    before: bytes
    after: bytes
    flags: tuple[ReviewFlag, ...] = ()


@dataclass(frozen=True, slots=True)
class SheetPage:
    """One of the sheet's pages; `names` are the files of all of them, side by side in a folder."""

    number: int
    names: Sequence[str]


def contact_sheet(
    summary: JobSummary,
    recipe: Recipe,
    exhibits: Sequence[SheetImage],
    failures: Iterable[Failure],
    page: SheetPage,
) -> Iterator[str]:
    """The page as lines of HTML: the books, the cutouts, and what failed."""
    style, script = read_style(), _read_asset("sheet.js")
    yield "<!doctype html>"
    yield f'<html lang="en"><head><meta charset="utf-8"><title>{escape(summary.job)}</title>'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_policy(style, script)}">'
    yield '<meta name="viewport" content="width=device-width">'
    yield f'<link rel="icon" href="data:,"><style>{style}</style></head>'
    yield '<body data-view="cutout" data-ground="checks" data-flag="all" data-code="all">'
    yield from _summary(summary, recipe)
    yield from _bar(exhibits)
    yield "<main>"
    yield from map(_figure, exhibits)
    yield "</main>"
    yield from _pages(page)
    yield from _failures(summary, list(islice(failures, FAILURES)))
    yield from _dialogs()
    yield f"<script>{script}</script></body></html>"


def read_style() -> str:
    """Return the sheet's CSS, which the web page uses too."""
    return _read_asset("sheet.css")


def format_duration(seconds: float) -> str:
    """Return the two largest units: `2 h 5 min`, `40 s`; tenths below ten seconds."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _read_asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src {_hash(style)}; script-src {_hash(script)}"
    )


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _summary(summary: JobSummary, recipe: Recipe) -> Iterator[str]:
    yield f'<header><h1>{escape(summary.job)}</h1><dl class="tiles">'
    yield from (
        f"<div><dt>{name}</dt><dd>{value}</dd></div>"
        for name, value in {
            "state": summary.state,
            "images": f"{summary.total:,}",
            "done": f"{summary.done:,}",
            "up to date": f"{summary.skipped:,}",
            "failed": f'<a href="#failures">{summary.failed:,}</a>' if summary.failed else "0",
            "flagged": f"{summary.flagged:,}",
            "time": format_duration(summary.seconds),
            "images a second": f"{summary.images_per_second:.2f}",
        }.items()
    )
    facts = {
        "from": summary.source,
        "to": summary.out,
        "model": f"{summary.model} ({recipe.weights[:12]})",
        "recipe": recipe.hash,
    }
    text = " · ".join(f"{name}: {escape(value)}" for name, value in facts.items())
    yield f'</dl><p class="facts">{text}</p></header>'


def _bar(exhibits: Sequence[SheetImage]) -> Iterator[str]:
    counts = Counter(flag for exhibit in exhibits for flag in exhibit.flags)
    flagged = sum(bool(exhibit.flags) for exhibit in exhibits)
    flags = {"all": "all", "any": f"flagged {flagged}"}
    flags |= {flag: f"{flag} {counts[flag]}" for flag in ReviewFlag if counts[flag]}
    yield '<div class="bar">'
    yield _choices("view", VIEWS)
    yield _choices("ground", {name: name for name in GROUNDS}, _COLOUR)
    yield _choices("flag", flags)
    yield '<input type="search" id="search" placeholder="name ( / )" aria-label="search for a name">'
    yield '<output id="count"></output><button type="button" data-opens="help">keys ( ? )</button>'
    yield "</div>"


_COLOUR = '<input type="color" id="colour" value="#ff00aa" aria-label="a colour of your own">'


def _choices(group: str, values: dict[str, str], more: str = "") -> str:
    buttons = "".join(
        f'<button type="button" data-{group}-choice="{escape(value)}">{escape(name)}</button>'
        for value, name in values.items()
    )
    return f"<fieldset><legend>{group}</legend>{buttons}{more}</fieldset>"


def _figure(exhibit: SheetImage) -> str:
    name = escape(exhibit.source)
    flags = "".join(f'<span class="flag">{flag}</span>' for flag in exhibit.flags)
    return (
        f'<figure tabindex="0" data-name="{name}" data-flags="{" ".join(exhibit.flags)}">'
        f"{_stage(exhibit)}<figcaption>{name} {flags}</figcaption></figure>"
    )


def _stage(exhibit: SheetImage | None) -> str:
    after, before = (_inline(exhibit.after), _inline(exhibit.before)) if exhibit else ("", "")
    return (
        f'<div class="stage"><img class="cutout" alt="" decoding="async"{after}>'
        f'<img class="source" alt="" decoding="async"{before}>'
        '<input type="range" aria-label="before and after" min="0" max="100" value="50"></div>'
    )


def _inline(webp: bytes) -> str:
    return f' src="data:image/webp;base64,{base64.b64encode(webp).decode()}"'


def _pages(page: SheetPage) -> Iterator[str]:
    if len(page.names) > 1:
        yield '<footer class="pages">'
        for number, name in enumerate(page.names, 1):
            current = ' aria-current="page"' if number == page.number else ""
            yield f'<a href="{escape(_reference(name))}"{current}>{number}</a>'
        yield "</footer>"


def _reference(name: str) -> str:
    """A file's name as a relative address; `./` keeps one with a colon from being a scheme."""
    return f"./{quote(name)}"


def _failures(summary: JobSummary, failures: Sequence[Failure]) -> Iterator[str]:
    if not failures:
        return
    codes = {"all": "all"} | {code: f"{code} {count}" for code, count in summary.errors.items()}
    yield f'<section id="failures"><h2>Failed</h2><div class="bar">{_choices("code", codes)}</div>'
    yield "<table><tr><th>code</th><th>image</th><th>reason</th></tr>"
    for failure in failures:
        cells = (failure.code, failure.source, failure.detail)
        row = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        yield f'<tr data-code="{escape(failure.code)}">{row}</tr>'
    yield "</table>"
    if summary.failed > len(failures):
        yield f"<p>All {summary.failed:,}: bgpipe errors {escape(summary.job)}</p>"
    yield "</section>"


def _dialogs() -> Iterator[str]:
    yield f'<dialog id="viewer" aria-label="one image">{_stage(None)}<footer>'
    yield '<button type="button" data-step="-1">←</button><p></p>'
    yield '<button type="button" data-step="1">→</button>'
    yield '<button type="button" data-close>close</button></footer></dialog>'
    yield '<dialog id="help" aria-label="keys"><table>'
    yield from (f"<tr><td><kbd>{key}</kbd></td><td>{what}</td></tr>" for key, what in KEYS.items())
    yield '</table><p><button type="button" data-close>close</button></p></dialog>'
