"""Cutouts of a folder by Ray Data: one network per actor, one PNG per photo.

python cutouts.py PHOTOS OUT [MODEL]
"""

import sys
from pathlib import Path

import ray

from bgpipe import BackgroundRemover


class Remover:
    """Loads the network once per actor; a batch is a dictionary of columns."""

    def __init__(self, out: str, model: str) -> None:
        self._out = Path(out)
        self._remover = BackgroundRemover(model=model)

    def __call__(self, batch: dict[str, list[str]]) -> dict[str, list[str]]:
        cutouts = []
        for photo in batch["item"]:
            cutout = self._out / f"{Path(photo).stem}.png"
            cutout.write_bytes(self._remover.from_location(str(photo)))
            cutouts.append(cutout.name)
        return {"cutout": cutouts}


def main(photos: str, out: str, model: str = "") -> None:
    Path(out).mkdir(parents=True, exist_ok=True)
    files = [str(path.resolve()) for path in sorted(Path(photos).iterdir())]
    cutouts = ray.data.from_items(files).map_batches(
        Remover,
        fn_constructor_args=(out, model),
        batch_size=8,
        compute=ray.data.ActorPoolStrategy(size=1),  # one for each GPU, with num_gpus=1
    )
    for name in sorted(row["cutout"] for row in cutouts.take_all()):
        print(name)


if __name__ == "__main__":
    main(*sys.argv[1:])
