"""The examples for other engines, with the packages of the index, against `bgpipe submit`."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from ..support.source_tree import ROOT
from .test_examples import BLOCK, environment

BGPIPE = Path(sys.executable).with_name("bgpipe")
PACKAGES = ("ray[data]", "daft")
SECONDS = 900


def run(command: Sequence[object], home: Path) -> str:
    done = subprocess.run(
        list(map(str, command)),
        env=environment(home) | {"RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        cwd=home,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the engines, beside everything that the tests have."""
    folder = tmp_path_factory.mktemp("engines")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True, timeout=SECONDS)
    packages = sysconfig.get_path("purelib", vars={"base": str(folder)})
    tests = sysconfig.get_path("purelib")
    Path(packages, "tests.pth").write_text(f"import site; site.addsitedir({tests!r})\n")
    return python


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Real photos, under the names of the examples."""
    data = Path(pytest.importorskip("skimage").__file__).parent / "data"
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, source in (("chair.jpg", "coffee.png"), ("shoe.jpg", "chelsea.png")):
        Image.open(data / source).convert("RGB").save(folder / name, quality=95)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ray", "daft"])
def test_an_engine_writes_the_bytes_of_submit_which_takes_them_as_done(
    engine: str, python: Path, photos: Path, tmp_path: Path
) -> None:
    example = ROOT / "infra/examples" / engine
    run([BGPIPE, "submit", photos, "--out", tmp_path / "expected"], tmp_path)
    expected = {path.name: path.read_bytes() for path in (tmp_path / "expected").iterdir()}
    out = tmp_path / "cutouts"
    printed = run([python, example / "cutouts.py", photos, out], tmp_path)
    assert printed == dict(BLOCK.findall((example / "README.md").read_text()))["text"]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == expected
    again = run([BGPIPE, "--json", "submit", photos, "--out", out], tmp_path)
    summary = json.loads(again.splitlines()[-1])
    assert (summary["skipped"], summary["done"]) == (len(expected), 0)
