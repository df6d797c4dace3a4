"""What the command line takes for an output, and what it refuses."""

from __future__ import annotations

import hashlib

import pytest

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.cli.job_options import LayoutOptions, choose_output
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.planning.recipe import check_output
from bgpipe.pipeline.types import Output, Preset, Recipe

DEFAULTS = {
    "file_format": "png",
    "compression": "fast",
    "depth": 8,
    "quality": 90,
    "input_alpha": "multiply",
    "backdrop": None,
}


def recipe(preset=None, **values):
    return Recipe("m", "0" * 64, (64, 64), preset or Preset(), Output(**values))


def test_defaults_are_those_of_a_recipe():
    assert choose_output(load_settings(), **DEFAULTS) == Output()


def test_options_of_a_finish_change_the_presets_values():
    finish = LayoutOptions(crop=True, margin=4.5, background="#a0B1c2", shadow=0.0)
    assert list(finish.assignments()) == [
        "crop=True",
        "margin=4.5",
        "shadow=0.0",
        "background=#a0B1c2",
    ]
    assert list(LayoutOptions().assignments()) == []


def test_a_background_that_is_no_colour_is_an_image_known_by_its_content(tmp_path):
    path = tmp_path / "white.png"
    path.write_bytes(b"an image")
    finish = LayoutOptions(background=str(path))
    assert list(finish.assignments()) == []
    output = choose_output(load_settings(), **DEFAULTS | {"backdrop": finish.backdrop})
    assert output.backdrop == str(path)
    assert output.backdrop_sha256 == hashlib.sha256(b"an image").hexdigest()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"file_format": "tiff"}, "format: input should be"),
        ({"compression": "tiny"}, "compression: input should be"),
        ({"depth": 12}, "depth: input should be"),
        ({"quality": 0}, "quality: input should be"),
        ({"input_alpha": "maybe"}, "input_alpha: input should be"),
        ({"backdrop": "nowhere.png"}, "nowhere.png"),
    ],
)
def test_values_out_of_range_are_refused(values, reason):
    with pytest.raises(UsageError, match=reason):
        choose_output(load_settings(), **DEFAULTS | values)


@pytest.mark.parametrize(
    ("chosen", "naming", "reason"),
    [
        (recipe(depth=16, format="webp"), "", "--depth 16"),
        (recipe(Preset(crop=True), depth=16), "", "--depth 16"),
        (recipe(Preset(background="white"), format="mask"), "", "a mask has no background"),
        (recipe(Preset(shadow=0.1), format="mask"), "", "a mask has no background"),
        (recipe(), "same", "one name"),
        (recipe(), "{nothing}", "no field 'nothing'"),
    ],
)
def test_what_no_file_can_hold_is_refused(chosen, naming, reason):
    with pytest.raises(UsageError, match=reason):
        check_output(chosen, naming)


def test_what_fits_together_is_taken():
    check_output(recipe(depth=16), "{stem}")
    check_output(recipe(Preset(crop=True), format="mask"), "")
