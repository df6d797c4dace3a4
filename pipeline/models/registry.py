"""The registry of models: from a name or a path to verified weights on this machine."""

import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError, safe_open

from bgpipe.pipeline.errors import ModelUnavailable, UsageError
from bgpipe.pipeline.logging import report_wait
from bgpipe.pipeline.models.hub import NEWEST, Hub, HubFile, find_cached
from bgpipe.pipeline.models.lockfile import LockFile, Pin, hash_file
from bgpipe.pipeline.types import ModelTask, PatchOrder, ResolvedModel

AUTO = "auto"
NO_MATTING = "none"
DEFAULT = "birefnet-general"
TRIAL = "birefnet-nano"
FILE = "model.safetensors"
NOT_PULLED = "not pulled yet"
BUNDLE = Path(__file__).parent

# Keys in the header of a safetensors file given by its path.
SIZE_KEY = "bgpipe.size"  # HEIGHTxWIDTH
ORDER_KEY = "bgpipe.patch_order"
# A tensor that only a ViTMatte has.
EDGES_KEY = "decoder.matting_head.matting_convs.0.weight"
EDGES_SIZE = "512x512"  # of the crops that ViTMatte was trained with

OPTIONS = {ModelTask.SUBJECT: "--model", ModelTask.EDGES: "--matting"}

Side = Annotated[int, Field(gt=0, le=8192, multiple_of=32)]
Size = tuple[Side, Side]


class WeightsDiffer(ModelUnavailable):
    """The weights of a model are not the pinned ones."""


class LicenceNotAccepted(UsageError):
    """The weights have terms that no user has accepted: nothing was pulled."""


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class ModelEntry:
    """A model in models.toml, which explains the fields."""

    summary: str
    backbone: str
    size: Size
    license: str
    data: str
    commercial: Literal["yes", "ask", "no"]
    sources: list[str]
    terms: str = ""
    patch_order: PatchOrder = PatchOrder.CURRENT
    task: ModelTask = ModelTask.SUBJECT
    repo: str | None = None
    file: str = FILE
    revision: str = NEWEST
    megabytes: int | None = None


def read_models() -> dict[str, ModelEntry]:
    """Read the registry by model name."""
    text = files("bgpipe.config").joinpath("models.toml").read_text(encoding="utf-8")
    return TypeAdapter(dict[str, ModelEntry]).validate_python(tomllib.loads(text))


def find_entry(name: str) -> ModelEntry:
    """Return the entry of a name; raises UsageError if it is unknown."""
    entry = read_models().get(name)
    if entry is None:
        raise UsageError(_unknown(name))
    return entry


def list_names(task: ModelTask) -> list[str]:
    """Return the names, besides a path, that select a model for this task."""
    special = {ModelTask.SUBJECT: AUTO, ModelTask.EDGES: NO_MATTING}[task]
    return [special, *(name for name, entry in read_models().items() if entry.task is task)]


def resolve(
    reference: str, *, cache: Path, hub: Hub | None = None, task: ModelTask | None = None
) -> ResolvedModel:
    """Find the weights of a registry name, a safetensors file or a folder with model.safetensors.

    `cache` is the folder of pulled weights and their lock file. Without a `hub` nothing is pulled.

    Raises:
        UsageError: neither a name nor a file, or the model's task is not `task`.
        LicenceNotAccepted: the weights have to be pulled, and their terms were not accepted.
        ModelUnavailable: the weights are invalid, or not on this machine and cannot be pulled.
        WeightsDiffer: they are not the pinned ones.
    """
    model = read_models().get(reference) or _resolve_path(reference, cache)
    if task and task is not model.task:
        option, other = OPTIONS[model.task], OPTIONS[task]
        raise UsageError(f"{reference} is for {option}, not for {other}")
    if isinstance(model, ResolvedModel):
        return model
    path = locate(reference, cache=cache)
    if path is None and hub is not None:
        return pull(reference, cache=cache, hub=hub)
    if path is None:
        raise ModelUnavailable(_explain_absence(reference, NOT_PULLED))
    if not path.is_file():
        raise ModelUnavailable(f"bundled weights missing: {path}: reinstall bgpipe")
    return _verify_pin(reference, model, path, LockFile(cache))


def resolve_auto(*, embedded: bool, cache: Path, hub: Hub | None) -> tuple[ResolvedModel, bool]:
    """Resolve the default model; return also whether the bundled one replaces it.

    It does so only if `embedded`, and only if the default is absent: weights that differ from their
    pin raise an error in any mode. Raises as `resolve`.
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
    """Return the unverified path of a model's weights; None if they were not pulled.

    Raises UsageError if the name is unknown.
    """
    entry = find_entry(name)
    if entry.repo is None:
        return BUNDLE / f"{name}.safetensors"
    pin = LockFile(cache).pin(name)
    return find_cached(entry.repo, entry.file, pin.commit, cache) if pin else None


def pull(name: str, *, cache: Path, hub: Hub) -> ResolvedModel:
    """Download a model's weights: the pinned commit, or else the newest, which is pinned then.

    Raises as `resolve`.
    """
    entry, lock = find_entry(name), LockFile(cache)
    if entry.repo is None:
        return resolve(name, cache=cache)
    remote = find_remote(name, cache=cache, hub=hub)
    try:
        if hub.notify:
            size = f" ({remote.size / 1e6:.0f} MB)" if remote.size else ""
            hub.notify(f"downloading {name}{size} from {hub.host} ...")
        path = hub.download(entry.repo, entry.file, remote.commit, cache)
    except ModelUnavailable as error:
        raise ModelUnavailable(_explain_absence(name, str(error))) from error
    sha256 = lock.sha256(path)
    if remote.sha256 not in (None, sha256):
        raise WeightsDiffer(f"download damaged: {path.resolve()}: delete it and pull again")
    lock.record(name, Pin(entry.repo, remote.commit, sha256))
    return _verify_pin(name, entry, path, lock)


def find_remote(name: str, *, cache: Path, hub: Hub) -> HubFile:
    """Find a model on the hub at the pinned commit, or else the newest.

    Raises:
        LicenceNotAccepted: its weights are not here, and their terms were not accepted.
        ModelUnavailable: the hub does not have it or does not respond.
    """
    entry, pin = find_entry(name), LockFile(cache).pin(name)
    if entry.terms and name not in hub.accepted and locate(name, cache=cache) is None:
        raise LicenceNotAccepted(_explain_terms(name, entry))
    try:
        with report_wait(hub.notify, f"asking {hub.host} for {name}"):
            revision = pin.commit if pin else entry.revision
            return hub.find_file(entry.repo or "", entry.file, revision)
    except ModelUnavailable as error:
        raise ModelUnavailable(_explain_absence(name, str(error))) from error


def verify(reference: str, *, cache: Path) -> ResolvedModel:
    """Hash the file again and compare it with the known sha256. Raises as `resolve`."""
    model = resolve(reference, cache=cache)
    if hash_file(model.path) != model.sha256:
        raise WeightsDiffer(
            f"weights have changed: {model.path.resolve()}: the sha256 is no longer {model.sha256}:"
            " delete the file and pull it again"
        )
    return model


def _verify_pin(name: str, entry: ModelEntry, path: Path, lock: LockFile) -> ResolvedModel:
    sha256, pin = lock.sha256(path), lock.pin(name)
    if entry.repo is not None and pin is not None and pin.sha256 != sha256:
        raise WeightsDiffer(
            f"weights of {name} are not the pinned ones: {path.resolve()} has sha256 {sha256},"
            f" {lock.path} says {pin.sha256}: delete the file and pull it again"
        )
    return ResolvedModel(name, path, sha256, entry.size, entry.patch_order, entry.task)


def _resolve_path(reference: str, cache: Path) -> ResolvedModel:
    given = Path(reference).expanduser()
    path = given / FILE if given.is_dir() else given
    if not path.is_file():
        raise UsageError(_unknown(reference))
    size, order, task = _read_header(path)
    sha256 = LockFile(cache).sha256(path)
    return ResolvedModel(str(path.resolve()), path, sha256, size, order, task)


def _read_header(path: Path) -> tuple[Size, PatchOrder, ModelTask]:
    """Read size, patch order and task from the file; the defaults are the released models'."""
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            task = ModelTask.EDGES if EDGES_KEY in file.keys() else ModelTask.SUBJECT  # noqa: SIM118  # no dict
        size = EDGES_SIZE if task is ModelTask.EDGES else "1024x1024"
        order = PatchOrder(header.get(ORDER_KEY, "current"))
        return _parse_size(header.get(SIZE_KEY, size)), order, task
    except (OSError, SafetensorError) as error:
        raise ModelUnavailable(
            f"not a safetensors file: {path}: {error}: convert other formats first"
        ) from error
    except ValueError as error:
        raise ModelUnavailable(f"invalid metadata in the header of {path}: {error}") from error


def _parse_size(text: str) -> Size:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise ValueError(f"{SIZE_KEY} is not HEIGHTxWIDTH: {text}")
    return TypeAdapter(Size).validate_python((int(match[1]), int(match[2])))


def _unknown(reference: str) -> str:
    return f"unknown model: {reference}: pass a path to safetensors or one of {', '.join(read_models())}"


def _explain_terms(name: str, entry: ModelEntry) -> str:
    return (
        f"terms of {name} not accepted: {entry.license}: {entry.terms} ({entry.sources[0]}): to accept"
        f" them, run `bgpipe models pull {name} --accept-licence {name}`, or write"
        f' accept_licences = ["{name}"] under [model] in bgpipe.toml'
    )


def _explain_absence(name: str, reason: str) -> str:
    entry = find_entry(name)
    if entry.terms and reason == NOT_PULLED:
        return _explain_terms(name, entry)
    task = entry.task
    instead = f"try --model {TRIAL}" if task is ModelTask.SUBJECT else "omit it"
    return (
        f"model not on this machine: {name} ({reason}): run `bgpipe models pull {name}` where a"
        f" model hub is reachable, set HF_ENDPOINT to a mirror, pass weights with {OPTIONS[task]}"
        f" PATH, or {instead}"
    )
