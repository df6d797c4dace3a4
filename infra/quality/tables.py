"""Update the tables of infra/docs/quality.md: the cost of the finish, and the scores of a model.

    python infra/quality/tables.py PHOTOS [--model birefnet-nano] [--document infra/docs/quality.md]

PHOTOS contains one folder per group of KINDS, with `x_alpha.png` beside each `x.jpg`.
A table is between `<!-- table: NAME -->` and `<!-- end -->`. Two evaluations run at a time.
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
"""Group on which the finish is measured."""
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
"""A line of `bgpipe --json eval`: the scores of one cutout."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of `bgpipe eval`."""

    photos: Path
    models: Sequence[str]
    guided: bool | None = None
    """None: the value of each preset."""

    def run(self) -> list[Record]:
        """Evaluate. Raises CalledProcessError unless all photos were scored."""
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
    text = replace_table(text, "finish", finish_table(plain, guided))
    text = replace_table(text, "model", [*name_weights(options.model), *model_table(model)])
    options.document.write_text(text, encoding="utf-8")


def finish_table(plain: Iterable[Record], guided: Iterable[Record]) -> Iterator[str]:
    """Yield a line for each matte, preset and upsampling; the truth itself is not upsampled."""
    yield from head("matte", "preset", "enlarged", *FINISH)
    by_way = {"plain": group_by(plain, _trial), "guided": group_by(guided, _trial)}
    for model in (FULL, *REDUCED):
        for preset in PRESETS:
            for way, trials in by_way.items():
                if records := trials.get((model, preset)):
                    yield row(
                        model, preset, "-" if model == FULL else way, *format_means(records, FINISH)
                    )


def model_table(records: Iterable[Record]) -> Iterator[str]:
    """Yield a line for each kind of truth and preset."""
    yield from head("truth", "photos", "preset", *MODEL)
    kinds = {group: kind for kind, groups in KINDS.items() for group in groups}
    by_kind = group_by(records, lambda record: kinds[record["image"].split("/")[0]])
    for kind in KINDS:
        for preset, group in group_by(by_kind.get(kind, ()), lambda r: r["preset"]).items():
            yield row(kind, str(len(group)), preset, *format_means(group, MODEL))


def name_weights(model: str) -> Iterator[str]:
    """Name the weights of the next table."""
    verified = subprocess.run(
        [BGPIPE, "--json", "models", "verify", model], stdout=subprocess.PIPE, check=True
    )
    yield f"Weights with the sha256 `{json.loads(verified.stdout.splitlines()[-1])['sha256']}`:"
    yield ""


def group_by(records: Iterable[Record], key: Callable[[Record], Any]) -> dict[Any, list[Record]]:
    groups = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    return groups


def format_means(records: Sequence[Record], columns: dict[str, str]) -> Iterator[str]:
    """Format the mean of each score to three significant digits."""
    for title, score in columns.items():
        value = mean(record[score] for record in records) * SCALE.get(title, 1)
        yield f"{value:.3g}"


def head(*titles: str) -> Iterator[str]:
    yield row(*titles)
    yield "|" + "---|" * len(titles)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def replace_table(text: str, name: str, lines: Iterable[str]) -> str:
    """Replace the lines of the table `name`. Raises ValueError unless it exists exactly once."""
    pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    new, count = pattern.subn(lambda match: match[1] + "\n".join(lines) + "\n" + match[2], text)
    if count != 1:
        raise ValueError(f"no unique table: {name}: mark it with <!-- table: {name} -->")
    return new


def _trial(record: Record) -> tuple[str, str]:
    return record["model"], record["preset"]


if __name__ == "__main__":
    main()
