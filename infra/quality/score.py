"""Fit the expected IoU of a matte, and update config/score.toml and infra/docs/quality.md.

    python infra/quality/score.py DATA/photos PHOTOS [--model birefnet-nano]

DATA is the data of infra/training; only photos that train no weights are used, whole and close.
PHOTOS has further ones, each group in a folder; `x_alpha.png` is beside `x.jpg`. Seven logarithmic
signs of each matte (pipeline/matting/score.py) enter a fractional logit model: L. Papke and
J. Wooldridge, Econometric Methods for Fractional Response Variables, 1996. Its maximum likelihood
makes the mean of the scores that of the IoUs.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, starmap
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import rankdata
from tables import ROOT, head, name_weights, replace_table, row

sys.path.insert(0, str(ROOT / "infra" / "training"))
from evaluate import closer
from library import Layer, held_out, photos_below

from bgpipe.config.settings import Settings, load_settings
from bgpipe.pipeline.inference.engine import BiRefNetEngine
from bgpipe.pipeline.matting.cutout import cut_out
from bgpipe.pipeline.matting.review import review
from bgpipe.pipeline.matting.score import LIMIT, SIGNS, expected_iou, measure
from bgpipe.pipeline.models.registry import resolve
from bgpipe.pipeline.networks.preprocess import preprocess
from bgpipe.pipeline.types import DecodedImage, ReviewFlag

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]

GOOD = 0.8
"""IoU from which a matte is good."""
PENALTY = 0.003
"""Of squared weights of standardized signs; chosen on the held-out photos."""
FOLDS, BINS = 10, 10
ROUNDS = 20
TABLE = ROOT / "config" / "score.toml"
DIAGRAM = ROOT / "infra" / "docs" / "images" / "score.svg"
SIDE, MARGIN = 320, 40
"""Pixels of the diagram and of its margins."""


class Trial(NamedTuple):
    """One matte: its photo's subject, its signs, its IoU with the truth, and its flags."""

    subject: str
    signs: Floats
    iou: float
    flags: tuple[ReviewFlag, ...]


@dataclass(frozen=True)
class Fit:
    intercept: float
    mean: Floats
    deviation: Floats
    weights: Floats

    def __call__(self, signs: Floats) -> Floats:
        """Return the expected IoU of mattes [N] with `signs` [N, 7]."""
        standard = np.clip((signs - self.mean) / self.deviation, -LIMIT, LIMIT)
        return np.asarray(1 / (1 + np.exp(-(self.intercept + standard @ self.weights))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("training", type=Path, metavar="DATA/photos")
    parser.add_argument("photos", type=Path, metavar="PHOTOS")
    parser.add_argument("--model", default="birefnet-nano")
    given = parser.parse_args()
    settings = load_settings()
    photos = {
        "held out": photos_below(given.training, None, held_out),
        "held out, close": starmap(closer, photos_below(given.training, None, held_out)),
        given.photos.name: photos_below(given.photos, None),
    }
    sets = {}
    for name, part in photos.items():
        sets[name] = list(judge(part, given.model, settings))
        print(f"{name}: {len(sets[name])} mattes", file=sys.stderr)
    every = list(chain(*sets.values()))
    scores = cross_validate(every)
    TABLE.write_text("\n".join(model_lines(fit(every), given.model, len(every))) + "\n")
    cost = measure_cost(next(photos_below(given.photos, None))[1], given.model, settings)
    write_tables(sets, scores, given.model, cost)
    ious = np.array([trial.iou for trial in every])
    DIAGRAM.write_text("\n".join(diagram(scores, ious)) + "\n")


def judge(photos: Iterable[tuple[Path, Layer]], name: str, settings: Settings) -> Iterator[Trial]:
    """Yield the trial of each photo. The IoU is the cutout's, by the default preset."""
    model = resolve(name, cache=settings.model_folder)
    engine = BiRefNetEngine(model, "cpu", batch=1, threads=settings.worker.cpu_threads or 1)
    preset = replace(settings.presets["balanced"], foreground=False)  # changes colors only
    for path, photo in photos:
        image = DecodedImage(photo.rgb)
        matte = engine.infer([preprocess(photo.rgb, model.size)])[0]
        cutout = cut_out(image, matte, preset)
        found, true = cutout.rgba[..., 3] > 127, photo.alpha > 127
        union = np.count_nonzero(found | true)
        iou = np.count_nonzero(found & true) / union if union else 1.0
        subject = re.sub(r"(_\d+)?$", "", f"{path.parent.name}/{path.stem}")
        flags = review(image, matte, cutout, preset, settings.review)
        if matte.coarse is None:
            raise ValueError(f"weights without a coarse head: {name}")
        yield Trial(subject, measure(matte.alpha, matte.coarse).astype(float), iou, flags)


def fit(trials: Iterable[Trial]) -> Fit:
    """Maximize the likelihood, with a penalty on squared weights."""
    _, rows, ious, _ = zip(*trials, strict=True)
    signs, iou = np.array(rows), np.array(ious)
    mean, deviation = signs.mean(axis=0), signs.std(axis=0)
    standard = np.clip((signs - mean) / deviation, -LIMIT, LIMIT)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        intercept, weights = parameters[0], parameters[1:]
        logits = intercept + standard @ weights
        residual = 1 / (1 + np.exp(-logits)) - iou
        gradient = np.r_[residual.mean(), residual @ standard / len(iou) + PENALTY * weights]
        likelihood = np.mean(np.logaddexp(0, logits) - iou * logits)
        return float(likelihood + PENALTY / 2 * weights @ weights), gradient

    found = minimize(loss, np.zeros(1 + len(SIGNS)), jac=True, method="L-BFGS-B").x
    return Fit(float(found[0]), mean, deviation, found[1:])


def cross_validate(trials: list[Trial]) -> Floats:
    """Return each matte's score by a fit on the others; photos of one subject stay together."""
    subjects = sorted({trial.subject for trial in trials})
    numbers = np.random.default_rng(0).permutation(len(subjects)) % FOLDS
    fold_of = dict(zip(subjects, numbers, strict=True))
    folds = np.array([fold_of[trial.subject] for trial in trials])
    signs, scores = np.array([trial.signs for trial in trials]), np.empty(len(trials))
    for number in range(FOLDS):
        model = fit(trial for trial, fold in zip(trials, folds, strict=True) if fold != number)
        scores[folds == number] = model(signs[folds == number])
    return scores


def model_lines(model: Fit, name: str, count: int) -> Iterator[str]:
    """Yield the lines of the model as TOML."""
    yield f"# Fitted by infra/quality/score.py on {count} mattes of {name}; see pipeline/matting/score.py."
    yield f"intercept = {model.intercept:.4f}"
    yield "\n# Mean, standard deviation, and weight after standardization.\n[signs]"
    for sign, *values in zip(SIGNS, model.mean, model.deviation, model.weights, strict=True):
        yield f"{sign} = [{', '.join(f'{value:.4f}' for value in values)}]"


def measure_cost(photo: Layer, name: str, settings: Settings) -> str:
    """State the time of a score beside that of the network: CPU time of one thread, medians."""
    model = resolve(name, cache=settings.model_folder)
    engine = BiRefNetEngine(model, "cpu", batch=1, threads=1)
    pixels = preprocess(photo.rgb, model.size)
    matte = engine.infer([pixels])[0]
    seconds = []
    for work in (lambda: expected_iou(matte), lambda: engine.infer([pixels])):
        starts = []
        for _ in range(ROUNDS):
            starts.append(time.process_time())
            work()
        seconds.append(float(np.median(np.diff([*starts, time.process_time()]))))
    score, network = seconds
    return f"A score takes {1e3 * score:.1f} ms, {score / network:.1%} of a pass of the network on one core."


def write_tables(sets: dict[str, list[Trial]], scores: Floats, name: str, cost: str) -> None:
    document = ROOT / "infra" / "docs" / "quality.md"
    text = document.read_text(encoding="utf-8")
    text = replace_table(text, "score", [*name_weights(name), *score_table(sets, scores), "", cost])
    text = replace_table(text, "flags", flag_table(list(chain(*sets.values()))))
    document.write_text(text, encoding="utf-8")


def score_table(sets: dict[str, list[Trial]], scores: Floats) -> Iterator[str]:
    """Yield a line for each set of photos; and for the last one, by a fit on the others alone."""
    yield from head("photos", "mattes", f"IoU below {GOOD}", "AUROC", "correlation", "ECE")
    last, trials = list(sets.items())[-1]
    others = fit(chain(*(part for name, part in sets.items() if name != last)))
    ends = np.cumsum([len(part) for part in sets.values()])
    parts = zip(sets.items(), np.split(scores, ends[:-1]), strict=True)
    rows = [(name, part, values) for (name, part), values in parts]
    rows += [(f"{last}, fitted on the others", trials, others(np.array([t.signs for t in trials])))]
    for name, part, values in rows:
        iou = np.array([trial.iou for trial in part])
        figures = (
            auroc(values, iou),
            np.corrcoef(values, iou)[0, 1],
            calibration_error(values, iou),
        )
        cells = (f"{figure:.3f}" for figure in figures)
        yield row(name, str(len(part)), str(np.count_nonzero(iou < GOOD)), *cells)


def flag_table(trials: list[Trial]) -> Iterator[str]:
    """Yield a line for each flag that was raised: how often rightly, and for which part of the bad mattes."""
    yield from head("flag", "raised", "precision", "recall")
    bad = np.array([trial.iou < GOOD for trial in trials])
    for flag in ("any", *ReviewFlag):
        raised = np.array(
            [flag in trial.flags or (flag == "any" and trial.flags != ()) for trial in trials]
        )
        if hits := np.count_nonzero(raised & bad):
            precision, recall = hits / raised.sum(), hits / bad.sum()
            yield row(f"`{flag}`", str(raised.sum()), f"{precision:.2f}", f"{recall:.2f}")
        elif raised.any():
            yield row(f"`{flag}`", str(raised.sum()), "0.00", "0.00")


def auroc(scores: Floats, iou: Floats) -> float:
    """Return the probability that a bad matte has a lower score than a good one (J. Hanley and B. McNeil, 1982)."""
    bad = iou < GOOD
    count, ranks = np.count_nonzero(bad), rankdata(-scores)
    return float((ranks[bad].sum() - count * (count + 1) / 2) / (count * np.count_nonzero(~bad)))


def calibration_error(scores: Floats, iou: Floats) -> float:
    """Expected calibration error (M. Naeini et al., AAAI 2015), with bins of equally many mattes."""
    return sum(abs(score - true) * count for score, true, count in bins(scores, iou)) / len(iou)


def bins(scores: Floats, iou: Floats) -> Iterator[tuple[float, float, int]]:
    """Yield mean score, mean IoU and number of mattes of each of BINS bins, by score."""
    for members in np.array_split(np.argsort(scores), BINS):
        yield float(scores[members].mean()), float(iou[members].mean()), len(members)


def diagram(scores: Floats, iou: Floats) -> Iterator[str]:
    """Yield the lines of the reliability diagram (A. Niculescu-Mizil and R. Caruana, ICML 2005) as SVG."""
    size = SIDE + 2 * MARGIN
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" width="{size}" height="{size}">'
    yield "<style>text{font:12px sans-serif;fill:#777}</style>"
    yield f'<g fill="none" stroke="#999"><path d="M{MARGIN} {MARGIN}v{SIDE}h{SIDE}"/>'
    yield f'<path stroke-dasharray="4" d="M{MARGIN} {MARGIN + SIDE}l{SIDE} -{SIDE}"/></g>'
    for step in range(0, 11, 2):
        x, y = _place(step / 10, step / 10)
        yield f'<text x="{x}" y="{MARGIN + SIDE + 16}" text-anchor="middle">{step / 10}</text>'
        yield f'<text x="{MARGIN - 6}" y="{y + 4}" text-anchor="end">{step / 10}</text>'
    yield f'<text x="{size / 2}" y="{size - 6}" text-anchor="middle">score</text>'
    yield f'<text x="{MARGIN}" y="{MARGIN - 12}" text-anchor="middle">IoU</text>'
    yield '<g fill="#2a7" fill-opacity=".25">'
    for x, y in starmap(_place, zip(scores, iou, strict=True)):
        yield f'<circle cx="{x}" cy="{y}" r="2"/>'
    yield '</g><g fill="#175">'
    for score, true, _ in bins(scores, iou):
        x, y = _place(score, true)
        yield f'<circle cx="{x}" cy="{y}" r="5"/>'
    yield "</g></svg>"


def _place(score: float, iou: float) -> tuple[float, float]:
    return round(MARGIN + SIDE * score, 1), round(MARGIN + SIDE * (1 - iou), 1)


if __name__ == "__main__":
    main()
