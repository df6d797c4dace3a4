"""The photos that a caller uploaded under names of their own, for `LoadImage`.

Each lies in an upload by itself, which is the source of its prompts' jobs. A name points to one: a
photo that takes the name of another disturbs no prompt that still waits for that one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, cast

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.errors import ItemError
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.http.submission import touch_upload
from bgpipe.pipeline.http.uploads import checked_name

if TYPE_CHECKING:
    from bgpipe.pipeline.http.dependencies import AppState

INPUT = " [input]"
"""What may stand behind a photo's name."""
NAMES = 1000
"""Photos with one name, but for a number."""
LISTED = 1000
DAY = 86_400


@dataclass(frozen=True, slots=True)
class InputImage:
    """`name` is the caller's, with its folder; it lies in `upload` under `key`."""

    name: str
    upload: str
    key: str


class InputImages:
    """Those of one caller."""

    def __init__(self, backend: AppState, owner: str) -> None:
        self._backend = backend
        self._client = backend.session.client
        self._owner = owner
        self._seconds = max(1, int(backend.settings.serve.keep_days * DAY))

    def find(self, name: str) -> InputImage | None:
        """The photo of this name, if it is there."""
        try:
            plain = checked_name(name.removesuffix(INPUT))
        except ItemError:
            return None
        place = cast("bytes | None", self._client.get(self._key(plain)))
        if place is None:
            return None
        upload, _, key = place.decode().partition("/")
        there = self._backend.uploads.open(self._owner, upload).head(key)
        return InputImage(plain, upload, key) if there else None

    def read(self, photo: InputImage) -> bytes:
        store = self._backend.uploads.open(self._owner, photo.upload)
        return store.read(photo.key, self._backend.settings.images.max_bytes)

    def use(self, upload: str) -> None:
        """Note that the photo in it is wanted now, so that it is kept some days more."""
        touch_upload(self._backend, f"{self._owner}/uploads/{upload}")

    def names(self) -> list[str]:
        """The last ones, in order."""
        index = keys.input_images_of(self._owner)
        found = cast("list[bytes]", self._client.zrange(index, -LISTED, -1))
        return sorted(name.decode() for name in found)

    def put(self, name: str, data: bytes, *, overwrite: bool) -> str:
        """Keep a photo; returns the name that it got: another one if this one is taken by another.

        Raises:
            ItemError: it is no image, or the name leads elsewhere.
            Problem: too many photos have this name.

        """
        wanted = checked_name(name)
        upload = self._backend.uploads.new_name()
        self.use(upload)
        base = PurePosixPath(wanted).name
        key = self._backend.uploads.put(self._owner, upload, base, data)
        for number in range(NAMES):
            free = _numbered(wanted, number)
            if self._take(free, f"{upload}/{key}", overwrite=overwrite):
                return free
            found = self.find(free)
            if found and self.read(found) == data:
                return free
        raise Problem(409, "too-many-names", f"too many photos of this name: {wanted}")

    def _take(self, name: str, place: str, *, overwrite: bool) -> bool:
        """Let the name mean this photo, unless it means another one that is there."""
        key, seconds = self._key(name), self._seconds
        if not overwrite and not self._client.set(key, place, nx=True, ex=seconds):
            there = cast("bytes | None", self._client.get(key))
            if there != place.encode() and self.find(name):
                return False
        self._client.set(key, place, ex=seconds)
        index = keys.input_images_of(self._owner)
        self._client.zadd(index, {name: time.time()})
        self._client.zremrangebyscore(index, "-inf", time.time() - seconds)
        self._client.expire(index, seconds)
        return True

    def _key(self, name: str) -> str:
        digest = blake2b(name.encode(errors="replace"), digest_size=16).hexdigest()
        return keys.input_image_of(self._owner, digest)


def _numbered(name: str, number: int) -> str:
    """`a/b.png`, then `a/b (1).png`."""
    if not number:
        return name
    path = PurePosixPath(name)
    return str(path.with_name(f"{path.stem} ({number}){path.suffix}"))
