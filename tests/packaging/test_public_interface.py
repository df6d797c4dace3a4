"""What `import bgpipe` offers, to programs and to type checkers."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import bgpipe

from ..support.source_tree import ROOT


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


@pytest.mark.slow
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
