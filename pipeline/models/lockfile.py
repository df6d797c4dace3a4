"""models.lock.json: which commit and which bytes a model's name stands for on this machine.

The first pull writes a pin; everything later has to agree with it, however the hub moves. The
file also remembers the hashes of weights that have not changed since, because reading a gigabyte
at every start takes seconds.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from bgpipe.pipeline.errors import ModelUnavailable

NAME = "models.lock.json"


@dataclass(frozen=True, slots=True)
class Pin:
    repo: str
    commit: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A file as it was when it was hashed; `changed` is its mtime in ns."""

    size: int
    changed: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Content:
    pins: dict[str, Pin] = field(default_factory=dict)
    seen: dict[str, Seen] = field(default_factory=dict)


class LockFile:
    """The lock file of one folder of weights. Many processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME

    def pin(self, model: str) -> Pin | None:
        return self._read().pins.get(model)

    def record(self, model: str, pin: Pin) -> Pin:
        """Pin `model` unless it is pinned already; return the pin that holds.

        Raises ModelUnavailable when the file cannot be written.
        """
        try:
            with self._changing() as content:
                return content.pins.setdefault(model, pin)
        except OSError as error:
            raise ModelUnavailable(
                f"cannot write {self.path}: {error}; free it or move it"
            ) from error

    def sha256(self, file: Path) -> str:
        """Return the hash of `file`, which is read only if it looks changed."""
        place, state = str(file.resolve()), file.stat()
        seen = self._read().seen.get(place)
        if seen and (seen.size, seen.changed) == (state.st_size, state.st_mtime_ns):
            return seen.sha256
        digest = hash_file(file)
        # In a folder that cannot be written to, the next start only takes longer.
        with suppress(OSError), self._changing() as content:
            content.seen[place] = Seen(state.st_size, state.st_mtime_ns, digest)
        return digest

    def _read(self) -> Content:
        try:
            return TypeAdapter(Content).validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return Content()
        except (OSError, ValidationError) as error:
            raise ModelUnavailable(
                f"lock file unreadable: {self.path}; restore it, or delete it to pin anew"
            ) from error

    @contextmanager
    def _changing(self) -> Iterator[Content]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".mutex").open("w") as mutex:
            fcntl.flock(mutex, fcntl.LOCK_EX)
            content = self._read()
            yield content
            self._write(content)

    def _write(self, content: Content) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(asdict(content), indent=2, sort_keys=True))
        new.replace(self.path)  # a reader sees the old file or the whole new one


def hash_file(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
