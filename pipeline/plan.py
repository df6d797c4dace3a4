"""Where each cutout goes: the source's key with another suffix, and no two in one place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush

from bgpipe.pipeline.errors import StorageUnavailable, UsageError
from bgpipe.pipeline.storage.base import IMAGE_SUFFIXES
from bgpipe.pipeline.types import ObjectInfo

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
