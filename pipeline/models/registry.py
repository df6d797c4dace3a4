"""The models by name, and the way from a name or a path to checked weights on this machine."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError, safe_open

from bgpipe.pipeline.errors import ModelUnavailable, UsageError
from bgpipe.pipeline.logging import report_wait
from bgpipe.pipeline.models.hub import NEWEST, Hub, Offer, cached
from bgpipe.pipeline.models.lockfile import LockFile, Pin, hash_file
from bgpipe.pipeline.types import ModelTask, PatchOrder, ResolvedModel

AUTO = "auto"
NO_MATTING = "none"
DEFAULT = "birefnet-general"
TRIAL = "birefnet-nano"
FILE = "model.safetensors"
BUNDLE = Path(__file__).parent

# Keys of a safetensors header that may describe weights given by their path.
SIZE_KEY = "bgpipe.size"  # HEIGHTxWIDTH
ORDER_KEY = "bgpipe.patch_order"
# A tensor that tells a ViTMatte from a BiRefNet.
EDGES_KEY = "decoder.matting_head.matting_convs.0.weight"
EDGES_SIZE = "512x512"  # the crops that ViTMatte was trained on

OPTIONS = {ModelTask.SUBJECT: "--model", ModelTask.EDGES: "--matting"}

Side = Annotated[int, Field(gt=0, le=8192, multiple_of=32)]
Size = tuple[Side, Side]


class WeightsDiffer(ModelUnavailable):
    """The weights of a name are not those that were pinned."""


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class ModelEntry:
    """One model of models.toml, whose head explains the fields."""

    summary: str
    backbone: str
    size: Size
    license: str
    commercial: str
    patch_order: PatchOrder = PatchOrder.CURRENT
    task: ModelTask = ModelTask.SUBJECT
    repo: str | None = None
    revision: str = NEWEST

    @property
    def bundled(self) -> bool:
        return self.repo is None


def read_models() -> dict[str, ModelEntry]:
    """Read the registry."""
    text = files("bgpipe.config").joinpath("models.toml").read_text(encoding="utf-8")
    return TypeAdapter(dict[str, ModelEntry]).validate_python(tomllib.loads(text))


def list_names(task: ModelTask) -> list[str]:
    """What may be written for a model of this kind, besides a path."""
    special = {ModelTask.SUBJECT: AUTO, ModelTask.EDGES: NO_MATTING}[task]
    return [special, *(name for name, entry in read_models().items() if entry.task is task)]


def resolve(
    reference: str, *, cache: Path, hub: Hub | None = None, task: ModelTask | None = None
) -> ResolvedModel:
    """Find the weights of a registry name, a safetensors file or a folder with model.safetensors.

    `cache` is the folder of pulled weights and their lock file. Without a `hub` nothing is pulled.

    Raises:
        UsageError: there is neither such a name nor such a file, or its task is not `task`.
        ModelUnavailable: the weights are not here and cannot be pulled, or are no weights.
        WeightsDiffer: they are not those that were pinned.

    """
    entry = read_models().get(reference)
    if entry is None:
        model = _resolve_path(reference, cache)
        _check_task(reference, model.task, task)
        return model
    _check_task(reference, entry.task, task)
    path = locate(reference, cache=cache)
    if path is None and hub is not None:
        return pull(reference, cache=cache, hub=hub)
    if path is None:
        raise ModelUnavailable(_advice(reference, "not pulled yet"))
    if not path.is_file():
        raise ModelUnavailable(f"bundled weights missing: {path}; install bgpipe again")
    return _checked(reference, entry, path, LockFile(cache))


def resolve_auto(*, embedded: bool, cache: Path, hub: Hub | None) -> tuple[ResolvedModel, bool]:
    """Resolve the default model; say whether the bundled one had to take its place.

    Only `embedded` may degrade, and only because the default is away: one that differs from its
    pin raises there too. Raises as `resolve`.
    """
    try:
        return resolve(DEFAULT, cache=cache, hub=hub), False
    except WeightsDiffer:
        raise
    except ModelUnavailable:
        if not embedded:
            raise
        return resolve(TRIAL, cache=cache), True


def locate(name: str, *, cache: Path) -> Path | None:
    """Where the weights of a registry name lie, unchecked; None when they were not pulled.

    Raises UsageError when there is no such name.
    """
    entry = _entry(name)
    if entry.repo is None:
        return BUNDLE / f"{name}.safetensors"
    pin = LockFile(cache).pin(name)
    return cached(entry.repo, FILE, pin.commit, cache) if pin else None


def pull(name: str, *, cache: Path, hub: Hub) -> ResolvedModel:
    """Fetch the weights of a registry name: the pinned commit, or else the newest, pinning it.

    Raises as `resolve`.
    """
    entry, lock = _entry(name), LockFile(cache)
    if entry.repo is None:
        return resolve(name, cache=cache)
    offer = find_remote(name, cache=cache, hub=hub)
    try:
        if hub.notify:
            size = f" ({offer.size / 1e6:.0f} MB)" if offer.size else ""
            hub.notify(f"downloading {name}{size} from {hub.host} ...")
        path = hub.download(entry.repo, FILE, offer.commit, cache)
    except ModelUnavailable as error:
        raise ModelUnavailable(_advice(name, str(error))) from error
    sha256 = lock.sha256(path)
    if offer.sha256 not in (None, sha256):
        raise WeightsDiffer(f"download damaged: {path.resolve()}; delete it and pull again")
    lock.record(name, Pin(entry.repo, offer.commit, sha256))
    return _checked(name, entry, path, lock)


def find_remote(name: str, *, cache: Path, hub: Hub) -> Offer:
    """What `hub` has of a model: the pinned commit, or else the newest.

    Raises:
        ModelUnavailable: nothing, or the hub does not answer.

    """
    entry, pin = _entry(name), LockFile(cache).pin(name)
    try:
        with report_wait(hub.notify, f"asking {hub.host} for {name}"):
            return hub.offer(entry.repo or "", FILE, pin.commit if pin else entry.revision)
    except ModelUnavailable as error:
        raise ModelUnavailable(_advice(name, str(error))) from error


def verify(reference: str, *, cache: Path) -> ResolvedModel:
    """Read the whole file again and compare it with what is known of it. Raises as `resolve`."""
    model = resolve(reference, cache=cache)
    if hash_file(model.path) != model.sha256:
        raise WeightsDiffer(
            f"weights have changed: {model.path.resolve()}; its sha256 is no longer"
            f" {model.sha256}; delete the file and pull it again"
        )
    return model


def _entry(name: str) -> ModelEntry:
    entry = read_models().get(name)
    if entry is None:
        raise UsageError(_unknown(name))
    return entry


def _checked(name: str, entry: ModelEntry, path: Path, lock: LockFile) -> ResolvedModel:
    sha256, pin = lock.sha256(path), lock.pin(name)
    if entry.repo is not None and pin is not None and pin.sha256 != sha256:
        raise WeightsDiffer(
            f"weights of {name} are not the pinned ones: {path.resolve()} has sha256 {sha256},"
            f" {lock.path} says {pin.sha256}; delete the file and pull it again"
        )
    return ResolvedModel(
        name, path, sha256, entry.size, entry.patch_order, entry.bundled, entry.task
    )


def _check_task(reference: str, task: ModelTask, wanted: ModelTask | None) -> None:
    if wanted not in (None, task):
        raise UsageError(f"{reference} is for {OPTIONS[task]}, not for {OPTIONS[wanted]}")


def _resolve_path(reference: str, cache: Path) -> ResolvedModel:
    given = Path(reference).expanduser()
    path = given / FILE if given.is_dir() else given
    if not path.is_file():
        raise UsageError(_unknown(reference))
    size, order, task = _described(path)
    sha256 = LockFile(cache).sha256(path)
    return ResolvedModel(str(path.resolve()), path, sha256, size, order, bundled=False, task=task)


def _described(path: Path) -> tuple[Size, PatchOrder, ModelTask]:
    """What the file's header says of itself; the released models' values where it says nothing."""
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            task = ModelTask.EDGES if EDGES_KEY in file.keys() else ModelTask.SUBJECT  # noqa: SIM118  # no dict
        size = EDGES_SIZE if task is ModelTask.EDGES else "1024x1024"
        order = PatchOrder(header.get(ORDER_KEY, "current"))
        return _size(header.get(SIZE_KEY, size)), order, task
    except (OSError, SafetensorError) as error:
        raise ModelUnavailable(
            f"no safetensors file: {path} ({error}); convert other formats first"
        ) from error
    except ValueError as error:
        raise ModelUnavailable(f"bad description in the header of {path}: {error}") from error


def _size(text: str) -> Size:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise ValueError(f"{SIZE_KEY} is not HEIGHTxWIDTH: {text}")
    return TypeAdapter(Size).validate_python((int(match[1]), int(match[2])))


def _unknown(reference: str) -> str:
    return f"unknown model: {reference}; give a path to safetensors or one of {', '.join(read_models())}"


def _advice(name: str, reason: str) -> str:
    task = _entry(name).task
    without = (
        f"try things out with --model {TRIAL}" if task is ModelTask.SUBJECT else "do without it"
    )
    return (
        f"model not on this machine: {name} ({reason}); run `bgpipe models pull {name}` where a"
        f" model hub can be reached, set HF_ENDPOINT to a mirror, give weights with {OPTIONS[task]}"
        f" PATH, or {without}"
    )
