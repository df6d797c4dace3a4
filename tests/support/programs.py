"""Programs that infra/scripts/test installs."""

from __future__ import annotations

import os
import shutil

import pytest


def require_program(name: str) -> str:
    """The path of a program that infra/scripts/test installs."""
    found = shutil.which(name)
    if found is None and os.environ.get("CI") == "true":
        pytest.fail(f"not on the PATH: {name}")
    if found is None:
        pytest.skip(f"not on the PATH: {name}")
    return found
