"""Which picture of one folder belongs to which truth of another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bgpipe.pipeline.errors import NoImages

if TYPE_CHECKING:
    from bgpipe.pipeline.evaluation.protocol import ImagePair

SUFFIX = "_alpha"


def find_pairs(images: Path, truths: Path) -> tuple[tuple[ImagePair, ...], list[str]]:
    """Pictures with the truth of the same path below its folder, and the names of those without.

    The truth of `a/x.jpg` is `a/x_alpha` or `a/x` with any suffix. Both folders may be one.

    Raises:
        NoImages: there is no such pair.

    """
    from bgpipe.pipeline.evaluation.protocol import ImagePair

    by_stem = {path.relative_to(truths).with_suffix(""): path for path in _images(truths)}
    pairs, alone = [], []
    for path in _images(images):
        stem = path.relative_to(images).with_suffix("")
        name = path.relative_to(images).as_posix()
        if stem.name.endswith(SUFFIX):
            continue
        truth = by_stem.get(stem.with_name(stem.name + SUFFIX), by_stem.get(stem, path))
        if truth == path:
            alone.append(name)
        else:
            pairs.append(ImagePair(name, path, truth))
    if not pairs:
        raise NoImages(f"no picture in {images} has a truth in {truths}: call it x{SUFFIX}.png")
    return tuple(pairs), alone


def _images(folder: Path) -> list[Path]:
    from bgpipe.pipeline.storage.base import is_image_name

    return [path for path in sorted(folder.rglob("*")) if is_image_name(path.name)]
