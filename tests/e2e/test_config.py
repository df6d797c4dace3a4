"""`bgpipe config`, and what every command says of wrong settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Bgpipe


def write(bgpipe: Bgpipe, text: str) -> None:
    (bgpipe.home / "bgpipe.toml").write_text(text)


@pytest.mark.parametrize(
    "command",
    [
        ("jobs",),
        ("submit", "."),
        ("doctor",),
        ("serve",),
        ("config", "show"),
        ("config", "check"),
        ("worker",),
    ],
)
def test_every_command_names_all_that_is_wrong_in_our_words(
    bgpipe: Bgpipe, command: tuple[str, ...]
) -> None:
    write(bgpipe, "[worker]\n\nlane = 3\nbatch = 'many'\n")
    done = bgpipe(*command, BGPIPE_WRKER__LANES="3")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "bgpipe: BGPIPE_WRKER__LANES: unknown setting; did you mean BGPIPE_WORKER__LANES?",
        "bgpipe: bgpipe.toml:3: unknown key worker.lane; did you mean worker.lanes?",
        'bgpipe: bgpipe.toml:4: worker.batch: "many" is not a whole number of at least 0',
    ]
    assert done.stdout == ""


@pytest.mark.parametrize("place", ["before", "behind"])
def test_the_settings_file_of_the_command_line_is_named_as_given(
    bgpipe: Bgpipe, place: str
) -> None:
    (bgpipe.home / "other.toml").write_text("lane = 3\n")
    option = ("--config", "./other.toml")
    done = bgpipe(*option, "jobs") if place == "before" else bgpipe("jobs", *option)
    assert (done.returncode, done.stderr) == (
        2,
        "bgpipe: other.toml:1: unknown key lane; did you mean worker.lanes?\n",
    )
    done = bgpipe("--config", "gone.toml", "jobs")
    assert (done.returncode, done.stderr) == (2, "bgpipe: gone.toml: no such file or directory\n")


def test_check_names_unknown_presets_and_models(bgpipe: Bgpipe) -> None:
    write(
        bgpipe,
        "[sweeps.products]\n"
        "source = '/a'\n"
        "target = '/b'\n"
        "preset = 'product'\n"
        "model = 'birefnet-lit'\n"
        "[matting]\n"
        "model = 'birefnet-lite'\n"
        "[presets.mine]\n",
    )
    done = bgpipe("config", "check", BGPIPE_REFINE__PRESET="min")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        'bgpipe: BGPIPE_REFINE__PRESET: unknown preset "min"; did you mean mine?',
        'bgpipe: bgpipe.toml:7: matting.model: unknown matting model "birefnet-lite": choose from none, '
        "vitmatte, vitmatte-base",
        'bgpipe: bgpipe.toml:4: sweeps.products.preset: unknown preset "product"; did you mean '
        "products?",
        'bgpipe: bgpipe.toml:5: sweeps.products.model: unknown model "birefnet-lit"; did you mean '
        "birefnet-lite?",
    ]
    done = bgpipe("--json", "config", "check")
    assert (done.returncode, len(json.loads(done.stdout)["errors"])) == (2, 3)


def test_check_says_what_was_read(bgpipe: Bgpipe) -> None:
    done = bgpipe("config", "check")
    assert (done.returncode, done.stdout.startswith("ok: ")) == (0, True)
    write(bgpipe, "[refine]\npreset = 'mine'\n[presets.mine]\n")
    done = bgpipe("config", "check", BGPIPE_WORKER__LANES="3")
    assert (done.returncode, done.stdout) == (0, "ok: environment, bgpipe.toml\n")


def test_show_names_the_origin_of_every_value(bgpipe: Bgpipe, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "sweeps__shop__secret").write_text("hunter2")
    write(
        bgpipe,
        "[worker]\n# few\nlanes = 3\nplaces = ['/a', '/b']\n"
        "[sweeps.shop]\nsource = '/a'\ntarget = '/b'\n",
    )
    done = bgpipe(
        "config",
        "show",
        "--json",
        BGPIPE_REDIS_URL="redis://me:hunter2@h:1/0",
        BGPIPE_WORKER__BATCH="2",
        BGPIPE_SECRETS_DIR=str(secrets),
    )
    assert (done.returncode, "hunter2" in done.stdout) == (0, False)
    shown = {each["key"]: each for each in map(json.loads, done.stdout.splitlines())}
    values = {key: (each["value"], each["origin"]) for key, each in shown.items()}
    assert values["worker.lanes"] == (3, "bgpipe.toml:3")
    assert values["worker.places"] == (["/a", "/b"], "bgpipe.toml:4")
    assert values["worker.batch"] == (2, "BGPIPE_WORKER__BATCH")
    assert values["worker.memory"] == (0, "default")
    assert values["presets.products.contrast"] == (1.3, "presets.toml")
    assert values["sweeps.shop.source"] == ("/a", "bgpipe.toml:6")
    assert values["sweeps.shop.quality"] == (90, "default")
    assert values["sweeps.shop.secret"][1] == f"{secrets}/sweeps__shop__secret"
    assert values["redis_url"] == ("redis://me:**********@h:1/0", "BGPIPE_REDIS_URL")


def test_show_takes_sections_and_keys(bgpipe: Bgpipe) -> None:
    keys = [each["key"] for each in bgpipe.records("config", "show", "s3.region", "queue")]
    assert (keys[0], keys[-1], len(keys)) == ("queue.name", "s3.region", 6)
    lines = bgpipe("config", "show", "worker.lanes").stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["key", "value", "from"],
        ["worker.lanes", "0", "default"],
    ]
    done = bgpipe("config", "show", "worker.lane")
    assert (done.returncode, "did you mean worker.lanes?" in done.stderr) == (2, True)
