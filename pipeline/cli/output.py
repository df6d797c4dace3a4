"""What the command line says about the files and the finish of cutouts."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bgpipe.pipeline.errors import ItemError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.types import Output

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}|white|black")


@dataclass(frozen=True, slots=True)
class LayoutOptions:
    """Values that take the place of a preset's; None leaves them."""

    crop: bool | None = None
    margin: float | None = None
    canvas: str | None = None
    place: str | None = None
    background: str | None = None
    """A colour, or the path of an image."""
    shadow: float | None = None

    @property
    def backdrop(self) -> str | None:
        """The path, if the background is an image."""
        background = self.background
        return background if background and not _COLOUR.fullmatch(background) else None

    def assignments(self) -> Iterator[str]:
        """As `--set` takes them."""
        for name in ("crop", "margin", "canvas", "place", "shadow"):
            value = getattr(self, name)
            if value is not None:
                yield f"{name}={value}"
        if self.background and not self.backdrop:
            yield f"background={self.background}"


def choose_output(
    settings: Settings,
    *,
    file_format: str,
    compression: str,
    depth: int,
    quality: int,
    input_alpha: str,
    backdrop: str | None,
) -> Output:
    """The checked values.

    Raises:
        UsageError: a value is unknown, or the background cannot be read.
    """
    from bgpipe.pipeline.recipes import explain
    from bgpipe.pipeline.types import Output

    location, sha256 = _backdrop(settings, backdrop) if backdrop else ("", "")
    try:
        return Output(
            format=file_format,  # type: ignore[arg-type]  # checked as it is made
            compression=compression,  # type: ignore[arg-type]
            depth=depth,  # type: ignore[arg-type]
            quality=quality,
            input_alpha=input_alpha,  # type: ignore[arg-type]
            backdrop=location,
            backdrop_sha256=sha256,
        )
    except ValueError as error:
        raise UsageError(explain(error)) from error


def _backdrop(settings: Settings, path: str) -> tuple[str, str]:
    """Where the image lies, for workers, and the sha256 of its content."""
    from bgpipe.pipeline.cli.source import find_location
    from bgpipe.pipeline.storage import StoreFactory

    location = find_location(path)
    folder, _, name = location.rpartition("/")
    try:
        data = StoreFactory(settings.s3).open(folder or "/").read(name, settings.images.max_bytes)
    except ItemError as error:
        raise UsageError(
            f"--background is no colour such as #ffffff and no image that can be read: {path}: "
            f"{error.detail}"
        ) from error
    return location, hashlib.sha256(data).hexdigest()
