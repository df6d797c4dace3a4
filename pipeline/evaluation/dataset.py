"""Matching of images in one folder with ground truths in another."""

from dataclasses import dataclass
from pathlib import Path

from bgpipe.pipeline.errors import NoImages
from bgpipe.pipeline.storage.base import is_image_name

SUFFIX = "_alpha"


@dataclass(frozen=True, slots=True)
class ImagePair:
    """An image and its truth: a grey mask or matte, or an image whose alpha is the matte."""

    name: str
    image: Path
    truth: Path


def find_pairs(images: Path, truths: Path) -> tuple[tuple[ImagePair, ...], list[str]]:
    """Return the images that have a truth at the same relative path, and the names of the others.

    The truth of `a/x.jpg` is `a/x_alpha` or `a/x` with any suffix. Both folders may be the same.

    Raises NoImages if no image has a truth.
    """
    by_stem = {path.relative_to(truths).with_suffix(""): path for path in _image_files(truths)}
    pairs, unpaired = [], []
    for path in _image_files(images):
        relative = path.relative_to(images)
        stem, name = relative.with_suffix(""), relative.as_posix()
        if stem.name.endswith(SUFFIX):
            continue
        truth = by_stem.get(stem.with_name(stem.name + SUFFIX), by_stem.get(stem, path))
        if truth == path:
            unpaired.append(name)
        else:
            pairs.append(ImagePair(name, path, truth))
    if not pairs:
        raise NoImages(f"no image in {images} has a truth in {truths}: name it x{SUFFIX}.png")
    return tuple(pairs), unpaired


def _image_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if is_image_name(path.name)]
