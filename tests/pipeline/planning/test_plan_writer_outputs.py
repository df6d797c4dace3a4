"""Several outputs of each image: their names, their states, and the images that need a worker."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from bgpipe.config.settings import Settings, load_settings
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.images import png
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.jobs.store import NO_TOKEN, JobStore
from bgpipe.pipeline.planning.catalog import Catalogs
from bgpipe.pipeline.planning.diff import TargetState
from bgpipe.pipeline.planning.dry_run import estimate_job
from bgpipe.pipeline.planning.planner import list_job
from bgpipe.pipeline.planning.prune import Orphans
from bgpipe.pipeline.planning.recipe import build_outputs
from bgpipe.pipeline.planning.targets import TargetCollision, assign_targets, sort_rows
from bgpipe.pipeline.storage.local import LocalStore
from bgpipe.pipeline.types import (
    Item,
    Job,
    JobId,
    JobOutput,
    Outcome,
    Output,
    OutputResult,
    Preset,
    Recipe,
)

NUMBERS = count()
Run = Callable[[Job], list[Item]]


def outputs(recipe: Recipe, *names: tuple[str, str, str]) -> tuple[JobOutput, ...]:
    """Outputs of names, formats and suffixes; a suffix with braces is a template."""
    made = []
    for name, format_, suffix in names:
        changed = replace(recipe, output=Output(format_))
        naming = suffix if "{" in suffix else ""
        made.append(JobOutput(name, changed, "" if naming else suffix, naming))
    return tuple(made)


@pytest.fixture
def source(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "photos")
    for name in ("a.jpg", "a.png", "b.jpg", "d/c.jpg"):
        store.write(name, b"\xff\xd8\xff a JPEG by its signature only: " + name.encode())
    return store


@pytest.fixture
def target(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "cutouts")


@pytest.fixture
def parted(job: Job, source: LocalStore, target: LocalStore) -> Job:
    """A job with two outputs, those of `mask` in a folder that sorts after all others."""
    named = ("web", "webp", "-web"), ("mask", "mask", "masks/{folder}/{name}")
    made = outputs(job.recipe, *named)
    return replace(job, source=source.location, out=target.location, outputs=made)


@pytest.fixture
def run(job_store: JobStore, catalogs: Catalogs, source: LocalStore, target: LocalStore) -> Run:
    """`run(job)`: list a job like it and make what is stale; returns the items."""

    def list_and_make(like: Job) -> list[Item]:
        job = replace(like, id=JobId(f"job-{next(NUMBERS)}"))
        job_store.open(job)
        list_job(job_store, catalogs, job, source, target, NO_TOKEN)
        items = list(job_store.items.read(job.id, 0, job_store.items.size(job.id)))
        for item in items:
            results = []
            for position, output in enumerate(job.outputs):
                identity = ""
                if item.stale >> position & 1:
                    text = {"bgpipe:recipe": output.recipe.text, "bgpipe:source": item.identity}
                    file = png.encode(np.zeros((4, 4, 4), np.uint8), text=text)
                    identity = target.write(item.targets[position], file)
                results.append(OutputResult(output.name, identity))
            job_store.items.settle(job.id, Outcome.done(item.index), outputs=results)
        assert job_store.summary(job.id).state == "finished"
        return items

    return list_and_make


def stale(items: list[Item]) -> dict[str, int]:
    return {item.source: item.stale for item in items}


def test_outputs_are_named_by_suffix_or_template_and_full_names_are_kept_where_sources_meet(
    parted: Job, source: LocalStore
) -> None:
    pairs = assign_targets(source.list(), parted)
    assert [(entry.key, key, output) for entry, key, output in pairs] == [
        ("a.jpg", "a.jpg-web.webp", 0),
        ("a.png", "a.png-web.webp", 0),
        ("b.jpg", "b-web.webp", 0),
        ("d/c.jpg", "d/c-web.webp", 0),
        ("a.jpg", "masks/a.jpg.png", 1),
        ("a.png", "masks/a.png", 1),
        ("b.jpg", "masks/b.jpg.png", 1),
        ("d/c.jpg", "masks/d/c.jpg.png", 1),
    ]


def test_two_outputs_that_would_share_a_file_are_refused(parted: Job, source: LocalStore) -> None:
    same = outputs(parted.recipe, ("web", "png", ""), ("mask", "mask", ""))
    with pytest.raises(
        TargetCollision, match=r"outputs.mask gives a.jpg the place of another file"
    ):
        list(assign_targets(source.list(), replace(parted, outputs=same)))


def test_an_image_is_one_item_whatever_is_stale_of_it(
    run: Run, parted: Job, target: LocalStore
) -> None:
    first = run(parted)
    assert stale(first) == dict.fromkeys(["a.jpg", "a.png", "b.jpg", "d/c.jpg"], 0b11)
    assert first[3].targets == ("d/c-web.webp", "masks/d/c.jpg.png")
    assert run(parted) == []
    target.delete("masks/b.jpg.png")
    target.delete("d/c-web.webp")
    assert stale(run(parted)) == {"b.jpg": 0b10, "d/c.jpg": 0b01}
    web, mask = parted.outputs
    wider = replace(web, recipe=replace(web.recipe, preset=Preset(size="9x9")))
    changed = replace(parted, outputs=(wider, mask))
    assert stale(run(changed)) == dict.fromkeys(["a.jpg", "a.png", "b.jpg", "d/c.jpg"], 0b01)
    assert stale(run(replace(parted, outputs=(wider, mask), force=True)))["b.jpg"] == 0b11
    assert run(changed) == []


def test_the_catalog_knows_each_output_without_opening_it(
    run: Run, parted: Job, source: LocalStore, target: LocalStore
) -> None:
    run(parted)
    source.write("e.jpg", b"\xff\xd8\xff another")
    run(parted)  # its rows are of two jobs
    for entry in list(target.list()):
        path = target.root / entry.key
        before = path.stat()
        path.write_bytes(bytes(before.st_size))  # in place: what opens it finds nothing
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert run(parted) == []


def test_the_dry_run_counts_images_and_files(
    run: Run, parted: Job, catalogs: Catalogs, source: LocalStore, target: LocalStore
) -> None:
    run(parted)
    source.write("e.jpg", b"\xff\xd8\xff another")
    target.delete("b-web.webp")
    (target.root / "masks/a.png").write_bytes(b"foreign")
    report = estimate_job(
        parted, source, target, Limits(1, 1, 1), catalog=catalogs.of(parted, target)
    )
    assert report.states == {
        TargetState.CURRENT: 2,
        TargetState.CHANGED: 1,
        TargetState.NEW: 1,
        TargetState.FOREIGN: 1,
    }
    assert report.outputs == {
        "web": {TargetState.CURRENT: 3, TargetState.NEW: 2},
        "mask": {TargetState.CURRENT: 3, TargetState.NEW: 1, TargetState.FOREIGN: 1},
    }
    assert report.to_do == 2


def test_all_outputs_of_a_lost_source_are_orphans_and_those_of_others_are_not(
    run: Run,
    job_store: JobStore,
    parted: Job,
    catalogs: Catalogs,
    source: LocalStore,
    target: LocalStore,
) -> None:
    run(parted)
    source.delete("d/c.jpg")
    found: list[Orphans] = []
    fewer = replace(parted, id=JobId("fewer"), outputs=parted.outputs[:1])
    job_store.open(fewer)
    prune = lambda orphans, _: found.append(orphans)  # noqa: E731
    list_job(job_store, catalogs, fewer, source, target, NO_TOKEN, prune=prune)
    assert {item.target for item in found[0].items} == {"d/c-web.webp", "masks/d/c.jpg.png"}
    assert run(parted) == []


def test_files_that_are_no_images_are_counted_once(
    run: Run,
    parted: Job,
    job_store: JobStore,
    catalogs: Catalogs,
    source: LocalStore,
    target: LocalStore,
) -> None:
    text = {"bgpipe:recipe": parted.recipe.text, "bgpipe:source": "1-1"}
    source.write("made.png", png.encode(np.zeros((4, 4, 4), np.uint8), text=text))
    source.write("notes", b"no image")
    job_store.open(parted)
    ignored = list_job(job_store, catalogs, parted, source, target, NO_TOKEN)
    assert ignored.record()["ignored"] == {"not read": 1, "made by bgpipe": 1}
    assert job_store.items.size(parted.id) == 4


def test_rows_are_sorted_through_files_as_in_memory() -> None:
    rows = [(f"{index * 7919 % 1000:03}", index, "ü\n") for index in range(1000)]
    assert list(sort_rows(iter(rows), lambda row: row[0], 64)) == sorted(rows)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    (tmp_path / "bgpipe.toml").write_text(
        """
[outputs.web]
format = "webp"
quality = 80
size = "1600x1600"
[outputs.shop]
preset = "catalogue"
set = { contrast = 1.5 }
[outputs.mask]
format = "mask"
suffix = ""
[outputs.flat]
name = "flat"
[outputs.wrong]
size = "1x1"
canvas = "5x5"
"""
    )
    monkeypatch.chdir(tmp_path)
    return load_settings()


def test_an_output_changes_what_it_names_and_shares_the_rest(
    settings: Settings, recipe: Recipe
) -> None:
    base = replace(recipe, preset=replace(recipe.preset, background="white", shadow=0.5))
    web, shop, mask = build_outputs(settings, ["web", "shop", "mask"], base)
    assert web.recipe == replace(
        base, preset=replace(base.preset, size="1600x1600"), output=Output("webp", quality=80)
    )
    assert shop.recipe.preset == replace(settings.presets["catalogue"], contrast=1.5)
    assert (shop.suffix, mask.suffix) == ("-shop", "")
    plain = replace(base.preset, background="", shadow=0.0)
    assert mask.recipe == replace(base, preset=plain, output=Output("mask"))
    (named,) = build_outputs(settings, ["web"], base, naming="{stem}x")
    assert (named.naming, named.suffix) == ("{stem}x-web", "")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["missing"],
            r"unknown output: missing \(the settings declare: web, shop, mask, flat, wrong",
        ),
        (["web", "web"], "output named twice: web"),
        (["flat"], "outputs.flat: --name gives all images one name"),
        (["wrong"], "outputs.wrong: --size and a --canvas in pixels are mutually exclusive"),
    ],
)
def test_an_output_that_cannot_be_made_is_named(
    settings: Settings, recipe: Recipe, names: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build_outputs(settings, names, recipe)
