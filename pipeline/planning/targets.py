"""Target keys of sources: the source's own name with another suffix, or a name template.

No two sources share a target. Pairs of source and target are sorted by the target's UTF-8 bytes, the
order in which stores list, and in temporary files where they exceed memory.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from string import Formatter
from tempfile import TemporaryFile
from typing import Any, TextIO

from bgpipe.pipeline.errors import StorageUnavailable, UsageError
from bgpipe.pipeline.types import Job, ObjectInfo

FIELDS = ("folder", "stem", "name", "suffix", "model")
"""The source's folder, its file name without the suffix, with it, the suffix, and the model."""
PNG = ".png"
CHUNK_PAIRS = 50_000
"""Pairs sorted in memory at once: about 25 MB."""

SourceTarget = tuple[ObjectInfo, str]
OutputTarget = tuple[ObjectInfo, str, int]
"""A source, the key of one of its outputs, and the output's position in the job."""
PlannedTarget = SourceTarget | OutputTarget
Row = tuple[Any, ...]
"""Values of JSON."""
NameGroup = tuple[str, list[ObjectInfo]]
"""Sources whose targets could collide: those of one folder and this name up to its first dot."""


class TargetCollision(UsageError):
    """Two images would share a target, or one would leave the target's folder."""


class OverlappingLocations(UsageError):
    """Cutouts would be written among their sources."""


@dataclass(frozen=True, slots=True)
class NameTemplate:
    """A template of target keys, such as `{folder}/{stem}-cutout`; without fields, one whole key.

    `suffix` is appended to names that lack it, unless the template has no fields.

    Raises UsageError if it has other fields than FIELDS.
    """

    text: str
    suffix: str
    model: str

    def __post_init__(self) -> None:
        if unknown := _field_names(self.text) - set(FIELDS):
            raise UsageError(
                f"--name has no field {sorted(unknown)[0]!r}: there are {', '.join(FIELDS)}"
            )

    def check_distinct(self) -> None:
        """Refuse a template that gives all images one name.

        Raises UsageError if it has neither `stem` nor `name`.
        """
        if not _field_names(self.text) & {"stem", "name"}:
            raise UsageError(f"--name gives all images one name: {self.text}: put {{stem}} into it")

    def target(self, key: str) -> str:
        """Return the target's key for the source `key`.

        Raises TargetCollision if it would leave the target's folder.
        """
        folder, _, name = key.rpartition("/")
        stem, dot, suffix = name.rpartition(".")
        text = self.text.format_map(
            {
                "folder": folder,
                "stem": stem or name,
                "name": name,
                "suffix": suffix if dot else "",
                "model": self.model.rpartition("/")[2],
            }
        )
        if _field_names(self.text) and not text.endswith(self.suffix):
            text += self.suffix
        parts = text.split("/")
        if ".." in parts:
            raise TargetCollision(f"--name leads out of the target's folder: {self.text}")
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


def assign_by_template(
    entries: Iterable[ObjectInfo], template: NameTemplate
) -> Iterator[SourceTarget]:
    """Yield each entry with the key that the template gives it, in the order of those keys.

    Raises TargetCollision if two entries share a key, or one leaves the target.
    """
    last: str | None = None
    for entry, target in sorted_by_target((entry, template.target(entry.key)) for entry in entries):
        if target == last:
            raise TargetCollision(
                f"--name gives {entry.key} the place of another image: {target}: "
                f"put {{folder}} or {{name}} into it"
            )
        last = target
        yield entry, target


def assign_targets(
    entries: Iterable[ObjectInfo],
    suffix: str = PNG,
    is_image: Callable[[ObjectInfo], bool] = lambda entry: True,  # noqa: ARG005
) -> Iterator[SourceTarget]:
    """Yield each entry with its target's key, in the order of those keys.

    `suffix` replaces the source's. Where two sources would share that key, or one equals another's
    full name, `suffix` is appended instead. `entries` come in the order of their keys' UTF-8 bytes.

    `is_image` is called for an entry without a suffix that would share its key: another kind of file
    is dropped, and changes no image's target.

    Raises StorageUnavailable if entries come in another order, or twice.
    """
    return sorted_by_target(
        pair for group in _name_groups(entries) for pair in _assign_group(group, suffix, is_image)
    )


def assign_outputs(
    entries: Iterable[ObjectInfo], job: Job, is_image: Callable[[ObjectInfo], bool]
) -> Iterator[OutputTarget]:
    """Yield each entry with the key of each output of `job`, in the order of these keys.

    An output without a template replaces the source's suffix by its own. Sources that would share a key
    then keep their full names, as in `assign_targets`, whose arguments these are.

    Raises TargetCollision if two files would still share a key, or one leaves the target.
    """
    model, endings = job.recipe.model, [each.recipe.output.suffix for each in job.outputs]
    templates = [
        NameTemplate(output.naming, ending, model) if output.naming else None
        for output, ending in zip(job.outputs, endings, strict=True)
    ]

    def key(entry: ObjectInfo, base: str, position: int) -> str:
        template = templates[position]
        ending = job.outputs[position].suffix + endings[position]
        return template.target(entry.key) if template else base + ending

    rows = (
        (entry.key, entry.size, entry.identity, key(entry, base, position), position)
        for group in _name_groups(entries)
        for entry, base in _assign_group(group, "", is_image)
        for position in range(len(job.outputs))
    )
    last: str | None = None
    for *entry, target, position in sort_rows(rows, lambda row: key_bytes(row[3])):
        if target == last:
            raise TargetCollision(
                f"outputs.{job.outputs[position].name} gives {entry[0]} the place of another file: "
                f"{target}: give it another suffix or name"
            )
        last = target
        yield ObjectInfo(*entry), target, position


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
    group: NameGroup, suffix: str, is_image: Callable[[ObjectInfo], bool]
) -> Iterator[SourceTarget]:
    stem, entries = group
    targets = {
        entry.key: (stem if entry.key == stem else entry.key[: entry.key.rindex(".")]) + suffix
        for entry in entries
    }
    collides = Counter(targets.values())[stem + suffix] > 1
    if entries[0].key == stem and collides and not is_image(entries[0]):
        del targets[stem]
    colliding = list(targets)
    while colliding:
        counts = Counter(targets.values())
        colliding = [
            key for key, target in targets.items() if counts[target] > 1 and target != key + suffix
        ]
        targets.update((key, key + suffix) for key in colliding)
    return ((entry, targets[entry.key]) for entry in entries if entry.key in targets)


def _stem(key: str) -> str:
    """Return the key up to the first dot of its file name; leading dots of the name do not count."""
    name = key.rpartition("/")[2].lstrip(".")
    return key.removesuffix(name) + name.partition(".")[0]


def sorted_by_target(
    pairs: Iterable[SourceTarget], chunk_pairs: int = CHUNK_PAIRS
) -> Iterator[SourceTarget]:
    """Yield `pairs` by the UTF-8 bytes of the targets' keys."""
    rows = ((entry.key, entry.size, entry.identity, target) for entry, target in pairs)
    for *entry, target in sort_rows(rows, lambda row: key_bytes(row[3]), chunk_pairs):
        yield ObjectInfo(*entry), target


def sort_rows(
    rows: Iterable[Row], order: Callable[[Row], Any], chunk_rows: int = CHUNK_PAIRS
) -> Iterator[Row]:
    """Yield `rows` in this order; chunks but the last wait in files."""
    rows = iter(rows)
    with ExitStack() as files:
        chunk = sorted(islice(rows, chunk_rows), key=order)
        spilled: list[Iterator[Row]] = []
        while following := sorted(islice(rows, chunk_rows), key=order):
            file = files.enter_context(TemporaryFile("w+", encoding="utf-8"))
            file.writelines(json.dumps(row) + "\n" for row in chunk)
            spilled.append(_read_chunk(file))
            chunk = following
        yield from merge(*spilled, chunk, key=order)


def key_bytes(key: str) -> bytes:
    """Return what orders the keys of a store."""
    return key.encode("utf-8", "surrogatepass")


def _read_chunk(file: TextIO) -> Iterator[Row]:
    file.seek(0)
    return (tuple(json.loads(line)) for line in file)
