"""The commands in the READMEs of infra/examples print what these say."""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from ..support.http_service import Service, cluster
from ..support.ports import free_port
from ..support.programs import require_program
from ..support.s3_server import S3Server
from ..support.source_tree import ROOT

EXAMPLES = ROOT / "infra/examples"
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = {"comfyui": ("curl", "node"), "web_app": ("curl",)}
SECONDS = 240.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with everything that the examples name."""
    for name in ("photo.jpg", "photos/chair.jpg", "photos/shoe.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        image = Image.new("RGB", (640, 480), "navy")
        image.paste("orange", (160, 100, 480, 400))
        image.save(path)
    (tmp_path / "broken.jpg").write_text("no photo")
    return tmp_path


@pytest.mark.parametrize("name", ["comfyui", "http"])
def test_a_client_prints_what_its_readme_says(name: str, folder: Path, service: Service) -> None:
    urls = {"BGPIPE_URL": service.url, "COMFY_URL": service.url}
    check(name, folder, service.environment | urls)


@pytest.mark.parametrize(
    "name",
    ["python", *(pytest.param(name, marks=pytest.mark.slow) for name in ("folder", "web_app"))],
)
def test_a_program_prints_what_its_readme_says(name: str, folder: Path) -> None:
    check(name, folder, environment(folder))


@pytest.mark.slow
def test_a_sweep_prints_what_its_readme_says(folder: Path, s3: S3Server) -> None:
    s3.client.create_bucket(Bucket="shop")
    for photo in (folder / "photos").iterdir():
        s3.put(f"s3://shop/photos/{photo.name}", photo.read_bytes())
    check("sweep", folder, environment(folder) | s3.environment)


def test_every_example_is_run_and_listed() -> None:
    listed = set(re.findall(r"\]\((\w+)/README.md\)", (EXAMPLES / "README.md").read_text()))
    assert listed == {path.parent.name for path in EXAMPLES.glob("*/README.md")}


def environment(folder: Path) -> dict[str, str]:
    """Return that of a user without a cluster, a model hub, or data of earlier commands."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("BGPIPE_", "XDG_", "HF_"))}
    home = {"HOME": str(folder / "home"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    return kept | home | {"BGPIPE_MODEL__NAME": "birefnet-nano"}


def check(name: str, folder: Path, environment: dict[str, str]) -> None:
    """Run the commands of an example's README in a copy of it, and compare what they print."""
    for program in PROGRAMS.get(name, ()):
        require_program(program)
    shutil.copytree(EXAMPLES / name, folder, dirs_exist_ok=True)
    blocks = dict(BLOCK.findall((EXAMPLES / name / "README.md").read_text()))
    script = f"set -e\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{blocks['sh']}".replace(
        "8080", str(free_port())
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        env=environment | {"PATH": path},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout if done.stdout.endswith("\n") else f"{done.stdout}\n"
    same = doctest.OutputChecker().check_output(blocks["text"], printed, doctest.ELLIPSIS)
    assert same, f"printed:\n{printed}\n{done.stderr}"
