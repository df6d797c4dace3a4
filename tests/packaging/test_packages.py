"""The rules of the house that no linter knows."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import bgpipe

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("config", "pipeline", "workers")


def test_every_package_on_disk_is_listed_and_every_listed_one_is_on_disk() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    on_disk = {"bgpipe"} | {
        ".".join(["bgpipe", *init.parent.relative_to(ROOT).parts])
        for folder in FOLDERS
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == on_disk


def test_the_package_holds_its_module_and_a_relative_link_to_each_folder() -> None:
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
    with pytest.raises(AttributeError, match="module 'bgpipe' has no attribute 'removes'"):
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
        "broker.embedded",
        "scheduling.feeder",
        "jobs.store",
        "planning.planner",
        "broker.queue",
        "models.registry",
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
