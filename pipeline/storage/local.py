r"""A folder as a store.

A listing omits hidden files and folders, among them unfinished files of bgpipe. It follows links to
files, but not to folders, so that it ends. Keys are UTF-8: another byte of a file's name becomes
`\xNN` in the key, which names the same file.
"""

import errno
import io
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from bgpipe.pipeline.errors import (
    Code,
    PermanentError,
    Refused,
    StorageUnavailable,
    TransientError,
)
from bgpipe.pipeline.storage.base import contains, has_no_suffix, ignore, is_image_name, is_safe_key
from bgpipe.pipeline.types import ObjectInfo

_NOT_A_PATH = (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
_READ_CODES = {
    **dict.fromkeys((errno.EISDIR, errno.ENXIO), Code.NOT_IMAGE),  # ENXIO: a socket
    **dict.fromkeys((errno.ENOENT, *_NOT_A_PATH), Code.MISSING),
    **dict.fromkeys((errno.EACCES, errno.EPERM), Code.ACCESS),
}
_WRITE_CODES = {
    **dict.fromkeys((errno.EISDIR, errno.EEXIST, *_NOT_A_PATH), Code.TARGET),
    **dict.fromkeys((errno.EACCES, errno.EPERM), Code.ACCESS),
}
_FULL = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room there")
_REFUSALS = {**_FULL, errno.EROFS: "mount it for writing"}
"""Errors of the file system, whatever the file: what to do."""

_ESCAPE = re.compile(rb"\\x([89a-f][0-9a-f]|5c)")
_LOOKS_ESCAPED = re.compile(rb"\\(?=x(?:[89a-f][0-9a-f]|5c))")


class LocalStore:
    """The files below `root`, which the first write makes if necessary."""

    is_remote = False

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.location = str(self.root)

    def list(
        self, *, missing_ok: bool = False, on_skipped: Callable[[str], None] = ignore
    ) -> Iterator[ObjectInfo]:
        """A folder with an image's name and no image in it is listed, so that `read` reports it."""
        if missing_ok and not self.root.exists():
            return
        for key, path in _walk(str(self.root), "", on_skipped):
            try:
                yield _info(key, os.stat(path))  # noqa: PTH116  # a million Path objects are slow
            except OSError:
                yield ObjectInfo(key, 0, "unreadable")

    def head(self, key: str) -> ObjectInfo | None:
        with _item_errors(key, _READ_CODES), suppress(FileNotFoundError, NotADirectoryError):
            status = self._path(key).stat()
            return _info(key, status) if stat.S_ISREG(status.st_mode) else None
        return None

    def read(self, key: str, limit: int) -> bytes:
        with _item_errors(key, _READ_CODES), _open(self._path(key), key) as (file, size):
            if size > limit:
                raise PermanentError(Code.TOO_LARGE, f"{size} bytes, more than {limit}: {key}")
            return file.readall()

    def read_range(self, key: str, start: int, length: int) -> bytes:
        with _item_errors(key, _READ_CODES), _open(self._path(key), key) as (file, size):
            file.seek(start if start >= 0 else max(size + start, 0))
            return file.read(length)

    def metadata(self, key: str) -> Mapping[str, str]:  # noqa: ARG002
        """Files have no metadata."""
        return {}

    def write(self, key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> str:  # noqa: ARG002
        """Write the file; `metadata` is dropped."""
        with _item_errors(key, _WRITE_CODES, self.location):
            return _info(key, _write_atomically(self._target(key), data)).identity

    def delete(self, key: str) -> None:
        with _item_errors(key, _WRITE_CODES):
            self._target(key).unlink(missing_ok=True)

    def clear(self) -> None:
        try:
            shutil.rmtree(self.root)
        except FileNotFoundError:
            return
        except OSError as error:
            detail = f"a folder cannot be removed, {_reason(error)}: {self.root}"
            raise StorageUnavailable(detail) from error

    def _path(self, key: str) -> Path:
        if not is_safe_key(key):
            raise PermanentError(Code.TARGET, f"not a path below {self.root}: {key!r}")
        return self.root / _file_name(key)

    def _target(self, key: str) -> Path:
        """Return the path of a file to change: within the root, out of which a link may lead."""
        path = self._path(key)
        if not contains(self.location, str(path.parent)):
            raise PermanentError(Code.TARGET, f"a link leads out of {self.root}: {key}")
        return path


def _key_part(name: str) -> str:
    raw = _LOOKS_ESCAPED.sub(rb"\\x5c", os.fsencode(name))
    return raw.decode("utf-8", "backslashreplace")


def _file_name(key: str) -> str:
    """Return the name that `_key_part` converted."""
    raw = _ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()), key.encode())
    return os.fsdecode(raw)


def _walk(folder: str, prefix: str, on_skipped: Callable[[str], None]) -> Iterator[tuple[str, str]]:
    """Yield key and path of all files with an image's name, sorted by the keys' bytes.

    Only the names of a folder are in memory, as there may be a million.
    """
    names = sorted(_names(folder, prefix, on_skipped), key=str.encode, reverse=True)
    while names:
        name = names.pop()
        if name.endswith("/"):
            yield from _walk(f"{folder}/{_file_name(name[:-1])}", prefix + name, on_skipped)
        else:
            yield prefix + name, f"{folder}/{_file_name(name)}"


def _names(folder: str, prefix: str, on_skipped: Callable[[str], None]) -> Iterator[str]:
    """Yield the candidates in one folder as parts of keys, subfolders with `/` at the end."""
    try:
        with os.scandir(folder) as items:
            for item in items:
                if item.name.startswith("."):
                    continue
                name = _key_part(item.name)
                if _is_folder(item):
                    yield f"{name}/"
                elif is_image_name(item.name) or (has_no_suffix(item.name) and item.is_file()):
                    yield name
                elif not item.is_dir(follow_symlinks=False):
                    on_skipped(prefix + name)
    except OSError as error:
        detail = f"a folder cannot be listed, {_reason(error)}: {folder}"
        raise StorageUnavailable(detail) from error


def _is_folder(item: os.DirEntry[str]) -> bool:
    """Whether to list the folder; one with an image's name must contain an image."""
    if not item.is_dir(follow_symlinks=False):
        return False
    return not is_image_name(item.name) or any(True for _ in _walk(item.path, "", ignore))


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    return ObjectInfo(key, size, f"{size}-{status.st_mtime_ns}")


@contextmanager
def _item_errors(key: str, codes: dict[int, Code], root: str = "") -> Iterator[None]:
    """Translate the system's errors into ItemError; Refused for those of the file system of `root`."""
    try:
        yield
    except OSError as error:
        if root and error.errno in _REFUSALS:
            refusal = f"{_reason(error)}: {root}: {_REFUSALS[error.errno]}"
            raise Refused(Code.STORAGE, refusal) from error
        code, detail = codes.get(error.errno or errno.EIO), f"{_reason(error)}: {key}"
        if code:
            raise PermanentError(code, detail) from error
        raise TransientError(Code.STORAGE, detail) from error


def _reason(error: OSError) -> str:
    return os.strerror(error.errno or errno.EIO).lower()


@contextmanager
def _open(path: Path, key: str) -> Iterator[tuple[io.FileIO, int]]:
    """Open a file, and yield its size too."""
    # O_NONBLOCK: waiting for a named pipe's writer would block a lane.
    with io.FileIO(path, opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise PermanentError(Code.NOT_IMAGE, f"neither file nor folder: {key}")
        yield file, status.st_size


def _write_atomically(path: Path, data: bytes) -> os.stat_result:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f".bgpipe-{uuid.uuid4().hex}.tmp"
    try:
        with _new_file(unfinished) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            written = os.fstat(file.fileno())
            if not written.st_nlink:
                _link(file, unfinished)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    return written


def _new_file(path: Path) -> BinaryIO:
    """Open a file without a name if the system can, so that a killed process leaves none; else `path`."""
    if hasattr(os, "O_TMPFILE"):
        with suppress(OSError):  # a lasting problem shows below
            return os.fdopen(os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, 0o666), "wb")
    return path.open("xb")


def _link(file: BinaryIO, path: Path) -> None:
    folder = os.open(path.parent, os.O_PATH)
    try:  # with a folder's descriptor, link follows the link that /proc has for the file
        os.link(f"/proc/self/fd/{file.fileno()}", path.name, dst_dir_fd=folder)
    finally:
        os.close(folder)
