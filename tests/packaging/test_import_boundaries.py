"""What an import may bring along."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "cli",
        "cli.run",
        "broker.embedded",
        "scheduling.dispatcher",
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


@pytest.mark.parametrize(
    "module", ["bgpipe", "bgpipe.pipeline.cli", "bgpipe.pipeline.cli.commands.submit"]
)
def test_help_needs_none_of_the_heavy_libraries(module: str) -> None:
    modules = imported(f"import {module}")
    heavy = {"numpy", "cv2", "PIL", "celery", "redis", "boto3", "huggingface_hub", "pydantic"}
    assert not heavy & modules


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
