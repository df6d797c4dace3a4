"""The units: valid by systemd, and fitting the code."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.errors import NoImages, UsageError

from ..support.source_tree import ROOT
from .code import command_problems, drain_seconds, variable_problems

UNITS = sorted((ROOT / "infra/systemd").iterdir())
PROGRAMS = "/opt/bgpipe/bin"
INSTANCES = {"bgpipe-worker": "cpu", "bgpipe-sweep": "products"}


def values(text: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", text, re.M)


def problems(text: str) -> Iterator[str]:
    """What in a unit fits neither the code nor itself, in words."""
    for line in values(text, "ExecStart"):
        program, *words = shlex.split(line.replace("%i", "cpu"))
        if program == f"{PROGRAMS}/bgpipe":
            yield from command_problems(words)
        else:
            yield f"no such program: {program}"
    variables = dict(pair.split("=", 1) for pair in values(text, "Environment"))
    yield from variable_problems(variables)
    credentials = [given.split(":")[0] for given in values(text, "LoadCredential")]
    for name in credentials:
        if (
            name not in type(load_settings()).model_fields
            and f"%d/{name}" not in variables.values()
        ):
            yield f"credential is neither a setting nor used: {name}"
    if "worker" in text.split("ExecStart=")[-1].split("\n")[0]:
        if values(text, "KillMode") != ["mixed"]:
            yield "workers get a second signal and do not drain"
        if float(values(text, "TimeoutStopSec")[0]) <= drain_seconds():
            yield "is killed before it has drained"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_every_name_in_a_unit_is_the_codes(path: Path) -> None:
    assert list(problems(path.read_text())) == []


@pytest.mark.parametrize(
    ("unit", "old", "new", "reported"),
    [
        ("worker@", "--device", "--gpu", "No such option: --gpu"),
        ("worker@", "KillMode=mixed", "KillMode=control-group", "second signal"),
        ("worker@", "TimeoutStopSec=45", "TimeoutStopSec=15", "drained"),
        ("worker@", "redis_url:", "redis_address:", "neither a setting nor used"),
        ("dispatcher", "BGPIPE_STATE_DIR", "BGPIPE_STATE", "no such setting: BGPIPE_STATE"),
        ("sweep@", "sweep run", "sweep start", "No such command 'start'"),
        ("flower", "bgpipe flower", "bgpipe flour", "No such command 'flour'"),
    ],
)
def test_a_name_that_is_changed_is_found_out(unit: str, old: str, new: str, reported: str) -> None:
    text = (ROOT / f"infra/systemd/bgpipe-{unit}.service").read_text()
    assert old in text
    found = list(problems(text.replace(old, new)))
    assert any(reported in problem for problem in found), found


def test_exit_codes_in_the_units_are_the_codes() -> None:
    worker = (ROOT / "infra/systemd/bgpipe-worker@.service").read_text()
    sweep = (ROOT / "infra/systemd/bgpipe-sweep@.service").read_text()
    assert values(worker, "RestartPreventExitStatus") == [str(UsageError.exit_code)]
    assert values(sweep, "SuccessExitStatus") == [str(NoImages.exit_code)]


def test_systemd_finds_nothing_to_say_about_the_units(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None and os.environ.get("CI") == "true":
        pytest.fail("no systemd-analyze on the PATH")
    if program is None:
        pytest.skip("no systemd-analyze on the PATH")
    # It looks for the programs: those of this environment stand in for those of /opt/bgpipe.
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "bgpipe").symlink_to(Path(sys.executable).with_name("bgpipe"))
    units = []
    for path in UNITS:
        template, at, kind = path.name.partition("@")
        named = tmp_path / (f"{template}@{INSTANCES[template]}{kind}" if at else path.name)
        named.write_text(path.read_text().replace(PROGRAMS, str(programs)))
        units.append(named)
    done = subprocess.run(
        [program, "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "bgpipe" in line]
    assert (done.returncode, ours) == (0, [])
