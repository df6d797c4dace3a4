"""Cutouts of images in memory, by the bundled model."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from bgpipe import remove
from bgpipe.pipeline.api import BackgroundRemover
from bgpipe.pipeline.errors import Code, PermanentError, UsageError
from bgpipe.pipeline.storage.local import LocalStore


@pytest.fixture(scope="module")
def remover() -> BackgroundRemover:
    return BackgroundRemover("birefnet-nano", "products", device="cpu")


@pytest.fixture
def photo() -> Image.Image:
    image = Image.new("RGB", (120, 90), "navy")
    image.paste("orange", (30, 20, 90, 70))
    return image


def test_an_image_becomes_a_cutout_of_the_same_kind(
    remover: BackgroundRemover, photo: Image.Image
) -> None:
    pixels = np.asarray(photo)
    rgba = remover(pixels)
    assert (rgba.shape, rgba.dtype) == ((90, 120, 4), np.uint8)
    opaque = rgba[..., 3] == 255
    assert (rgba[opaque][:, :3] == pixels[opaque]).all()
    assert not rgba[rgba[..., 3] == 0].any()
    cutout = remover(photo)
    assert cutout.mode == "RGBA"
    assert np.array_equal(np.asarray(cutout), rgba)


def test_a_file_becomes_the_file_that_a_worker_would_write(
    remover: BackgroundRemover, photo: Image.Image
) -> None:
    file = io.BytesIO()
    photo.save(file, "PNG")
    with Image.open(io.BytesIO(remover.file(file.getvalue()))) as cutout:
        assert cutout.info["bgpipe:recipe"] == remover.recipe.text
        assert np.array_equal(np.asarray(cutout), np.asarray(remover(photo)))


def test_a_location_becomes_the_file_of_a_job_with_the_source_in_it(
    remover: BackgroundRemover, photo: Image.Image, tmp_path: Path
) -> None:
    path = tmp_path / "photo.png"
    photo.save(path)
    source = LocalStore(tmp_path).head("photo.png")
    with Image.open(io.BytesIO(remover.from_location(str(path)))) as cutout:
        assert cutout.info["bgpipe:recipe"] == remover.recipe.text
        assert source is not None
        assert cutout.info["bgpipe:source"] == source.identity
        assert 0 <= float(cutout.info["bgpipe:score"]) <= 1
        assert np.array_equal(np.asarray(cutout), np.asarray(remover(photo)))
    with pytest.raises(PermanentError, match=Code.MISSING):
        remover.from_location(str(tmp_path / "missing.png"))


def test_an_image_is_turned_upright_and_keeps_its_profile(
    remover: BackgroundRemover, photo: Image.Image
) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    photo.save(file, "JPEG", exif=exif, icc_profile=profile)
    with Image.open(file) as turned:
        cutout = remover(turned)
    assert cutout.size == (90, 120)
    assert cutout.info["icc_profile"] == profile


def test_an_alpha_that_is_there_stays_a_bound(
    remover: BackgroundRemover, photo: Image.Image
) -> None:
    photo.putalpha(Image.new("L", photo.size, 100))
    assert np.asarray(remover(photo))[..., 3].max() <= 100


def test_a_background_makes_the_cutout_opaque(photo: Image.Image) -> None:
    remover = BackgroundRemover("birefnet-nano", "raw", changes={"background": "#ff0000"})
    rgba = remover(np.asarray(photo))
    assert rgba[..., 3].min() == 255
    assert rgba[0, 0, 0] > 200


def test_the_photo_itself_may_be_the_background_of_an_outline(photo: Image.Image) -> None:
    changes = {"background": "blur:6", "outline": "4:#00ff00"}
    remover = BackgroundRemover("birefnet-nano", "raw", changes=changes)
    pixels = np.asarray(photo.convert("RGB"))
    rgba = remover(pixels)
    assert rgba[..., 3].min() == 255
    assert (rgba[..., :3] == (0, 255, 0)).all(axis=2).any()
    assert np.abs(rgba[0, 0, :3].astype(int) - pixels[0, 0]).max() < 40


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_image_is_refused(remover: BackgroundRemover, array: np.ndarray) -> None:
    with pytest.raises(UsageError):
        remover(array)


def test_deep_and_broken_images_are_refused(remover: BackgroundRemover) -> None:
    with pytest.raises(UsageError, match="file"):
        remover(Image.new("I;16", (8, 8)))
    with pytest.raises(PermanentError) as caught:
        remover.file(b"no image")
    assert caught.value.code is Code.NOT_IMAGE


def test_wrong_names_are_refused() -> None:
    for wrong in ({"model": "unknown"}, {"preset": "unknown"}):
        with pytest.raises(UsageError):
            BackgroundRemover(**{"model": "birefnet-nano"} | wrong)
    with pytest.raises(UsageError):
        BackgroundRemover("birefnet-nano", changes={"contrast": 99})


def test_a_remover_is_light_until_it_is_used() -> None:
    code = (
        "import sys\n"
        "from bgpipe.pipeline.api import BackgroundRemover\n"
        "BackgroundRemover('birefnet-nano')\n"
        "assert not {'torch', 'transformers', 'celery'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_remove_gives_a_cutout_of_the_kind_that_it_was_given(
    remover: BackgroundRemover, photo: Image.Image
) -> None:
    options = {"model": "birefnet-nano", "preset": "products", "device": "cpu"}
    file = io.BytesIO()
    photo.save(file, "PNG")
    assert np.array_equal(np.asarray(remove(photo, **options)), np.asarray(remover(photo)))
    assert np.array_equal(remove(np.asarray(photo), **options), remover(np.asarray(photo)))
    assert remove(file.getvalue(), **options) == remover.file(file.getvalue())


@pytest.mark.parametrize("photo", ["photo.jpg", Path("photo.jpg"), None])
def test_remove_refuses_a_path_and_names_what_opens_it(photo: object) -> None:
    with pytest.raises(UsageError, match=r"not an image or an array: .+: .*PIL\.Image\.open"):
        remove(photo, model="birefnet-nano")  # type: ignore[type-var]


def test_threads_that_remove_at_once_load_one_network() -> None:
    code = (
        "import gc, threading\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from PIL import Image\n"
        "from bgpipe import remove\n"
        "photo = Image.new('RGB', (60, 40), 'navy')\n"
        "together = threading.Barrier(8)\n"
        "def cut():\n"
        "    together.wait()\n"
        "    return remove(photo, model='birefnet-nano')\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    futures = [pool.submit(cut) for _ in range(8)]\n"
        "assert all(future.result().mode == 'RGBA' for future in futures)\n"
        "from bgpipe.pipeline.inference.engine import BiRefNetEngine\n"
        "assert sum(isinstance(one, BiRefNetEngine) for one in gc.get_objects()) == 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_examples_of_the_documents_run(tmp_path: Path, photo: Image.Image) -> None:
    text = (Path(__file__).resolve().parents[3] / "infra/docs/python.md").read_text()
    for example in re.findall(r"```python\n(.*?)```", text.split("\n## ")[1], re.DOTALL):
        photo.save(tmp_path / "photo.jpg")
        environment = os.environ | {"BGPIPE_MODEL__NAME": "birefnet-nano"}
        subprocess.run([sys.executable, "-c", example], check=True, cwd=tmp_path, env=environment)
        with Image.open(tmp_path / "cutout.png") as cutout:
            assert cutout.mode == "RGBA"
        (tmp_path / "cutout.png").unlink()
