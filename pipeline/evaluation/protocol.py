"""What an evaluation is asked, and what it answers: one JSON object a line between two processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bgpipe.pipeline.evaluation.scores import Scores
from bgpipe.pipeline.types import Matting, Preset, ResolvedModel


@dataclass(frozen=True, slots=True)
class ImagePair:
    """A picture and its truth: a grey mask or matte, or an image whose alpha is the matte."""

    name: str
    image: Path
    truth: Path


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """Where mattes come from. Without a model: the truth itself, through the size of a model."""

    name: str
    size: tuple[int, int]
    model: ResolvedModel | None


@dataclass(frozen=True, slots=True)
class EdgeMatting:
    """What solves the edges of every matte again."""

    matting: Matting
    model: ResolvedModel


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """Every source with every preset, on every pair.

    `limits` are those of images.Limits; `thumbnail` is the side of the pictures in the answer, 0
    for none; `threads` of the CPU run a forward pass, 0 for as many as there are cores.
    """

    pairs: tuple[ImagePair, ...]
    sources: tuple[EvaluatedModel, ...]
    presets: dict[str, Preset]
    limits: dict[str, int]
    threads: int
    thumbnail: int
    edges: EdgeMatting | None = None


@dataclass(frozen=True, slots=True)
class ResultImages:
    """WebP files, base64."""

    image: str
    truth: str
    cutout: str


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """How one cutout scored; no scores where there is an error."""

    model: str
    preset: str
    image: str
    scores: Scores | None = None
    pictures: ResultImages | None = None
    error: str = ""

    @property
    def trial(self) -> str:
        return f"{self.model} {self.preset}"
