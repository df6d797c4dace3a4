"""Request and results of an evaluation, exchanged as JSON lines between two processes."""

from dataclasses import dataclass

from bgpipe.pipeline.evaluation.dataset import ImagePair
from bgpipe.pipeline.evaluation.metrics import Scores
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.types import Matting, Preset, ResolvedModel


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """A source of mattes; without `model`, the truth itself resized to `size`."""

    name: str
    size: tuple[int, int]
    model: ResolvedModel | None


@dataclass(frozen=True, slots=True)
class EdgeMatting:
    """Recomputes the edges of every matte."""

    matting: Matting
    model: ResolvedModel


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """Evaluate every source with every preset on every pair."""

    pairs: tuple[ImagePair, ...]
    sources: tuple[EvaluatedModel, ...]
    presets: dict[str, Preset]
    limits: Limits
    threads: int
    """CPU threads of a forward pass; 0: one per core."""
    thumbnail: int
    """Side of the images in the results, in pixels; 0: none."""
    edges: EdgeMatting | None = None


@dataclass(frozen=True, slots=True)
class ResultImages:
    """WebP files in base64."""

    image: str
    truth: str
    cutout: str


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Scores of one cutout, or the error that prevented them."""

    model: str
    preset: str
    image: str
    scores: Scores | None = None
    images: ResultImages | None = None
    error: str = ""

    @property
    def trial(self) -> str:
        return f"{self.model} {self.preset}"
