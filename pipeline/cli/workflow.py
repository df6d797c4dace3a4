"""A ComfyUI workflow in a file, as the recipe of a job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.workflow import CutoutSpec

LARGEST = 10_000_000
"""Bytes of a workflow."""


def load_workflow(settings: Settings, path: Path) -> CutoutSpec:
    """What the workflow of a file saves; the photo that it names is of no account.

    Raises:
        UsageError: it cannot be read or done, or saves several things.

    """
    from bgpipe.pipeline.workflow import read_workflow

    workflow = read_workflow(_document(path), settings.comfyui.models)
    if workflow.main is None:
        raise UsageError(f"the workflow saves several things: {path}: leave one SaveImage in it")
    return workflow.main.spec


def _document(path: Path) -> object:
    try:
        if path.stat().st_size > LARGEST:
            raise UsageError(f"too large for a workflow: {path}: {LARGEST} bytes at most")
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"the workflow cannot be read: {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"the workflow is no JSON: {path}: {error}") from error
    return document["prompt"] if isinstance(document, dict) and "prompt" in document else document
