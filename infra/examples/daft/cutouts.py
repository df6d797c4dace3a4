"""Cutouts of a folder by Daft: one network per process, a PNG as a column, written in the end.

python cutouts.py PHOTOS OUT [MODEL]
"""

import sys
from pathlib import Path

import daft

from bgpipe import BackgroundRemover


@daft.cls
class Remover:
    """Loads the network once per process; a GPU for each: @daft.cls(gpus=1)."""

    def __init__(self, model: str) -> None:
        self._remover = BackgroundRemover(model=model)

    def __call__(self, photo: str) -> bytes:
        return self._remover.from_location(photo)


def main(photos: str, out: str, model: str = "") -> None:
    Path(out).mkdir(parents=True, exist_ok=True)
    files = [str(path.resolve()) for path in sorted(Path(photos).iterdir())]
    frame = daft.from_pydict({"photo": files})
    frame = frame.with_column("png", Remover(model)(frame["photo"]))
    for row in frame.iter_rows():
        cutout = Path(out, f"{Path(row['photo']).stem}.png")
        cutout.write_bytes(row["png"])
        print(cutout.name)


if __name__ == "__main__":
    main(*sys.argv[1:])
