"""Names of cutouts by a template, such as `{folder}/{stem}-cutout`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from string import Formatter

from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.spill import sorted_by_target
from bgpipe.pipeline.types import ObjectInfo

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
