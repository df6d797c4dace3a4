"""Several outputs of one item: what an attempt leaves behind is not made twice, and one failure stays alone."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

from PIL import Image

from bgpipe.pipeline.broker.queue import publish
from bgpipe.pipeline.models.lockfile import hash_file
from bgpipe.pipeline.types import Item, Job, JobId, JobOutput, Output, Preset, Recipe

from .conftest import QUEUE, SIZE, Cluster


def submit(cluster: Cluster, name: str, *items: Item, force: bool = False) -> JobId:
    """A started job with the outputs `web`, `print` and `mask`."""
    recipe = Recipe(str(cluster.model), hash_file(cluster.model), SIZE, Preset())
    outputs = (
        JobOutput("web", replace(recipe, output=Output("webp")), "-web"),
        JobOutput("print", replace(recipe, preset=Preset(size="200x200")), "-print"),
        JobOutput("mask", replace(recipe, output=Output("mask")), "-mask"),
    )
    places = str(cluster.source), str(cluster.out)
    job = Job(JobId(name), *places, recipe, time.time(), force=force, outputs=outputs)
    cluster.jobs.open(job)
    cluster.jobs.add(job.id, items)
    cluster.jobs.start(job.id)
    publish(cluster.app, job.id, items, QUEUE)
    return job.id


def item(name: str, stale: int = 0b111) -> Item:
    return Item(0, name, "a-web.webp", "1-1", ("a-print.png", "a-mask.png"), stale)


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def counts(cluster: Cluster, job: JobId) -> dict[str, tuple[int, ...]]:
    return {name: tuple(one.values()) for name, one in cluster.jobs.summary(job).outputs.items()}


def test_outputs_are_written_from_one_image_and_only_the_missing_ones_again(
    shared_worker: Cluster, cluster: Cluster
) -> None:
    """The second job finds two outputs as an attempt leaves them that died before it could settle."""
    photo = cluster.photo("a.jpg")
    first = submit(cluster, "first", item(photo))
    assert cluster.finished(first).done == 1
    sizes = {name: size_of(cluster.out / name) for name in times(cluster.out)}
    assert sizes == {"a-web.webp": (320, 240), "a-print.png": (200, 150), "a-mask.png": (320, 240)}
    made = times(cluster.out)
    (cluster.out / "a-print.png").unlink()
    second = submit(cluster, "second", item(photo))
    assert cluster.finished(second).done == 1
    again = times(cluster.out)
    assert {name for name in made if again[name] == made[name]} == {"a-web.webp", "a-mask.png"}
    assert counts(cluster, second) == dict.fromkeys(("web", "print", "mask"), (1, 0, 0))
    prints = [cluster.jobs.items.read_fingerprints(job, 0, 3) for job in (first, second)]
    assert prints[0][0] == prints[1][0] != prints[0][1] != prints[1][1]
    (cluster.out / "a-web.webp").unlink()  # after the listing, which found it up to date
    third = submit(cluster, "third", item(photo, 0b100), force=True)
    assert cluster.finished(third).done == 1
    assert not (cluster.out / "a-web.webp").exists()
    assert times(cluster.out)["a-mask.png"] != again["a-mask.png"]
    assert counts(cluster, third) == {"web": (0, 1, 0), "print": (0, 1, 0), "mask": (1, 0, 0)}


def test_an_output_that_fails_for_good_is_named_and_the_others_are_written(
    shared_worker: Cluster, cluster: Cluster
) -> None:
    photo = cluster.photo("a.jpg")
    (cluster.out / "a-web.webp").write_bytes(b"foreign")
    (cluster.out / "a-mask.png").mkdir()
    job = submit(cluster, "partly", item(photo))
    assert cluster.finished(job).failed == 1
    (failure,) = cluster.jobs.items.failures(job)
    web, mask = failure.detail.split("; ")
    assert web.startswith("web: E_TARGET: exists and was not made by bgpipe")
    assert mask.startswith("mask: E_")
    with Image.open(cluster.out / "a-print.png") as cutout:
        assert json.loads(cutout.info["bgpipe:recipe"])["preset"]["size"] == "200x200"
    assert counts(cluster, job) == {"web": (0, 0, 1), "print": (1, 0, 0), "mask": (0, 0, 1)}


def test_an_unreadable_source_fails_all_outputs(shared_worker: Cluster, cluster: Cluster) -> None:
    job = submit(cluster, "broken", item(cluster.file("a.jpg", b"no image"), 0b110))
    assert cluster.finished(job).errors == {"E_NOT_IMAGE": 1}
    assert counts(cluster, job) == {"web": (0, 1, 0), "print": (0, 0, 1), "mask": (0, 0, 1)}
