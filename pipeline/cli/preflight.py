"""Checks of a job's source and target before anything is started for it."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from bgpipe.pipeline.errors import StorageUnavailable, UsageError

if TYPE_CHECKING:
    from bgpipe.pipeline.storage import StoreFactory


def check_source(stores: StoreFactory, location: str) -> None:
    """See that there is an image to take.

    Raises:
        NoImages: there is none.
        StorageUnavailable: the source cannot be listed.

    """
    from bgpipe.pipeline.ignored import IgnoredObjects
    from bgpipe.pipeline.producer import no_images

    source, ignored = stores.open(location), IgnoredObjects()
    if next(source.list(on_skipped=ignored.add_unread), None) is None:
        raise no_images(source, ignored)


def check_target(stores: StoreFactory, location: str, *, writes: bool) -> None:
    """See that a folder can be written and that a bucket answers.

    `writes`: the cutouts are written from this machine, not by workers elsewhere.

    Raises:
        UsageError: a file is in the way.
        StorageUnavailable: it cannot be written.

    """
    target = stores.open(location)
    if target.is_remote:
        next(target.list(missing_ok=True), None)
        return
    folder = _nearest_existing(Path(location))
    if not folder.is_dir():
        raise UsageError(f"--out is a file: {folder}: name a folder")
    if not writes:
        return
    try:
        TemporaryFile(dir=folder).close()  # which has no name and leaves nothing
    except OSError as error:
        reason = (error.strerror or "input/output error").lower()
        raise StorageUnavailable(
            f"the target cannot be written: {folder}: {reason}: choose another --out"
        ) from error


def _nearest_existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if os.access(place, os.F_OK))
