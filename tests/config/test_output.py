"""The table of file formats: complete, and unambiguous by suffix."""

from __future__ import annotations

from typing import get_args

from bgpipe.config.output import FILE_FORMATS, FORMATS_BY_SUFFIX, MEDIA_TYPES, Format, Output


def test_every_format_has_a_row() -> None:
    assert set(FILE_FORMATS) == set(get_args(Format))


def test_an_outputs_suffix_names_its_format_again_but_for_masks() -> None:
    formats = {name: FORMATS_BY_SUFFIX[Output(name).suffix] for name in FILE_FORMATS}
    assert formats == {name: name for name in FILE_FORMATS} | {"mask": "png"}
    assert FORMATS_BY_SUFFIX[".jpeg"] == "jpeg"


def test_files_of_one_suffix_have_one_media_type() -> None:
    assert {MEDIA_TYPES[row.suffix] for row in FILE_FORMATS.values()} == set(MEDIA_TYPES.values())
    for row in FILE_FORMATS.values():
        assert MEDIA_TYPES[row.suffix] == row.media_type
