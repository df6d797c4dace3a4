"""Names of cutouts by a template."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.planning.targets import (
    TargetCollision,
    assign_targets,
    check_template,
    expand_template,
    literal,
    literal_key,
)
from bgpipe.pipeline.types import ObjectInfo, Output


def entries(*keys):
    return [ObjectInfo(key, 1, "1") for key in keys]


@pytest.mark.parametrize(
    ("text", "key", "target"),
    [
        ("{folder}/{stem}-cutout", "a/b/photo.jpg", "a/b/photo-cutout.png"),
        ("{folder}/{stem}-cutout", "photo.jpg", "photo-cutout.png"),
        ("{name}", "a/photo.jpg", "photo.jpg.png"),
        ("{suffix}/{stem}", "a/photo.v2.JPG", "JPG/photo.v2.png"),
        ("{stem}.png", "photo.jpg", "photo.png"),
        ("{model}/{stem}", "photo", "nano/photo.png"),
        ("{stem}{{x}}", "größe 写.jpg", "größe 写{x}.png"),
        ("./{folder}//{stem}", "a/.hidden", "a/.hidden.png"),
    ],
)
def test_fields_stand_for_parts_of_the_source(text, key, target):
    assert expand_template(text, key, ".png", "/models/nano") == target


@pytest.mark.parametrize(
    "text",
    ["{stem}{other}", "{stem", "{}", "{0}{stem}", "{stem!r}", "{stem:>9}"],
)
def test_what_is_no_template_is_refused(text):
    with pytest.raises(UsageError, match="--name"):
        check_template(text)


@pytest.mark.parametrize("text", ["same", "{folder}/x"])
def test_a_template_that_gives_all_one_name_is_refused(text):
    with pytest.raises(UsageError, match="one name"):
        check_template(text)


def test_a_literal_is_the_whole_key_of_one_cutout():
    text = literal("out {1}.jpeg")
    assert expand_template(text, "a/b.png", ".jpg", "m") == "out {1}.jpeg"
    assert literal_key(text) == "out {1}.jpeg"
    assert literal_key("{stem}") == ""


@pytest.mark.parametrize("text", ["../{stem}", "{folder}/../{stem}"])
def test_a_template_does_not_lead_out_of_the_target(text):
    with pytest.raises(TargetCollision, match="leads out"):
        expand_template(text, "a/b.jpg", ".png", "m")


def test_a_source_cannot_lead_out_of_the_target_through_a_template():
    assert expand_template("{stem}", "...jpg", ".png", "m") == "...png"
    with pytest.raises(TargetCollision):
        expand_template("{stem}/x", "...jpg", ".png", "m")


def test_two_images_of_one_name_are_refused(job):
    job = replace(job, recipe=replace(job.recipe, output=Output("webp")), naming="{stem}")
    planned = assign_targets(entries("a/x.jpg", "b/x.jpg"), job)
    assert next(planned).key == "x.webp"
    with pytest.raises(TargetCollision, match=r"b/x\.jpg the place of another image: x\.webp"):
        next(planned)


@pytest.mark.parametrize(("name", "suffix"), [("webp", ".webp"), ("jpeg", ".jpg"), ("zip", ".zip")])
def test_without_a_template_the_formats_suffix_takes_the_place_of_the_sources(job, name, suffix):
    job = replace(job, recipe=replace(job.recipe, output=Output(name)))
    planned = assign_targets(entries("a/x.tif", "a/y.jpg", "a/y.png", "z"), job)
    assert {entry.key: target for entry, target, _ in planned} == {
        "a/x.tif": f"a/x{suffix}",
        "a/y.jpg": f"a/y.jpg{suffix}",
        "a/y.png": f"a/y.png{suffix}",
        "z": f"z{suffix}",
    }
