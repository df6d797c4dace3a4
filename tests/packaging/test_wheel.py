"""What is built to be published: an sdist, its wheel, the page of the package index, and installs by tools."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import bgpipe

from ..pipeline.images.files import dng, mosaic
from ..support.source_tree import ROOT, copy_checkout

SOURCE = "https://github.com/bgpipe/bgpipe"
BLOB = f"{SOURCE}/blob/main/"
RAW = "https://raw.githubusercontent.com/bgpipe/bgpipe/main/"
OF_THIS_SHELL = ("BGPIPE_", "PIPX_", "PYTHONPATH", "UV_CACHE_", "UV_TOOL_", "VIRTUAL_ENV", "XDG_")


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    tree = copy_checkout(tmp_path_factory.mktemp("checkout"))
    # Without --wheel or --sdist, build makes the wheel out of the sdist.
    run("-m", "build", "--no-isolation", "--outdir", folder, tree, cwd=folder)
    return folder


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_built_from_the_sdist_works_from_anywhere(
    distributions: Path, tmp_path: Path
) -> None:
    (wheel,) = distributions.glob("*.whl")
    site = tmp_path / "site"
    quiet = ("--quiet", "--no-deps", "--no-index")
    run("-m", "pip", "install", *quiet, "--target", site, wheel, cwd=tmp_path)
    program = (
        "import bgpipe.workers.process, bgpipe.pipeline.cli, bgpipe.config.settings as settings\n"
        "from pathlib import Path\n"
        "from bgpipe import remove\n"
        "from bg_removal_api import BackgroundRemovalAPI\n"
        "import bg_removal_api\n"
        "assert Path(bg_removal_api.__file__).is_relative_to(Path(settings.__file__).parents[2])\n"
        "from bgpipe.pipeline.models.registry import resolve\n"
        "settings.load_settings()\n"
        "print(resolve('birefnet-nano', cache=Path('cache')).path)\n"
    )
    shown = run("-c", program, cwd=tmp_path, PYTHONPATH=str(site))
    assert Path(shown.strip()).is_relative_to(site)
    (facts,) = site.glob("*.dist-info")
    licenses = facts / "licenses/infra"
    assert (licenses / "LICENSE").read_bytes() == (ROOT / "infra/LICENSE").read_bytes()
    assert "models.md" in (licenses / "NOTICE").read_text()


@pytest.mark.slow
def test_the_package_index_can_show_the_page(distributions: Path) -> None:
    run("-m", "twine", "check", "--strict", *distributions.iterdir(), cwd=distributions)
    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = message_from_bytes(archive.read(name))
    addresses = re.findall(r"\]\(([^)]*)\)", str(metadata.get_payload()))
    addresses += [line.split(", ", 1)[1] for line in metadata.get_all("Project-URL", [])]
    assert len(addresses) > 6
    for address in addresses:
        path = address.removeprefix(BLOB).removeprefix(RAW)
        assert path != address or address == SOURCE, f"not an address of the repository: {address}"
        assert (ROOT / path).is_file() or address == SOURCE, f"no such file: {address}"


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the programs `uv` and `pipx`."""
    folder = tmp_path_factory.mktemp("tools")
    run("-m", "venv", folder, cwd=folder)
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin/python")
    subprocess.run([*pip, "install", "--quiet", "uv", "pipx"], check=True)
    return folder / "bin"


@pytest.fixture(scope="module")
def torch_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build of torch that is installed here; the default one would bring gigabytes of CUDA."""
    if torch.version.cuda:
        pytest.skip("torch is a CUDA build here: an install takes gigabytes")
    folder = tmp_path_factory.mktemp("torch")
    exact = f"torch=={torch.__version__}"
    run("-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, exact, cwd=folder)
    (folder / "constraints.txt").write_text(exact)
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Removed at the end: an install and its cache have 3 GB."""
    folder = tmp_path / "home"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["uv", "pipx"])
def test_a_tool_installs_the_wheel_with_all_that_a_job_needs(
    tool: str, tools: Path, distributions: Path, torch_wheel: Path, home: Path
) -> None:
    (wheel,) = distributions.glob("*.whl")
    constraints = torch_wheel / "constraints.txt"
    python = Path(sys.executable).resolve()
    by_pip = f"--find-links {torch_wheel} --constraint {constraints}"
    by_uv = ("--find-links", torch_wheel, "--constraints", constraints)
    install = {"uv": ("tool", "install", *by_uv), "pipx": ("install", "--pip-args", by_pip)}[tool]
    environment = environment_at(home)

    def succeed(*command: str | Path) -> str:
        done = subprocess.run(
            [*map(str, command)], cwd="/", env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    succeed(tools / tool, *install, "--python", python, f"{wheel}[heic,raw]")
    program = home / ".local/bin/bgpipe"
    assert bgpipe.__version__ in succeed(program, "--version")
    photos = home / "photos"
    photos.mkdir()
    pixels = np.zeros((48, 64, 3), np.uint16)
    pixels[12:36, 16:48] = 50_000
    Image.fromarray((pixels >> 8).astype(np.uint8)).save(photos / "a.jpg")
    (photos / "b.dng").write_bytes(dng(mosaic(pixels)))
    said = succeed(program, "submit", photos, "--model", "birefnet-nano", "--json")
    assert json.loads(said.splitlines()[-1])["done"] == 2
    succeed(program.resolve().with_name("python"), "-m", "celery", "flower", "--help")


def environment_at(home: Path) -> dict[str, str]:
    """As a login at `home` has it, with the packages that pip has fetched before."""
    kept = {name: v for name, v in os.environ.items() if not name.startswith(OF_THIS_SHELL)}
    cache = run("-m", "pip", "cache", "dir", cwd=home).strip()
    return kept | {"HOME": str(home), "PIP_CACHE_DIR": cache, "UV_PYTHON_DOWNLOADS": "never"}
