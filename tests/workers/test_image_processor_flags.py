"""Review flags: raised by the worker, kept in the job store, copied to the review folder."""

from __future__ import annotations

import io

from PIL import Image

from bgpipe.pipeline.types import ReviewFlag

from .conftest import Cluster


def animation() -> bytes:
    frames = [Image.new("RGB", (120, 90), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def test_a_flagged_cutout_is_made_counted_and_copied(cluster: Cluster) -> None:
    names = [cluster.photo("photo.jpg"), cluster.file("moving.gif", animation())]
    review = cluster.folder / "review"
    with cluster.supervisor("--device", "cpu", BGPIPE_REVIEW__OUT=str(review)):
        job = cluster.submit(names)
        summary = cluster.finished(job)
    flags = cluster.jobs.items.flags(job)
    assert ReviewFlag.MORE_FRAMES in flags[1]
    assert ReviewFlag.MORE_FRAMES not in flags.get(0, ())
    assert (summary.done, summary.flagged) == (2, len(flags))
    assert summary.flags["more-frames"] == 1
    copies = {path.name: path.read_bytes() for path in (review / job).iterdir()}
    assert copies == {
        f"{names[index]}.png": (cluster.out / f"{names[index]}.png").read_bytes() for index in flags
    }
