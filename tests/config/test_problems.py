"""What is said of wrong settings: the place, the value, what is expected, and all of it at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from bgpipe.config.layers import SettingsError
from bgpipe.config.settings import load_settings


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def problems(text: str = "") -> list[str]:
    Path("bgpipe.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "\n[worker]\nlane = 5\n",
            "bgpipe.toml:3: unknown key worker.lane; did you mean worker.lanes?",
        ),
        ("surprise = 1\n", "bgpipe.toml:1: unknown key surprise"),
        ("lanes = 5\n", "bgpipe.toml:1: unknown key lanes; did you mean worker.lanes?"),
        ("[wroker]\nlanes = 5\n", "bgpipe.toml:1: unknown key wroker; did you mean worker?"),
        (
            "[s3]\nredis_url = ''\n",
            "bgpipe.toml:2: unknown key s3.redis_url; did you mean redis_url?",
        ),
        (
            "[presets.mine]\n# soft\nblr = 1\n",
            "bgpipe.toml:3: unknown key presets.mine.blr; did you mean presets.mine.blur?",
        ),
        (
            '[worker]\n\nbatch = "many"\n',
            'bgpipe.toml:3: worker.batch: "many" is not a whole number of at least 0',
        ),
        (
            "worker.batch = -1\n",
            "bgpipe.toml:1: worker.batch: -1 is not a whole number of at least 0",
        ),
        (
            "worker = { lanes = 3, batch = 2.5 }\n",
            "bgpipe.toml:1: worker.batch: 2.5 is not a whole number of at least 0",
        ),
        (
            "[worker]\nplaces = [\n  '/a',\n  5,\n]\nlanes = 1\n",
            "bgpipe.toml:2: worker.places[1]: 5 is not a string",
        ),
        (
            "redis_url = '''\n\n\n'''\n[limits]\nload = 0\n",
            "bgpipe.toml:6: limits.load: 0 is not a number above 0",
        ),
        (
            "[serve]\nport = 70000\n",
            "bgpipe.toml:2: serve.port: 70000 is not a whole number from 0 to 65535",
        ),
        (
            "[s3]\naddressing = 'paths'\n",
            'bgpipe.toml:2: s3.addressing: "paths" is not one of auto, path, virtual',
        ),
        (
            "[metrics]\nworker = '9000'\n",
            'bgpipe.toml:2: metrics.worker: "9000" is not HOST:PORT or empty',
        ),
        ("worker = 5\n", "bgpipe.toml:1: worker: 5 is not a table"),
        (
            "[engine]\ncompile = 'maybe'\n",
            'bgpipe.toml:2: engine.compile: "maybe" is not true or false',
        ),
        (
            "[[presets.mine.enhance]]\nsmooth = 1\n[[presets.mine.enhance]]\nsmooth = 1000\n",
            "bgpipe.toml:4: presets.mine.enhance[1].smooth: 1000 is not a number from 0 to 128",
        ),
        ("[sweeps.shop]\nsource = '/a'\n", "bgpipe.toml:1: sweeps.shop.target is missing"),
        (
            "[sweeps.shop]\nsource = '/a'\ntarget = '/b'\ndeadline = 'late'\n",
            'bgpipe.toml:4: sweeps.shop.deadline: "late" is not a time of day such as 22:00',
        ),
        (
            "[sweeps.shop]\nsource = '/a'\ntarget = '/b'\ntime_zone = 'Europe/Berln'\n",
            "bgpipe.toml:4: sweeps.shop.time_zone: unknown time zone; an example: Europe/Berlin",
        ),
        (
            "[sweeps.'my shop']\nsource = '/a'\ntarget = '/b'\n",
            "bgpipe.toml:1: sweeps.\"my shop\": not a name: use 1 to 40 letters, digits, '_' and '-'",
        ),
        (
            "[worker]\nlanes = 3\n[queue\n",
            "bgpipe.toml:3: not valid TOML: expected ']' at the end of a table declaration",
        ),
        (
            "[worker]\nlanes = 3\nlanes = 4\n",
            "bgpipe.toml:3: not valid TOML: cannot overwrite a value",
        ),
    ],
)
def test_a_wrong_line_of_the_file_is_named(text: str, line: str) -> None:
    assert problems(text) == [line]


def test_all_problems_are_reported_at_once_in_the_order_of_the_file() -> None:
    found = problems("[worker]\nlane = 5\nbatch = 'many'\n[queue]\nname = 'no spaces'\nnme = 1\n")
    assert [line.split(" ")[0] for line in found] == [f"bgpipe.toml:{n}:" for n in (2, 3, 5, 6)]


def test_secrets_are_not_repeated() -> None:
    found = problems(
        "redis_url = ['redis://:hunter2@h']\n"
        "[serve]\nwebhook_secret = ['hunter2']\n"
        "[sweeps.shop]\nsource = '/a'\ntarget = '/b'\non_finish = 'ftp://hunter2@h'\n"
    )
    assert len(found) == 3
    assert "hunter2" not in "".join(found)


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("WORKER__LANE", "3", "unknown setting; did you mean BGPIPE_WORKER__LANES?"),
        ("WRKER__LANES", "3", "unknown setting; did you mean BGPIPE_WORKER__LANES?"),
        ("CONFG", "x", "unknown setting; did you mean BGPIPE_CONFIG?"),
        ("SURPRISE", "1", "unknown setting"),
        ("WORKER__BATCH", "many", '"many" is not a whole number of at least 0'),
        ("WORKER__PLACES", "/photos", '"/photos" is not a list of strings'),
        ("QUEUE", "fast", '"fast" is not a table'),
    ],
)
def test_a_wrong_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, line: str
) -> None:
    monkeypatch.setenv(f"BGPIPE_{variable}", value)
    assert problems() == [f"BGPIPE_{variable}: {line}"]


def test_wrong_variables_are_reported_with_the_wrong_lines_of_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BGPIPE_SURPRISE", "1")
    monkeypatch.setenv("BGPIPE_WORKER__BATCH", "many")
    assert [line.split(": ")[0] for line in problems("[worker]\nlane = 1\n")] == [
        "BGPIPE_SURPRISE",
        "BGPIPE_WORKER__BATCH",
        "bgpipe.toml:2",
    ]


def test_a_wrong_file_of_the_folder_for_secrets_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "worker__lane").write_text("1")
    (folder / "worker__batch").write_text("many")
    monkeypatch.setenv("BGPIPE_SECRETS_DIR", str(folder))
    assert problems() == [
        f'{folder}/worker__batch: "many" is not a whole number of at least 0',
        f"{folder}/worker__lane: unknown setting; did you mean worker__lanes?",
    ]


def test_a_folder_for_secrets_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BGPIPE_SECRETS_DIR", "gone")
    assert problems() == ["BGPIPE_SECRETS_DIR: no such folder: gone"]


def test_a_settings_file_that_is_named_and_missing_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BGPIPE_CONFIG", "other/gone.toml")
    assert problems() == ["other/gone.toml: no such file or directory"]


def test_a_settings_file_that_is_not_text_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("photo.jpg").write_bytes(b"\xff\xd8\xff")
    monkeypatch.setenv("BGPIPE_CONFIG", "photo.jpg")
    assert problems() == ["photo.jpg: not UTF-8"]
