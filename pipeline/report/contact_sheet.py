"""A contact sheet: one self-contained HTML page with images, style and script.

It makes no requests: its Content-Security-Policy allows only the inline style and script, by hash.
All text is escaped.
"""

import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from importlib.resources import files
from itertools import islice
from urllib.parse import quote

from bgpipe.config.settings import ImageSettings
from bgpipe.pipeline.errors import ItemError
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.storage.factory import StoreFactory
from bgpipe.pipeline.types import Failure, Item, JobId, JobSummary, Recipe, ReviewFlag

THUMBNAIL = 320
"""Longer side of a thumbnail, in pixels."""
THREADS = 4
"""Each holds a decoded image; the codecs release the GIL."""
CHUNK = 64
"""Images loaded ahead of the page."""
FLAGGED_SCORE = 0.5
"""A good score excludes only some of the faults that raise a flag."""
FAILURES = 2000
"""Maximum number of failures on a page; `bgpipe errors` lists all."""

STYLES = ("theme.css", "sheet.css", "viewer.css")
MODULES = ("dom.js", "flags.js", "zoom.js", "viewer.js")
"""The viewer, which the web page shows too: each imports only those before it."""
VIEWS = {"cutout": "cutout", "split": "before / after", "mask": "mask", "source": "source"}
BACKGROUNDS = ("checks", "white", "grey", "black", "green")
KEYS = {
    "← → ↑ ↓": "move through the images",
    "Enter": "enlarge an image, Esc to go back",
    "v": "next view",
    "b": "before / after",
    "m": "mask",
    "g": "next background",
    "f": "next flag",
    "/": "search for a name",
}


@dataclass(frozen=True, slots=True)
class SheetImage:
    """One image on the sheet; `before` and `after` are WebP files."""

    source: str
    before: bytes
    after: bytes
    flags: tuple[ReviewFlag, ...] = ()
    score: float | None = None


def load_thumbnails(
    job_store: JobStore, stores: StoreFactory, job_id: JobId, settings: ImageSettings, maximum: int
) -> Iterator[SheetImage]:
    """Yield up to `maximum` images whose source and cutout are readable, the lowest score first.

    Flagged ones count as FLAGGED_SCORE at most, and ones without a score as good.
    """
    from bgpipe.pipeline.images.preview import render_thumbnail  # Pillow, which a page does without

    job, flags = job_store.job(job_id), job_store.items.flags(job_id)
    scores = dict(enumerate(job_store.items.scores(job_id)))
    source, target = stores.open(job.source), stores.open(job.out)
    limits = Limits.from_settings(settings)

    def load(item: Item) -> SheetImage | None:
        try:
            before = render_thumbnail(source.read(item.source, limits.max_bytes), limits, THUMBNAIL)
            after = render_thumbnail(target.read(item.target, limits.max_bytes), limits, THUMBNAIL)
        except ItemError:
            return None  # the page lists failures in any case
        return SheetImage(
            item.source, before, after, flags.get(item.index, ()), scores.get(item.index)
        )

    def rank(index: int) -> float:
        score = scores.get(index)
        return min(1 if score is None else score, FLAGGED_SCORE if index in flags else 1)

    indices = sorted(range(job_store.items.size(job_id)), key=rank)
    items = job_store.items.manifests.pick(job_id, indices)
    chunks = iter(lambda: list(islice(items, CHUNK)), [])
    with ThreadPoolExecutor(THREADS) as pool:
        images = (image for chunk in chunks for image in pool.map(load, chunk))
        yield from islice(filter(None, images), maximum)


def render_contact_sheet(
    summary: JobSummary,
    recipe: Recipe,
    images: Sequence[SheetImage],
    failures: Iterable[Failure],
    names: Sequence[str],
    number: int,
) -> Iterator[str]:
    """Yield a page as lines of HTML: summary, cutouts, failures.

    `names` are the file names of all pages, in one folder, of which this is `number`, from 1.
    """
    style, script = "".join(map(read_asset, STYLES)), _bundle([*MODULES, "sheet.js"])
    hashes = (b64encode(sha256(text.encode()).digest()).decode() for text in (style, script))
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data: blob:; "
        "style-src 'sha256-{}'; script-src 'sha256-{}'"
    ).format(*hashes)
    yield "<!doctype html>"
    yield f'<html lang="en"><head><meta charset="utf-8"><title>{escape(summary.job)}</title>'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield '<meta name="viewport" content="width=device-width">'
    yield f'<link rel="icon" href="data:,"><style>{style}</style></head>'
    yield '<body data-view="cutout" data-background="checks" data-flag="all" data-code="all">'
    yield from _summary(summary, recipe)
    yield from _toolbar(images)
    yield "<main>"
    yield from map(_figure, images)
    yield "</main>"
    yield from _pages(names, number)
    yield from _failures(summary, list(islice(failures, FAILURES)))
    yield from _dialogs()
    yield f'<script type="module">{script}</script></body></html>'


def read_asset(name: str) -> str:
    """Return a style or a module of the sheet, some of which the web page uses too."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def format_duration(seconds: float) -> str:
    """Return the two largest units: `2 h 5 min`, `40 s`; tenths below ten seconds."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _bundle(modules: Iterable[str]) -> str:
    """Join modules to one, without the statements that would load the others."""
    joined = "\n".join(map(read_asset, modules))
    return re.sub(r"^import .*\n|^export ", "", joined, flags=re.MULTILINE)


def _summary(summary: JobSummary, recipe: Recipe) -> Iterator[str]:
    yield f'<header><h1>{escape(summary.job)}</h1><dl class="tiles">'
    tiles = {
        "state": summary.state,
        "images": f"{summary.total:,}",
        "done": f"{summary.done:,}",
        "up to date": f"{summary.skipped:,}",
        "failed": f'<a href="#failures">{summary.failed:,}</a>' if summary.failed else "0",
        "flagged": f"{summary.flagged:,}",
        "time": format_duration(summary.seconds),
        "images per second": f"{summary.images_per_second:.2f}",
    }
    yield from (f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles.items())
    facts = {
        "from": summary.source,
        "to": summary.out,
        "model": f"{summary.model} ({recipe.weights[:12]})",
        "recipe": recipe.hash,
    }
    if summary.outputs:
        facts["outputs"] = ", ".join(f"{name} {n['done']:,}" for name, n in summary.outputs.items())
    text = " · ".join(f"{name}: {escape(value)}" for name, value in facts.items())
    yield f'</dl><p class="facts">{text}</p></header>'


def _toolbar(images: Sequence[SheetImage]) -> Iterator[str]:
    counts = Counter(flag for image in images for flag in image.flags)
    flagged = sum(bool(image.flags) for image in images)
    flags = {"all": "all", "any": f"flagged {flagged}"}
    flags |= {flag: f"{flag} {counts[flag]}" for flag in ReviewFlag if counts[flag]}
    yield '<div class="bar">'
    yield _button_group("view", VIEWS)
    color = '<input type="color" id="color" value="#ff00aa" aria-label="custom color">'
    yield _button_group("background", {name: name for name in BACKGROUNDS}, color)
    yield _button_group("flag", flags)
    yield '<input type="search" id="search" placeholder="name ( / )" aria-label="search for a name">'
    yield '<output id="count"></output>'
    yield '<button type="button" class="chip" data-opens="help">keys ( ? )</button></div>'


def _button_group(group: str, values: dict[str, str], more: str = "") -> str:
    buttons = "".join(
        f'<button type="button" class="chip" data-{group}-choice="{escape(value)}">'
        f"{escape(name)}</button>"
        for value, name in values.items()
    )
    return f"<fieldset><legend>{group}</legend>{buttons}{more}</fieldset>"


def _figure(image: SheetImage) -> str:
    name = escape(image.source)
    flags = "".join(f'<span class="flag">{flag}</span>' for flag in image.flags)
    if image.score is not None:
        flags += f'<span class="score" title="expected IoU of the matte">{image.score:.2f}</span>'
    webp = {"cutout": image.after, "source": image.before}
    images = "".join(
        f'<img class="{kind}" alt="" decoding="async" '
        f'src="data:image/webp;base64,{b64encode(data).decode()}">'
        for kind, data in webp.items()
    )
    return (
        f'<figure tabindex="0" data-name="{name}" data-flags="{" ".join(image.flags)}">'
        f'<div class="stage">{images}'
        '<input type="range" aria-label="before and after" min="0" max="100" value="50"></div>'
        f"<figcaption>{name} {flags}</figcaption></figure>"
    )


def _pages(names: Sequence[str], shown: int) -> Iterator[str]:
    if len(names) > 1:
        yield '<footer class="pages">'
        for number, name in enumerate(names, 1):
            current = ' aria-current="page"' if number == shown else ""
            url = escape(f"./{quote(name)}")  # "./": what precedes a colon would be a scheme
            yield f'<a href="{url}"{current}>{number}</a>'
        yield "</footer>"


def _failures(summary: JobSummary, failures: Sequence[Failure]) -> Iterator[str]:
    if not failures:
        return
    codes = {"all": "all"} | {code: f"{code} {count}" for code, count in summary.errors.items()}
    yield f'<section id="failures"><h2>Failed</h2><div class="bar">{_button_group("code", codes)}</div>'
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
    yield '<dialog id="help" aria-label="keys"><table>'
    for key, action in KEYS.items():
        yield f"<tr><td><kbd>{key}</kbd></td><td>{action}</td></tr>"
    yield '</table><p><button type="button" class="button" data-close>close</button></p></dialog>'
