"""Plain values that several packages share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NewType, TypeAlias

from bgpipe.config.output import Output as Output  # exported: parts of every recipe
from bgpipe.config.presets import Preset as Preset

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bgpipe.pipeline.errors import Code, ItemError

# Quoted, because the submitting side does without numpy.
Pixels: TypeAlias = "npt.NDArray[np.uint8]"
"""uint8 [H, W, C], RGB or RGBA; [H, W], gray or alpha."""
Pixels16: TypeAlias = "npt.NDArray[np.uint16]"
"""uint16 [H, W, 3], RGB."""
Plane: TypeAlias = "npt.NDArray[np.float32]"
"""float32 [H, W] in [0, 1]."""
Floats: TypeAlias = "npt.NDArray[np.float32]"
"""float32 of any shape and range."""
Mask: TypeAlias = "npt.NDArray[np.bool_]"
"""bool [H, W]."""

JobId = NewType("JobId", str)

DAY_SECONDS = 86_400
RECIPE_VERSION = 3
"""Increased whenever the code gives other pixels for the same recipe."""
ADDED_FIELDS: Mapping[str, object] = {"size": "", "enlarge": False, "outline": ""}
"""Fields of presets that are left out where they have this default: older cutouts stay up to date."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object of a store. `key` is relative to the store's root, with `/` between its parts."""

    key: str
    size: int
    identity: str
    """Changes with the content: a file's size and time of change, an object's ETag."""


class ModelTask(StrEnum):
    SUBJECT = "subject"  # finds the subject: --model
    EDGES = "edges"  # solves its edges: --matting


class PatchOrder(StrEnum):
    """How a checkpoint stacks the tiles of the image as channels; its shapes are the same."""

    CURRENT = "current"  # (color, row, column): trained since 2024-11-05
    LEGACY = "legacy"  # (column, row, color)


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """Verified weights on this machine."""

    name: str
    """Of the registry, or the path of the weights."""
    path: Path
    sha256: str
    size: tuple[int, int]
    """Height and width of the model's input, multiples of 32."""
    patch_order: PatchOrder
    task: ModelTask = ModelTask.SUBJECT


@dataclass(frozen=True, slots=True)
class Matting:
    """A second network, which solves the edge of a matte again from the full-size image."""

    model: str
    """Name, or path of the weights."""
    weights: str
    """The sha256 of the weights file."""
    size: tuple[int, int]
    """Height and width of the tiles of a larger image."""
    band: float
    """Width of the edge to either side, as a share of the image's longer side."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that determines the pixels of a cutout, apart from the source itself."""

    model: str
    """Name, or path of the weights, which a worker resolves. Not hashed: the weights are."""
    weights: str
    """The sha256 of the weights file."""
    size: tuple[int, int]
    """Height and width of the model's input."""
    preset: Preset
    output: Output = field(default_factory=Output)
    matting: Matting | None = None
    version: int = RECIPE_VERSION

    @property
    def hash(self) -> str:
        """16 hexadecimal digits, equal for recipes that give equal pixels."""
        values = self.values
        del values["model"], values["output"]["backdrop"]  # their content counts
        if self.matting is None:
            del values["matting"]  # cutouts older than the field stay up to date
        else:
            del values["matting"]["model"]
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def text(self) -> str:
        """The recipe as JSON, its hash first; cutouts carry it as `bgpipe:recipe`."""
        return json.dumps({"hash": self.hash} | self.values, separators=(",", ":"))

    @property
    def values(self) -> dict[str, Any]:
        """The fields as they are stored, as values of JSON."""
        values, added = asdict(self), ADDED_FIELDS.items()
        values["preset"] = dict(each for each in values["preset"].items() if each not in added)
        return values


@dataclass(frozen=True, slots=True)
class JobOutput:
    """One of the files that a job makes of each image, by a recipe that shares the job's networks."""

    name: str
    """Of the settings; empty for the only output of a job without named ones."""
    recipe: Recipe
    suffix: str = ""
    """Follows the source's stem in the target's key, before that of the format."""
    naming: str = ""
    """Template of the targets' keys, instead of `suffix`."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as submitted. `source` and `out` are store locations; `created` is Unix time."""

    id: JobId
    source: str
    out: str
    recipe: Recipe
    created: float
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    force: bool = False
    """Redo images that are up to date."""
    overwrite: bool = False
    """Replace files at the targets that bgpipe did not make."""
    named: str = ""
    """Digest of the keys that the submitter named; empty: all that the source lists."""
    naming: str = ""
    """Template of the targets' keys; empty: the sources' own names."""
    sweep: str = ""
    """Sweep that this job is a run of; it yields to jobs that users submitted."""
    owner: str = ""
    """Owner of the API key that submitted it over HTTP; empty: a command did."""
    on_finish: str = ""
    """URL that gets the summary at the end of a job submitted over HTTP."""
    outputs: tuple[JobOutput, ...] = ()
    """Several files of each image; empty: one, by `recipe` and `naming`."""
    review_below: float = 0.0
    """Score below which a cutout is flagged; 0: the worker's setting."""

    @property
    def every_output(self) -> tuple[JobOutput, ...]:
        """The outputs, also of a job that has none with a name."""
        return self.outputs or (JobOutput("", self.recipe, naming=self.naming),)

    @property
    def locations_digest(self) -> str:
        """64 hexadecimal digits, equal for jobs with the same source and target."""
        parts = (self.source, self.out, self.include, self.exclude, self.named)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def same_as(self, other: Job) -> bool:
        """Whether both differ in name and time at most."""
        return replace(self, id=other.id, created=other.created) == other


@dataclass(frozen=True, slots=True)
class Item:
    """An image of a job. `identity` is the source's when it was listed.

    `target` is the key of its first output; `others` are those of the job's further ones, in order. Bit k
    of `stale` is set if its output k was not up to date then.
    """

    index: int
    source: str
    target: str
    identity: str
    others: tuple[str, ...] = ()
    stale: int = 1

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.target, *self.others)


class ReviewFlag(StrEnum):
    """Reasons to review a cutout."""

    NO_SUBJECT = "no-subject"
    NEARLY_FULL = "nearly-full"
    TOUCHES_BORDER = "touches-border"
    LOW_CONFIDENCE = "low-confidence"
    MANY_PIECES = "many-pieces"
    FILLED_HOLE = "filled-hole"
    SOFT_EVERYWHERE = "soft-everywhere"
    MORE_FRAMES = "more-frames"
    LOW_SCORE = "low-score"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of an item; a `code` means failure."""

    index: int
    code: Code | None = None
    detail: str = ""
    flags: tuple[ReviewFlag, ...] = ()
    score: float | None = None

    @classmethod
    def done(cls, index: int, flags: tuple[ReviewFlag, ...] = ()) -> Outcome:
        return cls(index, flags=flags)

    @classmethod
    def failed(cls, index: int, error: ItemError) -> Outcome:
        return cls(index, error.code, error.detail)


@dataclass(frozen=True, slots=True)
class OutputResult:
    """How a named output of an item ended: written, failed, or else up to date since the listing."""

    name: str
    identity: str = ""
    """The written object's."""
    is_failed: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """A dead letter, as `bgpipe errors` prints it."""

    index: int
    source: str
    target: str
    code: str
    detail: str
    attempts: int


class JobState(StrEnum):
    LISTING = "listing"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"


OPEN_STATES = frozenset((JobState.LISTING, JobState.RUNNING))
CLOSED_STATES = frozenset((JobState.FINISHED, JobState.CANCELLED))


@dataclass(frozen=True, slots=True)
class JobSummary:
    """The counters of a job: once finished, total = done + skipped + failed.

    `interrupted`: it is open, and neither a command nor a dispatcher leads it.
    """

    job: JobId
    state: JobState
    total: int
    done: int
    skipped: int
    failed: int
    flagged: int
    queued: int
    running: int
    seconds: float
    images_per_second: float
    source: str
    out: str
    model: str
    interrupted: bool = False
    paused: str = ""
    """Since when and why no image is processed, with the remedy; empty unless the job is paused."""
    errors: dict[str, int] = field(default_factory=dict)
    flags: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, dict[str, int]] = field(default_factory=dict)
    """Files by name: `done`, `skipped` and `failed`; empty for a job without named outputs."""


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage:
    """A decoded source, upright.

    `alpha` is the source's own, if any; `rgb16` is the RGB with all of its 16 bits, if it has them and
    they were requested; `frames` is the number of images in the file, of which this is the first.
    """

    rgb: Pixels
    alpha: Pixels | None = None
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    rgb16: Pixels16 | None = None
    frames: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Matte:
    """The network's soft output at model size, float32 [h, w] in [0, 1]."""

    alpha: Plane
    coarse: Plane | None = None
    """The same before the last steps of its decoder, [h / 8, w / 8]; what both agree on is more certain."""


@dataclass(frozen=True, slots=True, eq=False)
class Cutout:
    """uint8 [H, W, 4], straight alpha; color is zero where alpha is."""

    rgba: Pixels
