"""Where the keys of a TOML file are: the line of each is what an editor shows."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from bgpipe.config.layers import TomlLayer

NAMES = st.sampled_from(["a", "b-c", "d_1", "'e f'"])


def lines_of(path: Path, text: str) -> dict[tuple[str | int, ...], int]:
    path.write_text(text)
    return TomlLayer(path).lines


def test_every_way_to_write_a_key_has_its_line(tmp_path: Path) -> None:
    lines = lines_of(
        tmp_path / "x.toml",
        "# head\n"
        "top = 1\n"
        "\n"
        "a.dotted = 1\n"
        "inline = { x = 1, y = { z = 2 } }\n"
        "[table] # with a comment\n"
        'long = """\n'
        "[not.a.table]\n"
        '"""\n'
        "list = [\n"
        "  1,\n"
        "]\n"
        "after = 1\r\n"
        "[table.inner]\n"
        "x = 1\n"
        "[[many]]\n"
        "x = 1\n"
        "[[many]]\n"
        "\n"
        "x = 2\n",
    )
    assert lines[("top",)] == 2
    assert lines[("a", "dotted")] == 4
    assert lines[("inline", "y", "z")] == 5
    assert lines[("table",)] == 6
    assert lines[("table", "long")] == 7
    assert lines[("table", "list")] == 10
    assert lines[("table", "after")] == 13
    assert lines[("table", "inner", "x")] == 15
    assert lines[("many", 0, "x")] == 17
    assert lines[("many", 1, "x")] == 20


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, st.integers()), max_size=4))
@settings(deadline=None)  # it writes files
def test_a_file_has_the_line_of_each_key(tables: dict[str, dict[str, int]]) -> None:
    written, text = {}, []
    for table, values in tables.items():
        text += [f"[{table}]"]
        for name, value in values.items():
            text += ["# why", f"{name} = {value}"]
            written[table.strip("'"), name.strip("'")] = len(text)
    with tempfile.TemporaryDirectory() as folder:
        lines = lines_of(Path(folder) / "x.toml", "\n".join(text))
    assert {path: lines[path] for path in written} == written
