"""One file to one cutout: alpha, depth, background and format as the recipe has them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.errors import Code, ItemError, PermanentError
from bgpipe.pipeline.images import png, provenance
from bgpipe.pipeline.storage.factory import StoreFactory
from bgpipe.pipeline.types import Matte, Matting, Output, Preset, Recipe
from bgpipe.workers.budget import Budget
from bgpipe.workers.image_processor import ImageProcessor
from bgpipe.workers.watchdog import StageTimer

SIZE = (64, 64)
SETTINGS = load_settings()
HALF = Preset(foreground=False)


class Device:
    """A matte whose left half is the subject."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def infer(self, spec: Recipe | Matting, images: Sequence[np.ndarray]) -> list[Matte]:
        """Of edges a quarter, wherever nothing is known."""
        if isinstance(spec, Matting):
            return [Matte(np.full(tile.shape[:2], 0.25, np.float32)) for tile in images]
        self.seen += images
        alpha = np.zeros(SIZE, np.float32)
        alpha[:, :32] = 1
        return [Matte(alpha)]


def make(
    data: bytes,
    *,
    preset: Preset = HALF,
    device: Device | None = None,
    matting: Matting | None = None,
    **values,
) -> bytes:
    stores = StoreFactory(SETTINGS.s3)
    processor = ImageProcessor(device or Device(), stores, Budget(2**30), SETTINGS)
    recipe = Recipe("m", "0" * 64, SIZE, preset, Output(**values), matting)
    timer = StageTimer(SETTINGS.limits.model_dump())
    ((file,), _) = processor.process(data, "1-2", [recipe], timer)
    if isinstance(file, ItemError):
        raise file
    return file


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture
def scene() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


@pytest.fixture
def stencil(scene: np.ndarray) -> bytes:
    """The scene with an alpha whose upper half is opaque."""
    alpha = np.zeros((64, 64), np.uint8)
    alpha[:32] = 255
    return png.encode(np.dstack([scene, alpha]), text={})


@pytest.mark.parametrize(
    ("policy", "visible"),
    [
        ("multiply", (slice(0, 32), slice(0, 32))),
        ("keep", (slice(0, 32), slice(0, 64))),
        ("ignore", (slice(0, 64), slice(0, 32))),
    ],
)
def test_a_sources_own_alpha_is_treated_as_asked(
    scene: np.ndarray, stencil: bytes, policy: str, visible: tuple[slice, slice]
) -> None:
    rgba = pixels(make(stencil, input_alpha=policy))
    expected = np.zeros((64, 64), np.uint8)
    expected[visible] = 255
    assert np.array_equal(rgba[..., 3], expected)
    assert np.array_equal(rgba[visible][..., :3], scene[visible])


def test_an_alpha_that_is_kept_needs_no_device(stencil: bytes, scene: np.ndarray) -> None:
    device = Device()
    make(stencil, device=device, input_alpha="keep")
    assert not device.seen
    make(png.encode(scene, text={}), device=device, input_alpha="keep")
    assert len(device.seen) == 1


def test_the_edge_is_solved_again_where_the_recipe_asks_for_it(
    scene: np.ndarray, stencil: bytes
) -> None:
    matting = Matting("v", "1" * 64, (32, 32), band=0.05)
    alpha = pixels(make(png.encode(scene, text={}), matting=matting))[0, :, 3]
    assert list(np.flatnonzero(alpha == 64)) == list(range(28, 36))
    assert set(alpha[:28]) == {255}
    assert set(alpha[36:]) == {0}
    kept = pixels(make(stencil, matting=matting, input_alpha="keep"))
    assert set(np.unique(kept[..., 3])) == {0, 255}


def test_a_source_of_16_bits_keeps_them_on_request() -> None:
    samples = np.random.default_rng(1).integers(0, 2**16, (64, 64, 3), np.uint16)
    data = make(png.encode(samples, text={}), depth=16)
    bgra = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(bgra[:, :32, 2::-1], samples[:, :32])


def test_a_jpeg_is_on_white_unless_another_ground_is_asked_for(scene: np.ndarray) -> None:
    source = png.encode(scene, text={})
    assert (pixels(make(source, format="jpeg", quality=95))[:, 40:] > 250).all()
    black = Preset(foreground=False, background="black")
    assert (pixels(make(source, preset=black, format="jpeg", quality=95))[:, 40:] < 5).all()


def test_an_image_of_the_job_is_the_ground(scene: np.ndarray, tmp_path: Path) -> None:
    backdrop = png.encode(np.full((9, 9, 3), (10, 200, 30), np.uint8), text={})
    path = tmp_path / "backdrop.png"
    path.write_bytes(backdrop)
    sha256 = hashlib.sha256(backdrop).hexdigest()
    source = png.encode(scene, text={})
    rgba = pixels(make(source, backdrop=str(path), backdrop_sha256=sha256))
    assert (rgba[:, 32:] == (10, 200, 30, 255)).all()
    assert np.array_equal(rgba[:, :32, :3], scene[:, :32])
    path.write_bytes(backdrop + b"\0")
    with pytest.raises(PermanentError) as caught:
        make(source, backdrop=str(path), backdrop_sha256=sha256)
    assert caught.value.code is Code.MISSING


def test_the_file_says_how_it_was_made(scene: np.ndarray) -> None:
    for file_format in ("png", "webp", "avif", "jpeg", "mask", "zip"):
        data = make(png.encode(scene, text={}), format=file_format)
        text = provenance.read(data[: provenance.HEAD], data[-provenance.TAIL :])
        assert text["bgpipe:source"] == "1-2"
        assert f'"format":"{file_format}"' in text["bgpipe:recipe"]


def test_what_changes_the_file_changes_the_recipe() -> None:
    def recipe(preset: Preset = HALF, matting: Matting | None = None, **values) -> Recipe:
        return Recipe("m", "0" * 64, SIZE, preset, Output(**values), matting)

    edges = Matting("v", "1" * 64, (64, 64), band=0.01)
    assert recipe(matting=edges).hash == recipe(matting=replace(edges, model="w")).hash
    hashes = {
        recipe(matting=edges).hash,
        recipe(matting=replace(edges, weights="2" * 64)).hash,
        recipe(matting=replace(edges, size=(64, 96))).hash,
        recipe(matting=replace(edges, band=0.02)).hash,
        recipe().hash,
        recipe(format="webp").hash,
        recipe(compression="small").hash,
        recipe(depth=16).hash,
        recipe(quality=80).hash,
        recipe(input_alpha="keep").hash,
        recipe(backdrop="a", backdrop_sha256="1").hash,
        recipe(Preset(crop=True)).hash,
        recipe(Preset(margin=3)).hash,
        recipe(Preset(background="white")).hash,
        recipe(Preset(shadow=0.2)).hash,
        recipe(Preset(size="9x9")).hash,
        recipe(Preset(size="9x9", enlarge=True)).hash,
        recipe(Preset(outline="3:white")).hash,
        recipe(Preset(background="blur:3")).hash,
    }
    assert len(hashes) == 19
    assert recipe(backdrop="a", backdrop_sha256="1").hash == (
        recipe(backdrop="b", backdrop_sha256="1").hash
    )


class SoftDevice(Device):
    """A matte that falls from left to right, so that each preset makes another cutout of it."""

    def infer(self, spec: Recipe | Matting, images: Sequence[np.ndarray]) -> list[Matte]:
        self.seen += images
        return [Matte(np.tile(np.linspace(1, 0, SIZE[1], dtype=np.float32), (SIZE[0], 1)))]


def test_several_outputs_are_what_each_would_be_alone_from_one_pass() -> None:
    samples = np.random.default_rng(1).integers(0, 2**16, (64, 64, 3), np.uint16)
    source = png.encode(samples, text={})
    recipes = [
        Recipe("m", "0" * 64, SIZE, preset, Output(**output))
        for preset, output in (
            (Preset(contrast=1.3), {"format": "webp"}),
            (Preset(contrast=1.3, crop=True, outline="2:white"), {}),
            (Preset(background="blur:3", size="40x40"), {"format": "jpeg"}),
            (Preset(), {"depth": 16}),
            (Preset(contrast=1.3), {"format": "mask"}),
        )
    ]
    device, timer = SoftDevice(), StageTimer(SETTINGS.limits.model_dump())
    processor = ImageProcessor(device, StoreFactory(SETTINGS.s3), Budget(2**30), SETTINGS)
    files, _ = processor.process(source, "1-2", recipes, timer)
    assert len(device.seen) == 1
    for recipe, file in zip(recipes, files, strict=True):
        assert processor.process(source, "1-2", [recipe], timer)[0] == [file]
    assert len({len(file) for file in files if isinstance(file, bytes)}) == len(files)


def test_an_output_that_fails_leaves_the_others_as_they_are(
    scene: np.ndarray, tmp_path: Path
) -> None:
    missing = Output(backdrop=str(tmp_path / "gone.png"), backdrop_sha256="0" * 64)
    recipes = [
        Recipe("m", "0" * 64, SIZE, HALF, output) for output in (Output(), missing, Output("mask"))
    ]
    timer = StageTimer(SETTINGS.limits.model_dump())
    processor = ImageProcessor(Device(), StoreFactory(SETTINGS.s3), Budget(2**30), SETTINGS)
    source = png.encode(scene, text={})
    (cutout, error, mask), _ = processor.process(source, "1-2", recipes, timer)
    assert isinstance(error, PermanentError)
    assert error.code is Code.MISSING
    assert isinstance(cutout, bytes)
    assert isinstance(mask, bytes)
    assert np.array_equal(pixels(cutout)[..., 3], pixels(mask))
