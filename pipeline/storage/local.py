r"""A folder as a store.

Hidden files and folders are left out of a listing, and so are our own unfinished files. Links to
files are followed; links to folders are not, so that a listing ends. Keys are UTF-8: a byte of a
file's name that is not appears as `\xNN` in the key, which names the same file again.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import stat
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from bgpipe.pipeline.errors import (
    Code,
    ItemError,
    PermanentError,
    StorageUnavailable,
    TransientError,
)
from bgpipe.pipeline.storage.base import has_no_suffix, ignore, is_image_name, is_safe_key
from bgpipe.pipeline.types import ObjectInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_READ_CODES = {
    errno.EISDIR: Code.NOT_IMAGE,
    errno.ENXIO: Code.NOT_IMAGE,  # a socket
    errno.ENOENT: Code.MISSING,
    errno.ENOTDIR: Code.MISSING,
    errno.ENAMETOOLONG: Code.MISSING,
    errno.ELOOP: Code.MISSING,
    errno.EACCES: Code.ACCESS,
    errno.EPERM: Code.ACCESS,
}
_WRITE_CODES = {
    errno.EISDIR: Code.TARGET,
    errno.ENOTDIR: Code.TARGET,
    errno.EEXIST: Code.TARGET,
    errno.ENAMETOOLONG: Code.TARGET,
    errno.ELOOP: Code.TARGET,
    errno.EACCES: Code.ACCESS,
    errno.EPERM: Code.ACCESS,
    errno.EROFS: Code.ACCESS,
}

_ESCAPE = re.compile(rb"\\x([89a-f][0-9a-f]|5c)")
_LOOKS_ESCAPED = re.compile(rb"\\(?=x(?:[89a-f][0-9a-f]|5c))")


class LocalStore:
    """The files below `root`, which need not exist before the first write."""

    is_remote = False

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.location = str(self.root)

    def list(
        self, *, missing_ok: bool = False, on_skipped: Callable[[str], None] = ignore
    ) -> Iterator[ObjectInfo]:
        """A folder with an image's name and no image in it is listed, so that `read` can say so."""
        if missing_ok and not self.root.exists():
            return
        for key, path in _walk(str(self.root), "", on_skipped):
            yield _listed(key, path)

    def head(self, key: str) -> ObjectInfo | None:
        with _item_errors(key, _READ_CODES):
            try:
                found = self._path(key).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return _entry(key, found) if stat.S_ISREG(found.st_mode) else None

    def read(self, key: str, limit: int) -> bytes:
        with _item_errors(key, _READ_CODES), _opened(self._path(key), key) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise PermanentError(Code.TOO_LARGE, f"{size} bytes, more than {limit}: {key}")
            return file.readall()

    def read_range(self, key: str, start: int, length: int) -> bytes:
        with _item_errors(key, _READ_CODES), _opened(self._path(key), key) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(start if start >= 0 else max(size + start, 0))
            return file.read(length)

    def metadata(self, key: str) -> Mapping[str, str]:
        """A file has none."""
        del key
        return {}

    def write(self, key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> str:
        """A file has no place for `notes`."""
        del metadata
        path = self._path(key)
        with _item_errors(key, _WRITE_CODES):
            self._refuse_links(path, key)
            return _identity(_write_whole(path, data))

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _item_errors(key, _WRITE_CODES):
            self._refuse_links(path, key)
            path.unlink(missing_ok=True)

    def _refuse_links(self, path: Path, key: str) -> None:
        """A link among the folders may lead anywhere; nothing is changed through it."""
        if not path.parent.resolve().is_relative_to(self.root.resolve()):
            raise PermanentError(Code.TARGET, f"a link leads out of {self.root}: {key}")

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
        return self.root / _raw(key)


def _key_part(name: str) -> str:
    raw = _LOOKS_ESCAPED.sub(rb"\\x5c", os.fsencode(name))
    return raw.decode("utf-8", "backslashreplace")


def _raw(key: str) -> str:
    """The file's name for what `_key_part` made of it."""
    raw = _ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()), key.encode())
    return os.fsdecode(raw)


def _walk(folder: str, prefix: str, on_skipped: Callable[[str], None]) -> Iterator[tuple[str, str]]:
    """Key and path of all that has an image's name, in the order of the keys' bytes.

    Of a folder only the names are held, as there may be a million.
    """
    names = sorted(_names(folder, prefix, on_skipped), key=str.encode, reverse=True)
    while names:
        name = names.pop()
        if name.endswith("/"):
            yield from _walk(f"{folder}/{_raw(name[:-1])}", prefix + name, on_skipped)
        else:
            yield prefix + name, f"{folder}/{_raw(name)}"


def _names(folder: str, prefix: str, on_skipped: Callable[[str], None]) -> Iterator[str]:
    """What counts in one folder, as parts of keys, with `/` behind folders to go into."""
    try:
        with os.scandir(folder) as found:
            for item in found:
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
    """Whether to go into it; a folder with an image's name has to hold an image."""
    if not item.is_dir(follow_symlinks=False):
        return False
    return not is_image_name(item.name) or any(True for _ in _walk(item.path, "", ignore))


def _listed(key: str, path: str) -> ObjectInfo:
    try:
        return _entry(key, os.stat(path))  # noqa: PTH116  # a Path for each of a million takes long
    except OSError:
        return ObjectInfo(key, 0, "unreadable")


def _entry(key: str, found: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, _size(found), _identity(found))


def _identity(found: os.stat_result) -> str:
    return f"{_size(found)}-{found.st_mtime_ns}"


def _size(found: os.stat_result) -> int:
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


@contextmanager
def _item_errors(key: str, codes: dict[int, Code]) -> Iterator[None]:
    """The one place where the system's errors become ours."""
    try:
        yield
    except OSError as error:
        code = codes.get(error.errno or errno.EIO)
        raise _item_error(code, f"{_reason(error)}: {key}") from error


def _reason(error: OSError) -> str:
    return os.strerror(error.errno or errno.EIO).lower()


def _item_error(code: Code | None, detail: str) -> ItemError:
    return PermanentError(code, detail) if code else TransientError(Code.STORAGE, detail)


@contextmanager
def _opened(path: Path, key: str) -> Iterator[io.FileIO]:
    with io.FileIO(path, opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise PermanentError(Code.NOT_IMAGE, f"neither file nor folder: {key}")
        yield file


def _open_at_once(path: str, flags: int) -> int:
    """A named pipe must not hold a lane until someone writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _write_whole(path: Path, data: bytes) -> os.stat_result:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f".bgpipe-{uuid.uuid4().hex}.tmp"
    try:
        with _new_file(unfinished) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            written = os.fstat(file.fileno())
            if not written.st_nlink:
                _give_name(file, unfinished)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    return written


def _new_file(path: Path) -> BinaryIO:
    """A file to be `path`, without a name yet where there is such: a killed process leaves nothing."""
    if hasattr(os, "O_TMPFILE"):
        with suppress(OSError):  # what is truly wrong shows below
            return os.fdopen(os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, 0o666), "wb")
    return path.open("xb")


def _give_name(file: BinaryIO, path: Path) -> None:
    folder = os.open(path.parent, os.O_PATH)
    try:  # with a folder's descriptor, link follows the link that /proc has for the file
        os.link(f"/proc/self/fd/{file.fileno()}", path.name, dst_dir_fd=folder)
    finally:
        os.close(folder)
