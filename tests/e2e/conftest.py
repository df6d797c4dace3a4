"""The command line as users run it: its own processes, folders and embedded server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

BGPIPE = Path(sys.executable).with_name("bgpipe")
SECONDS = 240


@dataclass(frozen=True, slots=True)
class Bgpipe:
    """Runs `bgpipe` with state and data of its own; a closed port stands for the model hub."""

    home: Path

    @property
    def environment(self) -> dict[str, str]:
        ours = {name for name in os.environ if name.startswith(("BGPIPE_", "HF_"))}
        kept = {name: value for name, value in os.environ.items() if name not in ours}
        return kept | {
            "XDG_STATE_HOME": str(self.home / "state"),
            "XDG_DATA_HOME": str(self.home / "data"),
            "HF_HOME": str(self.home / "hub"),
            "HF_ENDPOINT": "http://127.0.0.1:9",
        }

    def __call__(
        self, *arguments: object, stdin: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(arguments),
            env=self.environment | environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            cwd=self.home,
            check=False,
        )

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(arguments),
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.home,
        )

    def records(self, *arguments: object) -> list[dict[str, Any]]:
        done = self("--json", *arguments)
        assert done.returncode in {0, 1}, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    @staticmethod
    def command(arguments: Sequence[object]) -> list[str]:
        return [str(BGPIPE), *map(str, arguments)]


@pytest.fixture
def bgpipe(tmp_path: Path) -> Iterator[Bgpipe]:
    home = tmp_path / "home"
    home.mkdir()
    yield Bgpipe(home)
    for log in (home / "state").glob("bgpipe/*.log"):  # shown beside a test that fails
        print(f"--- {log.name}", log.read_text(errors="replace"), sep="\n")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four real photos, one of them in a folder of its own."""
    skimage = pytest.importorskip("skimage")
    data = Path(skimage.__file__).parent / "data"
    folder = tmp_path / "photos"
    (folder / "sub folder").mkdir(parents=True)
    for name in ("astronaut.png", "chelsea.png", "coffee.png"):
        shutil.copy(data / name, folder)
    shutil.copy(data / "rocket.jpg", folder / "sub folder" / "rökét 1.jpg")
    return folder
