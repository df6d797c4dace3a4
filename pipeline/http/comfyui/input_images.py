"""Images uploaded for `LoadImage`: each is an upload by itself, to which a name refers."""

import time
from pathlib import PurePosixPath
from typing import cast

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.errors import ItemError
from bgpipe.pipeline.http.comfyui.prompt_store import digest_of
from bgpipe.pipeline.http.dependencies import AppState
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.http.uploads import new_upload_id, validate_name

INPUT_MARK = " [input]"
"""An optional ending of a name in a graph."""
SAME_NAME = 1000
"""Maximum number of images with the same name but for a number."""
LISTED = 1000


class InputImages:
    """The images of one owner."""

    def __init__(self, state: AppState, owner: str) -> None:
        self._client, self._uploads = state.session.client, state.uploads
        self._owner, self._seconds = owner, state.keep_seconds
        self._index = keys.input_images_of(owner)

    def find(self, name: str) -> tuple[str, str] | None:
        """Return the upload and the key of an image."""
        try:
            plain = validate_name(name.removesuffix(INPUT_MARK))
        except ItemError:
            return None
        reference = cast("bytes | None", self._client.get(self._key(plain)))
        if reference is None:
            return None
        upload, _, key = reference.decode().partition("/")
        exists = self._uploads.open(self._owner, upload).head(key)
        return (upload, key) if exists else None

    def names(self) -> list[str]:
        """Return the names of the newest images, sorted."""
        names = cast("list[bytes]", self._client.zrange(self._index, -LISTED, -1))
        return sorted(name.decode() for name in names)

    def write(self, name: str, data: bytes, *, overwrite: bool) -> str:
        """Store an image; return its name, numbered if `name` belongs to another image.

        Raises:
            ItemError: it is not an image, or the name leaves the upload.
            Problem: too many images have this name.
        """
        requested = validate_name(name)
        path = PurePosixPath(requested)
        upload = new_upload_id()
        key = self._uploads.write(self._owner, upload, path.name, data)
        for number in range(SAME_NAME):
            numbered = str(path.with_stem(f"{path.stem} ({number})")) if number else requested
            if self._assign(numbered, f"{upload}/{key}", overwrite=overwrite):
                return numbered
            if other := self.find(numbered):
                upload_id, other_key = other
                store = self._uploads.open(self._owner, upload_id)
                if store.read(other_key, self._uploads.limits.max_bytes) == data:
                    return numbered
        raise Problem(409, "too-many-names", f"too many images of this name: {requested}")

    def _assign(self, name: str, reference: str, *, overwrite: bool) -> bool:
        """Let `name` refer to an image; returns False if it refers to another one that exists."""
        key, seconds = self._key(name), self._seconds
        if not overwrite and not self._client.set(key, reference, nx=True, ex=seconds):
            other = cast("bytes | None", self._client.get(key))
            if other != reference.encode() and self.find(name):
                return False
        self._client.set(key, reference, ex=seconds)
        self._client.zadd(self._index, {name: time.time()})
        self._client.zremrangebyscore(self._index, "-inf", time.time() - seconds)
        self._client.expire(self._index, seconds)
        return True

    def _key(self, name: str) -> str:
        return keys.input_image_of(self._owner, digest_of(name))
