"""Remake the tables of infra/docs/quality.md: what the finish costs, and how good a model is.

    python infra/quality/tables.py PHOTOS [--model birefnet-nano] [--document infra/docs/quality.md]

PHOTOS holds a folder a group, with `x_alpha.png` beside each `x.jpg`; the groups are those of KINDS.
A table stands between `<!-- table: NAME -->` and `<!-- end -->`. Two evaluations run at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).parents[2]
BGPIPE = Path(sys.executable).with_name("bgpipe")

MATTING = "alphamatting"
"""The group that the finish is measured on."""
KINDS = {
    "true alpha": (MATTING, "pymatting"),
    "masks by hand": ("ecssd", "grabcut", "human290"),
    "other networks' mattes": ("aim", "am2k", "p3m"),
}
PRESETS = ("raw", "balanced", "products", "portraits")
FULL, REDUCED = "truth", ("truth:512", "truth:256")

FINISH = {
    "SAD": "sad",
    "MSE x 1000": "mse",
    "gradient": "gradient",
    "connectivity": "connectivity",
    "composite: white": "composite_white",
    "checks": "composite_checks",
}
MODEL = {
    "MAE": "mae",
    "IoU": "iou",
    "S": "s_measure",
    "weighted F": "f_weighted",
    "E": "e_measure",
    "SAD": "sad",
    "gradient": "gradient",
    "composite: white": "composite_white",
    "checks": "composite_checks",
}
SCALE = {"MSE x 1000": 1000}

Record = dict[str, Any]
"""A line of `bgpipe --json eval`: how one cutout scored."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of `bgpipe eval`."""

    photos: Path
    models: Sequence[str]
    guided: bool | None = None
    """None: as each preset has it."""

    def run(self) -> list[Record]:
        """Raises CalledProcessError when it did not score all photos."""
        options = [f"--model={name}" for name in self.models]
        options += [f"--preset={name}" for name in PRESETS]
        options += [] if self.guided is None else ["--set", f"guided={self.guided}"]
        done = subprocess.run(
            [BGPIPE, "--json", "eval", "--images", self.photos, "--truth", self.photos, *options],
            env=os.environ | {"BGPIPE_WORKER__CPU_THREADS": "1"},
            stdout=subprocess.PIPE,
            check=True,
        )
        return [json.loads(line) for line in done.stdout.splitlines()[:-1]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="birefnet-nano")
    parser.add_argument("--document", type=Path, default=ROOT / "infra" / "docs" / "quality.md")
    options = parser.parse_args()
    matting = options.photos / MATTING
    trials = [
        Trial(options.photos, [options.model]),
        Trial(matting, [FULL, *REDUCED], guided=False),
        Trial(matting, REDUCED, guided=True),
    ]
    with ThreadPoolExecutor(2) as runs:
        model, plain, guided = runs.map(Trial.run, trials)
    text = options.document.read_text(encoding="utf-8")
    text = put(text, "finish", finish_table(plain, guided))
    text = put(text, "model", [*weights_of(options.model), *model_table(model)])
    options.document.write_text(text, encoding="utf-8")


def finish_table(plain: Iterable[Record], guided: Iterable[Record]) -> Iterator[str]:
    """A line for each matte, preset and way of enlarging; the truth itself is not enlarged."""
    yield from head("matte", "preset", "enlarged", *FINISH)
    by_way = {"plain": grouped(plain, _trial), "guided": grouped(guided, _trial)}
    for model in (FULL, *REDUCED):
        for preset in PRESETS:
            for way, trials in by_way.items():
                if found := trials.get((model, preset)):
                    yield row(model, preset, "-" if model == FULL else way, *means(found, FINISH))


def model_table(records: Iterable[Record]) -> Iterator[str]:
    """A line for each kind of truth and each preset."""
    yield from head("truth", "photos", "preset", *MODEL)
    kinds = {group: kind for kind, groups in KINDS.items() for group in groups}
    by_kind = grouped(records, lambda record: kinds[record["image"].split("/")[0]])
    for kind in KINDS:
        for preset, found in grouped(by_kind.get(kind, ()), lambda r: r["preset"]).items():
            yield row(kind, str(len(found)), preset, *means(found, MODEL))


def weights_of(model: str) -> Iterator[str]:
    """Which weights the next table is about."""
    found = subprocess.run(
        [BGPIPE, "--json", "models", "verify", model], stdout=subprocess.PIPE, check=True
    )
    yield f"Weights with the sha256 `{json.loads(found.stdout.splitlines()[-1])['sha256']}`:"
    yield ""


def grouped(records: Iterable[Record], key: Callable[[Record], Any]) -> dict[Any, list[Record]]:
    groups = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    return groups


def means(records: Sequence[Record], columns: dict[str, str]) -> Iterator[str]:
    """Three significant digits each."""
    for title, score in columns.items():
        value = mean(record[score] for record in records) * SCALE.get(title, 1)
        yield f"{value:.3g}"


def head(*titles: str) -> Iterator[str]:
    yield row(*titles)
    yield "|" + "---|" * len(titles)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def put(text: str, name: str, lines: Iterable[str]) -> str:
    """The document with other lines in the table `name`. Raises ValueError if it has none."""
    pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    new, count = pattern.subn(lambda found: found[1] + "\n".join(lines) + "\n" + found[2], text)
    if count != 1:
        raise ValueError(f"no table, or several: {name}; mark it with <!-- table: {name} -->")
    return new


def _trial(record: Record) -> tuple[str, str]:
    return record["model"], record["preset"]


if __name__ == "__main__":
    main()
