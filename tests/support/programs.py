"""Programs and packages that tests need, and that are not among bgpipe's own dependencies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

SECONDS = 300


def require_program(name: str) -> str:
    """The path of a program that infra/scripts/test installs."""
    found = shutil.which(name)
    if found is None:
        miss(f"not on the PATH: {name}")
    return found


def require_packages(config: pytest.Config, name: str, *requirements: str) -> Path:
    """A folder with packages of PyPI, kept from run to run; `requirements` are pip's arguments."""
    folder = Path(config.cache.mkdir(name))  # type: ignore[union-attr]
    installed = folder / "installed"
    if not installed.exists() or installed.read_text() != str(requirements):
        pip = [sys.executable, "-m", "pip", "install", "-q", "--upgrade", "--target", str(folder)]
        done = subprocess.run(
            [*pip, *requirements], capture_output=True, text=True, timeout=SECONDS, check=False
        )
        if done.returncode:
            miss(f"{', '.join(requirements)} cannot be installed: {done.stderr[-500:]}")
        installed.write_text(str(requirements))
    return folder


def miss(what: str) -> NoReturn:
    """Skip the test; fail it where everything has to be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)
