"""The data that travels between the parts. Plain values; nothing here acts."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NewType

from bgpipe.config.output import Output as Output  # part of every recipe
from bgpipe.config.presets import Preset as Preset  # and this

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bgpipe.pipeline.errors import Code, ItemError

    Pixels = npt.NDArray[np.uint8]
    """uint8 [H, W, C], RGB or RGBA."""
    Pixels16 = npt.NDArray[np.uint16]
    """uint16 [H, W, 3], RGB."""
    Plane = npt.NDArray[np.float32]
    """float32 [H, W] in [0, 1]."""

JobId = NewType("JobId", str)

RECIPE_VERSION = 3
"""Raised whenever the code gives other pixels for the same recipe."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object of a store.

    `key` is relative to the store's root, with `/` between its parts; `identity` changes whenever
    the content does (a file's size and time of change, an object's ETag).
    """

    key: str
    size: int
    identity: str


class ModelTask(StrEnum):
    """What a network is for."""

    SUBJECT = "subject"  # finds the subject: --model
    EDGES = "edges"  # solves its edges: --matting


class PatchOrder(StrEnum):
    """How a checkpoint stacks the tiles of the image as channels; its shapes do not tell."""

    CURRENT = "current"  # (colour, row, column): trained since 2024-11-05
    LEGACY = "legacy"  # (column, row, colour)


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """Weights that lie on this machine and are what they should be."""

    name: str
    """Of the registry, or the path of the weights."""
    path: Path
    sha256: str
    size: tuple[int, int]
    """Height and width of the model's input, multiples of 32."""
    patch_order: PatchOrder
    bundled: bool
    task: ModelTask = ModelTask.SUBJECT


@dataclass(frozen=True, slots=True)
class Matting:
    """A second network, which solves the edge of a matte again with the pixels of the full size."""

    model: str
    """Its name, or the path of its weights."""
    weights: str
    """The sha256 of the weights file."""
    size: tuple[int, int]
    """Height and width of the tiles that a larger image is cut into."""
    band: float
    """How far the edge reaches to either side, as a share of the image's longer side."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that determines the pixels of a cutout, apart from the source itself."""

    model: str
    """Its name, or the path of its weights: what a worker resolves."""
    weights: str
    """The sha256 of the weights file: what the pixels depend on."""
    size: tuple[int, int]
    """Height and width of the model's input."""
    preset: Preset
    output: Output = field(default_factory=Output)
    matting: Matting | None = None
    version: int = RECIPE_VERSION

    @property
    def hash(self) -> str:
        """16 hexadecimal digits, equal for recipes that give equal pixels."""
        values = asdict(self)
        del values["model"], values["output"]["backdrop"]  # their content counts
        if self.matting is None:
            del values["matting"]  # cutouts made before there was any stay up to date
        else:
            del values["matting"]["model"]
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def text(self) -> str:
        """The recipe as JSON, its hash first: what a cutout carries as `bgpipe:recipe`."""
        return json.dumps({"hash": self.hash} | asdict(self), separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Job:
    """What was asked for. `source` and `out` are store locations; `created` is Unix time."""

    id: JobId
    source: str
    out: str
    recipe: Recipe
    created: float
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    force: bool = False
    """Redo what is up to date."""
    overwrite: bool = False
    """Replace files at the targets that bgpipe did not make."""
    named: str = ""
    """The digest of the keys that the submitter named; empty: all that the source lists."""
    naming: str = ""
    """The template of the targets' keys; empty: the sources' own names."""
    sweep: str = ""
    """The sweep that this is a run of; it waits for jobs that people submitted."""
    owner: str = ""
    """Whose key asked for it over HTTP; empty: a command did."""
    on_finish: str = ""
    """Address that gets the books when a job asked for over HTTP is over."""

    @property
    def locations_digest(self) -> str:
        """64 hexadecimal digits, equal for jobs with the same source and target."""
        parts = (self.source, self.out, self.include, self.exclude, self.named)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def same_as(self, other: Job) -> bool:
        """Whether both ask for the same, by whatever name."""
        return replace(self, id=other.id, created=other.created) == other


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a job. `identity` is the source's, as it was listed."""

    index: int
    source: str
    target: str
    identity: str


class ReviewFlag(StrEnum):
    """Why a person should look at a cutout that is done."""

    NO_SUBJECT = "no-subject"
    NEARLY_FULL = "nearly-full"
    TOUCHES_BORDER = "touches-border"
    LOW_CONFIDENCE = "low-confidence"
    MANY_PIECES = "many-pieces"
    FILLED_HOLE = "filled-hole"
    SOFT_EVERYWHERE = "soft-everywhere"
    MORE_FRAMES = "more-frames"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an item ended."""

    index: int
    code: Code | None = None
    detail: str = ""
    flags: tuple[ReviewFlag, ...] = ()

    @classmethod
    def done(cls, index: int, flags: tuple[ReviewFlag, ...] = ()) -> Outcome:
        return cls(index, flags=flags)

    @classmethod
    def failed(cls, index: int, error: ItemError) -> Outcome:
        return cls(index, error.code, error.detail)


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
    """A job's accounts: once finished, total = done + skipped + failed.

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
    errors: dict[str, int] = field(default_factory=dict)
    flags: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage:
    """A decoded source, upright.

    `alpha` is the source's own, if it had one; `deep` is the RGB with all of its 16 bits, if it has
    them and they were asked for; `frames` counts the pictures of the file, of which this is the first.
    """

    rgb: Pixels
    alpha: npt.NDArray[np.uint8] | None = None
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    rgb16: Pixels16 | None = None
    frames: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Matte:
    """The network's soft output at model size, float32 [h, w] in [0, 1].

    `means` are the mean colours of foreground and background around each pixel, uint8 [h, w, 6], in
    sRGB, where the device made them.
    """

    alpha: Plane
    means: Pixels | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Cutout:
    """uint8 [H, W, 4], straight alpha; colour is zero where alpha is."""

    rgba: Pixels
