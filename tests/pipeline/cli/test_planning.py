"""Values that the command line takes for a preset and an output, and those that it refuses."""

from __future__ import annotations

import hashlib
from dataclasses import asdict

import pytest

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.cli.commands.submit import SubmitOptions
from bgpipe.pipeline.cli.planning import parse_assignments
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.planning.recipe import (
    apply_changes,
    build_output,
    build_recipe,
    preset_changes,
)
from bgpipe.pipeline.types import Output, Preset


def options(**values):
    return asdict(SubmitOptions(["photos"])) | {"format": "png"} | values


def build(naming, preset=None, **values):
    return build_recipe(
        load_settings(),
        model="birefnet-nano",
        preset=preset or Preset(),
        output=Output(**values),
        naming=naming,
        pull=False,
    ).recipe


def test_defaults_are_those_of_a_recipe():
    assert build_output(load_settings(), options()) == Output()
    assert preset_changes(options()) == {}


def test_options_of_a_layout_change_the_presets_values_after_assignments():
    layout = options(crop=True, margin=4.5, background="#a0B1c2", shadow=0.0)
    changes = parse_assignments(["margin=9", "contrast=2"]) | preset_changes(layout)
    assert apply_changes(Preset(shadow=0.5, blur=2), changes) == Preset(
        crop=True, margin=4.5, background="#a0B1c2", contrast=2, blur=2
    )


def test_options_of_an_output_are_those_of_its_fields():
    values = options(format="webp", quality=80, depth=8, compression="small", input_alpha="keep")
    output = build_output(load_settings(), values)
    assert output == Output("webp", "small", 8, 80, "keep")


@pytest.mark.parametrize("assignment", ["contrast", "contrast=high", "contrasts=1", "contrast=9"])
def test_assignments_that_are_no_values_of_a_preset_are_refused(assignment):
    with pytest.raises(UsageError, match="contrast"):
        apply_changes(Preset(), parse_assignments([assignment]))


def test_a_background_that_is_no_color_is_an_image_known_by_its_content(tmp_path):
    path = tmp_path / "white.png"
    path.write_bytes(b"an image")
    values = options(background=str(path))
    assert preset_changes(values) == {}
    output = build_output(load_settings(), values)
    assert output.backdrop == str(path)
    assert output.backdrop_sha256 == hashlib.sha256(b"an image").hexdigest()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"format": "tiff"}, "format: input should be"),
        ({"compression": "tiny"}, "compression: input should be"),
        ({"depth": 12}, "depth: input should be"),
        ({"quality": 0}, "quality: input should be"),
        ({"input_alpha": "maybe"}, "input_alpha: input should be"),
        ({"background": "nowhere.png"}, "nowhere.png"),
    ],
)
def test_values_out_of_range_are_refused(values, reason):
    with pytest.raises(UsageError, match=reason):
        build_output(load_settings(), options(**values))


@pytest.mark.parametrize(
    ("naming", "preset", "output", "reason"),
    [
        ("", None, {"depth": 16, "format": "webp"}, "--depth 16"),
        ("", Preset(crop=True), {"depth": 16}, "--depth 16"),
        ("", Preset(background="white"), {"format": "mask"}, "a mask has no background"),
        ("", Preset(shadow=0.1), {"format": "mask"}, "a mask has no background"),
        ("same", None, {}, "one name"),
        ("{nothing}", None, {}, "no field 'nothing'"),
    ],
)
def test_what_no_file_can_hold_is_refused(naming, preset, output, reason):
    with pytest.raises(UsageError, match=reason):
        build(naming, preset, **output)


def test_what_fits_together_is_taken():
    assert build("{stem}", depth=16).output.depth == 16
    assert build("", Preset(crop=True), format="mask").preset.crop
