"""Where each cutout goes: the source's key with another suffix, and no two in one place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush

from bgpipe.pipeline.errors import StorageUnavailable, UsageError
from bgpipe.pipeline.storage.base import IMAGE_SUFFIXES
from bgpipe.pipeline.types import Entry

PNG = ".png"
LAST_SUFFIX = max(IMAGE_SUFFIXES)
"""What the name of an image ends with at most, in the order of bytes."""


class Misplaced(UsageError):
    """Sources and cutouts would get into each other's way."""


def plan(entries: Iterable[Entry], suffix: str = PNG) -> Iterator[tuple[Entry, str]]:
    """Each entry with its target's key; no two have the same one.

    `suffix` takes the place of the source's. Where that makes two sources meet, or one meet such a full
    name, it is put after the suffix. `entries` come in the order of their keys' UTF-8 bytes: so
    those that can meet come near each other, and only they are held. So do the targets come, where
    all entries are images by their names.

    Raises:
        StorageUnavailable: they come in another order, or one comes twice.

    """
    families: list[Family] = []
    bare: set[str] = set()
    held: list[tuple[str, Entry]] = []
    last = ""
    for entry in entries:
        if entry.key <= last:
            raise StorageUnavailable(f"listed out of order: {entry.key!r} after {last!r}")
        last = entry.key
        while families and not entry.key.startswith(families[-1].prefix):
            _hold(families.pop().plan(bare, suffix), held)
        if not families:
            yield from _before(_least_target(entry.key, suffix), held)
        stem = _family(entry.key)
        if stem == entry.key:
            bare.add(stem)
            _hold([(entry, entry.key + suffix)], held)
        elif families and families[-1].stem == stem:
            families[-1].entries.append(entry)
        else:
            families.append(Family(stem, [entry]))
    while families:
        _hold(families.pop().plan(bare, suffix), held)
    yield from _before(None, held)


@dataclass(frozen=True, slots=True)
class Family:
    """Sources whose cutouts could meet: all of one folder and one name up to its first dot."""

    stem: str
    entries: list[Entry]

    @property
    def prefix(self) -> str:
        """What the keys of all members begin with, and those of folders between them."""
        return f"{self.stem}."

    def plan(self, bare: Container[str], suffix: str) -> list[tuple[Entry, str]]:
        """Each member with its target's key; `bare` are the sources whose names have no suffix."""
        taken = [self.stem + suffix] if self.stem in bare else []
        targets = {entry.key: _stem(entry.key) + suffix for entry in self.entries}
        clashing = list(targets)
        while clashing:
            sharing = Counter([*targets.values(), *taken])
            clashing = [
                key
                for key, target in targets.items()
                if sharing[target] > 1 and target != key + suffix
            ]
            targets.update((key, key + suffix) for key in clashing)
        return [(entry, targets[entry.key]) for entry in self.entries]


def _hold(planned: Iterable[tuple[Entry, str]], held: list[tuple[str, Entry]]) -> None:
    for entry, target in planned:
        heappush(held, (target, entry))


def _before(bound: str | None, held: list[tuple[str, Entry]]) -> Iterator[tuple[Entry, str]]:
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


def _stem(key: str) -> str:
    return key[: key.rindex(".")]
