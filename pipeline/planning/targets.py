"""Target keys of sources: the source's own name with another suffix, or a name template.

No two files share a target. Targets are sorted by their keys' UTF-8 bytes, the order in which stores
list, and in temporary files where they exceed memory.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from heapq import merge
from itertools import islice
from string import Formatter
from tempfile import TemporaryFile
from typing import Any, NamedTuple

from bgpipe.pipeline.errors import StorageUnavailable, UsageError
from bgpipe.pipeline.types import Job, JobOutput, ObjectInfo

FIELDS = ("folder", "stem", "name", "suffix", "model")
"""The source's folder, its file name without the suffix, with it, the suffix, and the model."""
CHUNK_ROWS = 50_000
"""Sorted in memory at once: about 25 MB."""

Row = tuple[Any, ...]
"""Values of JSON."""
NameGroup = tuple[str, list[ObjectInfo]]
"""Sources whose targets could collide: those of one folder and this name up to its first dot."""


class PlannedTarget(NamedTuple):
    """A source, the key of one of its outputs, and the output's position in the job."""

    source: ObjectInfo
    key: str
    output: int = 0


class TargetCollision(UsageError):
    """Two images would share a target, or one would leave the target's folder."""


class OverlappingLocations(UsageError):
    """Cutouts would be written among their sources."""


def check_template(text: str) -> None:
    """Raise UsageError for a name template with an unknown field, or that gives all images one name.

    A template such as `{folder}/{stem}-cutout` has some of FIELDS, `stem` or `name` among them.
    """
    names = _field_names(text)
    if unknown := names - set(FIELDS):
        raise UsageError(
            f"--name has no field {sorted(unknown)[0]!r}: there are {', '.join(FIELDS)}"
        )
    if not names & {"stem", "name"}:
        raise UsageError(f"--name gives all images one name: {text}: put {{stem}} into it")


def expand_template(template: str, key: str, suffix: str, model: str) -> str:
    """Return the target's key for the source `key`.

    `suffix` is appended to a name that lacks it. A template without fields is a whole key.

    Raises TargetCollision if it would leave the target's folder.
    """
    folder, _, name = key.rpartition("/")
    stem, dot, ending = name.rpartition(".")
    text = template.format_map(
        {
            "folder": folder,
            "stem": stem or name,
            "name": name,
            "suffix": ending if dot else "",
            "model": model.rpartition("/")[2],
        }
    )
    if not text.endswith(suffix) and _field_names(template):
        text += suffix
    parts = text.split("/")
    if ".." in parts:
        raise TargetCollision(f"--name leads out of the target's folder: {template}")
    return "/".join(part for part in parts if part not in ("", "."))


def literal(key: str) -> str:
    """Return the template that is this key and no other."""
    return key.replace("{", "{{").replace("}", "}}")


def literal_key(text: str) -> str:
    """Return the key of a template without fields; empty for any other template."""
    return "" if _field_names(text) else text.format_map({})


def _field_names(text: str) -> set[str]:
    try:
        pieces = list(Formatter().parse(text))
    except ValueError as error:
        raise UsageError(f"--name cannot be read: {text}: {error}") from error
    if any(format_ or conversion for _, field, format_, conversion in pieces if field is not None):
        raise UsageError(f"--name takes plain fields only: {text}")
    return {field for _, field, _, _ in pieces if field is not None}


def assign_targets(
    entries: Iterable[ObjectInfo],
    job: Job,
    is_image: Callable[[ObjectInfo], bool] = lambda entry: True,  # noqa: ARG005
) -> Iterator[PlannedTarget]:
    """Yield each entry with the key of each output of `job`, in the order of these keys.

    The suffix of an output without a template replaces the source's. Where two sources would share
    that key, or one equals another's full name, it is appended instead. `entries` come in the order
    of their keys' UTF-8 bytes.

    `is_image` is called for an entry without a suffix that would share its key: another kind of file
    is dropped, and changes no image's target.

    Raises:
        TargetCollision: two files share a key, or one leaves the target.
        StorageUnavailable: entries come in another order, or twice.
    """

    def key(entry: ObjectInfo, base: str, output: JobOutput) -> str:
        suffix = output.recipe.output.suffix
        if output.naming:
            return expand_template(output.naming, entry.key, suffix, job.recipe.model)
        return base + output.suffix + suffix

    outputs = job.every_output
    rows = (
        (entry.key, entry.size, entry.identity, key(entry, base, output), position)
        for group in _name_groups(entries)
        for entry, base in _assign_group(group, is_image)
        for position, output in enumerate(outputs)
    )
    last: str | None = None
    for *entry, target, position in sort_rows(rows, lambda row: key_bytes(row[3])):
        if target == last:
            raise _collision(entry[0], target, outputs[position].name)
        last = target
        yield PlannedTarget(ObjectInfo(*entry), target, position)


def _collision(key: str, target: str, output: str) -> TargetCollision:
    if output:
        remedy = "give it another suffix or name"
        return TargetCollision(
            f"outputs.{output} gives {key} the place of another file: {target}: {remedy}"
        )
    remedy = "put {folder} or {name} into it"
    return TargetCollision(f"--name gives {key} the place of another image: {target}: {remedy}")


def _name_groups(entries: Iterable[ObjectInfo]) -> Iterator[NameGroup]:
    """Yield complete groups; those of `a`, `a-b` and `a.q/c` are nested in the order of keys."""
    unfinished: list[NameGroup] = []
    last = ""
    for entry in entries:
        if entry.key <= last:
            raise StorageUnavailable(f"listed out of order: {entry.key!r} after {last!r}")
        last = entry.key
        while unfinished and entry.key >= f"{unfinished[-1][0]}/":  # "/" follows "."
            yield unfinished.pop()
        stem = _stem(entry.key)
        if not unfinished or unfinished[-1][0] != stem:
            unfinished.append((stem, []))
        unfinished[-1][1].append(entry)
    yield from unfinished


def _assign_group(
    group: NameGroup, is_image: Callable[[ObjectInfo], bool]
) -> Iterator[tuple[ObjectInfo, str]]:
    """Yield the entries, each with what precedes the suffix in its target's key."""
    stem, entries = group
    bases = {
        entry.key: stem if entry.key == stem else entry.key[: entry.key.rindex(".")]
        for entry in entries
    }
    collides = Counter(bases.values())[stem] > 1
    if entries[0].key == stem and collides and not is_image(entries[0]):
        del bases[stem]
    colliding = list(bases)
    while colliding:
        counts = Counter(bases.values())
        colliding = [key for key, base in bases.items() if counts[base] > 1 and base != key]
        bases.update((key, key) for key in colliding)
    return ((entry, bases[entry.key]) for entry in entries if entry.key in bases)


def _stem(key: str) -> str:
    """Return the key up to the first dot of its file name; leading dots of the name do not count."""
    name = key.rpartition("/")[2].lstrip(".")
    return key.removesuffix(name) + name.partition(".")[0]


def sort_rows(
    rows: Iterable[Row], order: Callable[[Row], Any], chunk_rows: int = CHUNK_ROWS
) -> Iterator[Row]:
    """Yield `rows` in this order; chunks but the last wait in files."""
    rows = iter(rows)
    with ExitStack() as files:
        chunk = sorted(islice(rows, chunk_rows), key=order)
        spilled: list[Iterator[Row]] = []
        while following := sorted(islice(rows, chunk_rows), key=order):
            file = files.enter_context(TemporaryFile("w+", encoding="utf-8"))
            file.writelines(json.dumps(row) + "\n" for row in chunk)
            file.seek(0)
            spilled.append(tuple(json.loads(line)) for line in file)
            chunk = following
        yield from merge(*spilled, chunk, key=order)


def key_bytes(key: str) -> bytes:
    """Return what orders the keys of a store."""
    return key.encode("utf-8", "surrogatepass")
