"""`--matting` in a real worker: weights from a hub, tiles through the device thread, bytes that stay."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from bgpipe.pipeline.inference.engine import BiRefNetEngine
from bgpipe.pipeline.inference.vitmatte_engine import VitMatteEngine
from bgpipe.pipeline.matting.cutout import cut_out
from bgpipe.pipeline.matting.edges import SUBJECT, UNKNOWN, make_trimap, solve_edges
from bgpipe.pipeline.matting.resample import resize
from bgpipe.pipeline.models import registry
from bgpipe.pipeline.networks.preprocess import preprocess
from bgpipe.pipeline.types import DecodedImage, Matte, Matting, Preset, Recipe

from ..support.hub import LoopbackHub, serving
from ..support.tiny_vitmatte import saved, tiny_vitmatte

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Pixels

    from .conftest import Cluster

REPO = "hustvl/vitmatte-small-composition-1k"
SMALL, LARGE, OTHER = "small.png", "large.png", "other.png"


@pytest.fixture
def pictures(cluster: Cluster) -> dict[str, Pixels]:
    """A photo that is one tile, one that is several, and another one beside them."""
    skimage = pytest.importorskip("skimage")
    data = Path(skimage.__file__).parent / "data"
    made = {}
    for name, source, size in (
        (SMALL, "astronaut.png", (300, 300)),
        (LARGE, "astronaut.png", (1000, 900)),
        (OTHER, "chelsea.png", (640, 600)),
    ):
        image = Image.open(data / source).convert("RGB").resize(size)
        image.save(cluster.source / name)
        made[name] = np.asarray(image)
    return made


@pytest.mark.slow
def test_edges_are_solved_with_weights_of_the_hub_the_same_alone_and_in_company(
    cluster: Cluster, pictures: dict[str, Pixels]
) -> None:
    content = saved(tiny_vitmatte())
    nano = registry.resolve(registry.TRIAL, cache=cluster.folder)
    matting = Matting("vitmatte", sha256(content).hexdigest(), (512, 512), band=0.01)
    recipe = Recipe(nano.name, nano.sha256, nano.size, Preset(foreground=False), matting=matting)
    cache = cluster.folder / "models"
    with (
        serving(LoopbackHub(REPO, {"1" * 40: content})) as hub,
        cluster.supervisor(
            "--device",
            "cpu",
            HF_ENDPOINT=hub.url,
            BGPIPE_MODEL__CACHE_DIR=str(cache),
            BGPIPE_WORKER__LANES="3",
        ),
    ):
        made = []
        for names in ([SMALL], [OTHER, LARGE], [SMALL, LARGE, OTHER]):
            job = cluster.submit(names, recipe=recipe)
            summary = cluster.finished(job)
            assert summary.done == len(names), cluster.jobs.items.failures(job)
            made.append({name: (cluster.out / f"{name}.png").read_bytes() for name in names})
    assert made[0][SMALL] == made[2][SMALL]
    assert made[1][LARGE] == made[2][LARGE]
    assert sum("/storage/" in path for path in hub.asked) == 1

    solver = registry.resolve("vitmatte", cache=cache)
    finder, edges = (
        BiRefNetEngine(nano, "cpu", batch=1, threads=1),
        VitMatteEngine(solver, "cpu", batch=1, threads=1),
    )
    for name, rgb in pictures.items():
        matte = finder.infer([preprocess(rgb, nano.size)])[0].alpha
        solved = solve_edges(rgb, matte, matting, edges.infer)
        expected = cut_out(DecodedImage(rgb), Matte(solved), recipe.preset).rgba
        found = np.asarray(Image.open(cluster.out / f"{name}.png"))
        np.testing.assert_allclose(found[..., 3].astype(int), expected[..., 3], atol=1)
        trimap = make_trimap(resize(matte, *rgb.shape[:2]), matting.band)
        known, alpha = trimap != UNKNOWN, found[..., 3]
        assert np.array_equal(alpha[known], np.where(trimap[known] == SUBJECT, 255, 0))
        assert 0.01 < np.mean(~known) < 0.9
        assert np.mean((alpha > 0) & (alpha < 255)) > 0.01
