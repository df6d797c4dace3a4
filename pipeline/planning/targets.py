"""Sorting what memory is not to hold at once: sorted pieces wait in files, and are merged.

Names of cutouts by a template, such as `{folder}/{stem}-cutout`.

Where each cutout goes: the source's key with another suffix, and no two in one place.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from heapq import heappop, heappush, merge
from itertools import islice
from string import Formatter
from tempfile import TemporaryFile
from typing import TextIO

from bgpipe.pipeline.errors import StorageUnavailable, UsageError
from bgpipe.pipeline.storage.base import IMAGE_SUFFIXES
from bgpipe.pipeline.types import ObjectInfo

PIECE = 100_000
"""Pairs held at once: some 50 MB."""

SourceTarget = tuple[ObjectInfo, str]


def sorted_by_target(pairs: Iterable[SourceTarget], piece: int = PIECE) -> Iterator[SourceTarget]:
    """`pairs` of a source and its target's key, by the UTF-8 bytes of the latter."""
    pairs = iter(pairs)
    with ExitStack() as files:
        kept = sorted(islice(pairs, piece), key=_place)
        spilled: list[Iterator[SourceTarget]] = []
        while following := sorted(islice(pairs, piece), key=_place):
            file = files.enter_context(TemporaryFile("w+", encoding="utf-8"))
            _write(kept, file)
            spilled.append(_read(file))
            kept = following
        yield from merge(*spilled, kept, key=_place)


def _place(pair: SourceTarget) -> bytes:
    return pair[1].encode("utf-8", "surrogatepass")


def _write(pairs: Iterable[SourceTarget], file: TextIO) -> None:
    for entry, target in pairs:
        json.dump((entry.key, entry.size, entry.identity, target), file)
        file.write("\n")


def _read(file: TextIO) -> Iterator[SourceTarget]:
    file.seek(0)
    for line in file:
        key, size, identity, target = json.loads(line)
        yield ObjectInfo(key, size, identity), target


FIELDS = ("folder", "stem", "name", "suffix", "model")
"""The source's folder, its file name without the suffix, with it, the suffix, and the model."""


class TargetCollision(UsageError):
    """Two images would have one cutout, or one would lie outside the target."""


@dataclass(frozen=True, slots=True)
class NameTemplate:
    """Gives every source's key a target's key; one without fields is the whole key of one target.

    Raises:
        UsageError: it has other fields than FIELDS.

    """

    text: str
    suffix: str
    """Put behind each name that does not have it, unless the template has no fields."""
    model: str

    def __post_init__(self) -> None:
        if unknown := self.fields - set(FIELDS):
            raise UsageError(
                f"--name has no field {sorted(unknown)[0]!r}: there are {', '.join(FIELDS)}"
            )

    @property
    def fields(self) -> set[str]:
        """The names of the fields that the template uses."""
        return _fields(self.text)

    def check_distinct(self) -> None:
        """Refuse a template that gives all images one name.

        Raises:
            UsageError: it has neither `stem` nor `name`.

        """
        if not self.fields & {"stem", "name"}:
            raise UsageError(f"--name gives all images one name: {self.text}: put {{stem}} into it")

    def target(self, key: str) -> str:
        """The key of the cutout of the source `key`.

        Raises:
            Collision: it would leave the target's folder.

        """
        folder, _, name = key.rpartition("/")
        stem, dot, suffix = name.rpartition(".")
        values = {
            "folder": folder,
            "stem": stem or name,
            "name": name,
            "suffix": suffix if dot else "",
            "model": self.model.rpartition("/")[2],
        }
        filled = self.text.format_map(values)
        complete = filled.endswith(self.suffix) or not self.fields
        parts = (filled if complete else filled + self.suffix).split("/")
        if ".." in parts:
            raise TargetCollision(f"--name leads out of the target's folder: {self.text}")
        return "/".join(part for part in parts if part not in ("", "."))


def literal(key: str) -> str:
    """The template that is this key and no other."""
    return key.replace("{", "{{").replace("}", "}}")


def literal_key(text: str) -> str:
    """The key that `literal` made the template of; empty for any other template."""
    return "" if _fields(text) else text.format_map({})


def assign_by_template(
    entries: Iterable[ObjectInfo], template: NameTemplate
) -> Iterator[tuple[ObjectInfo, str]]:
    """Each entry with the target's key that the template gives it, in the order of those keys.

    Raises:
        Collision: two entries would have the same one, or one leaves the target.

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


def _fields(text: str) -> set[str]:
    try:
        pieces = list(Formatter().parse(text))
    except ValueError as error:
        raise UsageError(f"--name cannot be read: {text}: {error}") from error
    if any(format_ or conversion for _, field, format_, conversion in pieces if field is not None):
        raise UsageError(f"--name takes plain fields only: {text}")
    return {field for _, field, _, _ in pieces if field is not None}


PNG = ".png"
LAST_SUFFIX = max(IMAGE_SUFFIXES)
"""What the name of an image ends with at most, in the order of bytes."""


class OverlappingLocations(UsageError):
    """Sources and cutouts would get into each other's way."""


def assign_targets(
    entries: Iterable[ObjectInfo],
    suffix: str = PNG,
    is_image: Callable[[ObjectInfo], bool] = lambda entry: True,  # noqa: ARG005
) -> Iterator[tuple[ObjectInfo, str]]:
    """Each entry with its target's key; no two have the same one.

    `suffix` takes the place of the source's. Where that makes two sources meet, or one meet such a full
    name, it is put after the suffix. `entries` come in the order of their keys' UTF-8 bytes: so
    those that can meet come near each other, and only they are held. So do the targets come.

    `is_image` is asked of an entry without a suffix that would meet another one: a file of another kind
    does not change an image's target, and is left out.

    Raises:
        StorageUnavailable: they come in another order, or one comes twice.

    """
    families: list[NameGroup] = []
    held: list[tuple[str, ObjectInfo]] = []
    last = ""
    for entry in entries:
        if entry.key <= last:
            raise StorageUnavailable(f"listed out of order: {entry.key!r} after {last!r}")
        last = entry.key
        while families and entry.key >= families[-1].end:
            _hold(families.pop().assign(suffix, is_image), held)
        if not families:
            yield from _before(_least_target(entry.key, suffix), held)
        stem = _family(entry.key)
        if families and families[-1].stem == stem:
            families[-1].entries.append(entry)
        else:
            families.append(NameGroup(stem, [entry]))
    while families:
        _hold(families.pop().assign(suffix, is_image), held)
    yield from _before(None, held)


@dataclass(frozen=True, slots=True)
class NameGroup:
    """Sources whose cutouts could meet: all of one folder and one name up to its first dot."""

    stem: str
    entries: list[ObjectInfo]

    @property
    def end(self) -> str:
        """The least string that is greater than the keys of all members."""
        return f"{self.stem}/"  # the character after the dot

    def assign(
        self, suffix: str, is_image: Callable[[ObjectInfo], bool]
    ) -> list[tuple[ObjectInfo, str]]:
        """Each member with its target's key."""
        targets = {entry.key: self._short(entry.key) + suffix for entry in self.entries}
        first = self.entries[0]
        meets = Counter(targets.values())[self.stem + suffix] > 1
        if first.key == self.stem and meets and not is_image(first):
            del targets[first.key]
        clashing = list(targets)
        while clashing:
            sharing = Counter(targets.values())
            clashing = [
                key
                for key, target in targets.items()
                if sharing[target] > 1 and target != key + suffix
            ]
            targets.update((key, key + suffix) for key in clashing)
        return [(entry, targets[entry.key]) for entry in self.entries if entry.key in targets]

    def _short(self, key: str) -> str:
        """The key without its last suffix."""
        return key if key == self.stem else key[: key.rindex(".")]


def _hold(planned: Iterable[tuple[ObjectInfo, str]], held: list[tuple[str, ObjectInfo]]) -> None:
    for entry, target in planned:
        heappush(held, (target, entry))


def _before(
    bound: str | None, held: list[tuple[str, ObjectInfo]]
) -> Iterator[tuple[ObjectInfo, str]]:
    """Take from `held`, in order, what comes before `bound`; all if there is none."""
    while held and (bound is None or held[0][0] < bound):
        target, entry = heappop(held)
        yield entry, target


def _least_target(key: str, suffix: str) -> str:
    """No image with this key, or with one that comes later, has a target that comes before this.

    Targets come in the order of keys, but for one thing: behind a folder `a.q/` there may be an
    image `a.tif`, and its target `a.png` comes before what is in the folder.
    """
    folder = key[: key.rfind("/") + 1]
    dots = (place for place, letter in enumerate(folder) if letter == ".")
    stems = (key[:dot] for dot in dots if suffix < folder[dot:] < LAST_SUFFIX)
    return min([f"{_family(key)}.", *(stem + suffix for stem in stems)])


def _family(key: str) -> str:
    """A key up to the first dot of its file name; dots at the name's start do not count."""
    folder, slash, name = key.rpartition("/")
    body = name.lstrip(".")
    dots = name[: len(name) - len(body)]
    return f"{folder}{slash}{dots}{body.partition('.')[0]}"
