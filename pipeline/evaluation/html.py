"""An evaluation as one self-contained HTML page: the mean scores, then the images, worst first."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from bgpipe.pipeline.evaluation.metrics import HIGHER_IS_BETTER, Scores
from bgpipe.pipeline.evaluation.protocol import EvaluationResult

STYLE = """
:root { color-scheme: light dark; --page: #fafafa; --card: #fff; --ink: #222; --faint: #666; --line: #ddd; }
@media (prefers-color-scheme: dark) {
  :root { --page: #161618; --card: #222225; --ink: #ececee; --faint: #9a9aa2; --line: #3a3a3f; }
}
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem 1.5rem; color: var(--ink); background: var(--page); }
.scores { overflow-x: auto; }
table { border-collapse: collapse; }
td, th { text-align: right; padding: .2rem .8rem; border-bottom: 1px solid var(--line); }
td:first-child, th:first-child { text-align: left; white-space: nowrap; }
td.best { font-weight: 700; }
small { color: var(--faint); }
h3 { overflow-wrap: anywhere; }
section > div { display: flex; flex-wrap: wrap; gap: .6rem; }
figure { margin: 0; padding: .5rem; background: var(--card); border: 1px solid var(--line); border-radius: 6px; }
figcaption { font-size: 13px; color: var(--faint); max-width: 320px; overflow-wrap: anywhere; }
img { display: block; max-width: min(320px, 100%); }
.cutout { background: repeating-conic-gradient(#ccc 0 25%, #fff 0 50%) 0 0 / 16px 16px; }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render_quality_page(means: Mapping[str, Scores], results: Sequence[EvaluationResult]) -> str:
    """Render the page; images are ordered by the mean SAD of their trials."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8"><title>bgpipe eval</title>',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">',
            f"<style>{STYLE}</style></head><body>",
            "<h1>Evaluation</h1>",
            *_table(means),
            "<h2>Images, worst first</h2>",
            *_sections(results),
            "</body></html>",
        ]
    )


def _table(means: Mapping[str, Scores]) -> Iterator[str]:
    yield '<div class="scores"><table><tr><th>mean</th>'
    yield from (f"<th>{escape(trial)}</th>" for trial in means)
    yield "</tr>"
    rows = list(means.values())
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows]
        higher = name in HIGHER_IS_BETTER
        best = max(values) if higher else min(values)
        classes = (' class="best"' if value == best else "" for value in values)
        cells = (f"<td{kind}>{value:.4g}</td>" for kind, value in zip(classes, values, strict=True))
        better = "higher" if higher else "lower"
        yield f"<tr><td>{name} <small>{better} is better</small></td>{''.join(cells)}</tr>"
    yield "</table></div>"


def _sections(results: Sequence[EvaluationResult]) -> Iterator[str]:
    by_image = defaultdict[str, list[EvaluationResult]](list)
    for result in results:
        by_image[result.image].append(result)
    for name, trials in sorted(by_image.items(), key=lambda entry: -_mean_sad(entry[1])):
        first = next((result.images for result in trials if result.images), None)
        sources = _figure("image", first.image, "") + _figure("truth", first.truth) if first else ""
        figures = sources + "".join(map(_trial_figure, trials))
        yield f"<section><h3>{escape(name)}</h3><div>{figures}</div></section>"


def _mean_sad(trials: Sequence[EvaluationResult]) -> float:
    """Infinite without scores."""
    sads = [result.scores["sad"] for result in trials if result.scores]
    return sum(sads) / len(sads) if sads else float("inf")


def _trial_figure(result: EvaluationResult) -> str:
    if not (result.scores and result.images):
        return _figure(f"{result.trial}: {result.error}")
    sad, mse, iou = (result.scores[name] for name in ("sad", "mse", "iou"))
    caption = f"{result.trial}: SAD {sad:.3g}, MSE {mse:.3g}, IoU {iou:.3f}"
    return _figure(caption, result.images.cutout)


def _figure(caption: str, webp: str = "", kind: str = ' class="cutout"') -> str:
    image = f'<img{kind} src="data:image/webp;base64,{webp}" alt="">' if webp else ""
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"
