"""Recipes: a hash that changes makes every cutout that there is stale."""

from __future__ import annotations

import io
import json

import numpy as np
from PIL import Image

from bgpipe.config.presets import Enhancement
from bgpipe.config.settings import Settings
from bgpipe.pipeline.images.png import encode
from bgpipe.pipeline.images.provenance import read, xmp_packet
from bgpipe.pipeline.types import Matting, Output, Preset, Recipe

from .snapshot import assert_frozen

WEIGHTS, EDGES = "ab" * 32, "cd" * 32
OUTPUTS = {
    "png": Output(),
    "small png of 16 bits": Output(compression="small", depth=16),
    "webp of 100": Output(format="webp", quality=100),
    "avif": Output(format="avif", quality=60),
    "jpeg on an image": Output(format="jpeg", backdrop="/wall.jpg", backdrop_sha256="ef" * 32),
    "mask, alpha kept": Output(format="mask", input_alpha="keep"),
    "zip, alpha ignored": Output(format="zip", input_alpha="ignore"),
}
MATTINGS = {"none": None, "edges": Matting("vitmatte", EDGES, (512, 512), 0.01)}
CHANGED = Preset(
    guided=True,
    contrast=1.5,
    dilate=2.0,
    erode=3.0,
    blur=1.5,
    smooth=True,
    threshold=True,
    fill_holes=True,
    invert=True,
    foreground=False,
    crop=True,
    margin=5.0,
    canvas="4:5",
    place="bottom",
    background="#102030",
    shadow=0.25,
    enhance=(Enhancement(sensitivity=0.5, smooth=2.0, fill_holes=True, mask_blur=3, mask_offset=-2, invert=True),),
)  # fmt: skip


def recipe(preset: Preset, output: Output | None = None, matting: Matting | None = None) -> Recipe:
    return Recipe("birefnet-nano", WEIGHTS, (256, 320), preset, output or Output(), matting)


def test_hashes_of_recipes(settings: Settings) -> None:
    presets = dict(settings.presets) | {"every value changed": CHANGED}
    hashes = {
        f"{name} | {output} | {matting}": recipe(preset, OUTPUTS[output], MATTINGS[matting]).hash
        for name, preset in presets.items()
        for output in OUTPUTS
        for matting in MATTINGS
    }
    assert len(set(hashes.values())) == len(hashes)
    assert_frozen("recipe_hashes", hashes)


def test_text_of_recipes() -> None:
    whole = recipe(CHANGED, OUTPUTS["jpeg on an image"], MATTINGS["edges"])
    assert_frozen("recipe_text", [recipe(Preset()).text, whole.text])


def test_provenance_in_a_png_and_in_a_packet() -> None:
    text = {"bgpipe:recipe": recipe(Preset()).text, "bgpipe:source": "größe-12'\"<&>"}
    file = encode(np.zeros((2, 3, 4), np.uint8), text=text)
    with Image.open(io.BytesIO(file)) as image:
        image.load()
        assert dict(image.info) == text
    assert read(file, file) == text
    assert read(b"", xmp_packet(text)) == text
    chunks = [kind for kind in (b"tEXt", b"iTXt") if kind in file]
    assert_frozen(
        "provenance",
        {
            "PNG": {name: json.loads(value) if name == "bgpipe:recipe" else value for name, value in text.items()},
            "chunks": [kind.decode() for kind in chunks],
            "bytes before the pixels": file[: file.index(b"IDAT") - 4].hex(),
            "XMP": xmp_packet(text).decode(),
        },
    )  # fmt: skip
