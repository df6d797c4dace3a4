"""models.lock.json: the commit and the sha256 of each model on this machine.

The first pull writes a pin; all later weights must match it, whatever the hub offers then. The file
also caches the hashes of unchanged weights, because reading a gigabyte at every start takes seconds.
"""

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
class HashedFile:
    """A file when it was hashed; `changed` is its mtime in ns."""

    size: int
    changed: int
    sha256: str


@dataclass(frozen=True, slots=True)
class LockContent:
    pins: dict[str, Pin] = field(default_factory=dict)
    seen: dict[str, HashedFile] = field(default_factory=dict)


class LockFile:
    """The lock file of a folder of weights, safe for use by several processes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME

    def pin(self, model: str) -> Pin | None:
        return self._read().pins.get(model)

    def record(self, model: str, pin: Pin) -> Pin:
        """Pin `model` unless it is pinned; return its pin.

        Raises ModelUnavailable if the file cannot be written.
        """
        try:
            with self._update() as content:
                return content.pins.setdefault(model, pin)
        except OSError as error:
            raise ModelUnavailable(
                f"cannot write {self.path}: {error}: make it writable"
            ) from error

    def sha256(self, file: Path) -> str:
        """Return the hash of `file`, which is read only if its size or mtime changed."""
        path, state = str(file.resolve()), file.stat()
        known = self._read().seen.get(path)
        if known and (known.size, known.changed) == (state.st_size, state.st_mtime_ns):
            return known.sha256
        digest = hash_file(file)
        # In a read-only folder the next start only takes longer.
        with suppress(OSError), self._update() as content:
            content.seen[path] = HashedFile(state.st_size, state.st_mtime_ns, digest)
        return digest

    def _read(self) -> LockContent:
        try:
            return TypeAdapter(LockContent).validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return LockContent()
        except (OSError, ValidationError) as error:
            raise ModelUnavailable(
                f"lock file unreadable: {self.path}: restore it, or delete it to pin anew"
            ) from error

    @contextmanager
    def _update(self) -> Iterator[LockContent]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".mutex").open("w") as mutex:
            fcntl.flock(mutex, fcntl.LOCK_EX)
            content = self._read()
            yield content
            new = self.path.with_suffix(".new")
            new.write_text(json.dumps(asdict(content), indent=2, sort_keys=True))
            new.replace(self.path)  # atomic: a reader sees the old file or the new one


def hash_file(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
