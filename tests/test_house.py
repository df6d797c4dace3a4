"""The rules of the house that no linter knows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import bgpipe

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("config", "pipeline", "workers")
SOURCE = "https://github.com/bgpipe/bgpipe"
BLOB = f"{SOURCE}/blob/main/"
RAW = "https://raw.githubusercontent.com/bgpipe/bgpipe/main/"


def test_every_package_on_disk_is_listed_and_every_listed_one_is_on_disk() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    on_disk = {"bgpipe"} | {
        ".".join(["bgpipe", *init.parent.relative_to(ROOT).parts])
        for folder in FOLDERS
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == on_disk


def test_the_package_holds_its_front_door_and_a_relative_link_to_each_folder() -> None:
    package = ROOT / "infra/package/bgpipe"
    entries = {entry.name for entry in package.iterdir() if entry.name != "__pycache__"}
    assert entries == {"__init__.py", "py.typed", *FOLDERS}
    for folder in FOLDERS:
        assert str((package / folder).readlink()) == f"../../../{folder}"


def test_nothing_new_lies_at_the_top() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {path.split("/")[0] for path in listed.stdout.splitlines()}
    card = {"pyproject.toml", "README.md", "docker-compose.yml", "tests", "infra", *FOLDERS}
    assert {name for name in top if not name.startswith(".")} <= card


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    tree = copy_of_the_tree(tmp_path_factory.mktemp("checkout"))
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
        "from bgpipe.pipeline.registry import resolve\n"
        "settings.load_settings()\n"
        "print(resolve('birefnet-nano', cache=Path('cache')).path)\n"
    )
    shown = run("-c", program, cwd=tmp_path, PYTHONPATH=str(site))
    assert Path(shown.strip()).is_relative_to(site)
    (facts,) = site.glob("*.dist-info")
    licenses = facts / "licenses/infra"
    assert (licenses / "LICENSE").read_bytes() == (ROOT / "infra/LICENSE").read_bytes()
    assert "models.md" in (licenses / "NOTICE").read_text()


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


def copy_of_the_tree(folder: Path) -> Path:
    """What git does not ignore, so that the build leaves nothing behind in the checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    copy = folder / "tree"
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file() and not (ROOT / name).is_symlink():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    return copy


def imported(code: str) -> set[str]:
    """The modules that a fresh interpreter holds after running `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    return set(done.stdout.split())


def test_the_package_names_its_version_and_offers_nothing_else() -> None:
    assert (
        bgpipe.__version__
        == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    )
    assert {name for name in dir(bgpipe) if not name.startswith("_")} >= {
        "BackgroundRemover",
        "remove",
    }
    with pytest.raises(AttributeError, match="no attribute 'removes'"):
        _ = bgpipe.removes


def test_a_type_checker_knows_the_kind_of_a_cutout_and_refuses_other_names(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import bgpipe\n"
        "import numpy as np\n"
        "from bgpipe import BackgroundRemover, remove\n"
        "from PIL import Image\n"
        "image: Image.Image = remove(Image.open('photo.jpg'), model='birefnet-nano')\n"
        "data: bytes = remove(b'')\n"
        "remover: BackgroundRemover = BackgroundRemover()\n"
        "version: str = bgpipe.__version__\n"
        "rows: bytes = remove(np.zeros((1, 1, 3), np.uint8))\n"
        "bgpipe.removes\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.findall(r"program\.py:(\d+): error: .*\[([a-z-]+)\]", done.stdout)
    assert found == [("9", "assignment"), ("10", "attr-defined")], done.stdout + done.stderr


@pytest.mark.parametrize(
    "module",
    [
        "cli",
        "cli.run",
        "embedded",
        "feeder",
        "ledger",
        "producer",
        "queue",
        "registry",
        "report.contact_sheet",
    ],
)
def test_the_submitting_side_never_imports_torch(module: str) -> None:
    modules = imported(f"import bgpipe.pipeline.{module}")
    assert not {"torch", "transformers"} & modules


@pytest.mark.parametrize("module", ["bgpipe", "bgpipe.pipeline.cli"])
def test_help_needs_none_of_the_heavy_libraries(module: str) -> None:
    modules = imported(f"import {module}")
    heavy = {"numpy", "cv2", "PIL", "celery", "redis", "boto3", "huggingface_hub", "pydantic"}
    assert not heavy & modules
