"""Whether something became slower: `python tests/bench/guard.py [--json FILE] [--write]`.

Measures a small version of each part in CPU time of one thread, the minimum over the rounds, divided by a
reference measured just before it: a matrix product for the network, deflate for the rest. A faster or busier
machine changes both alike.
Compares with the ratios in figures.json, which --write replaces; exit code 1 if one is 25 % slower.
Takes a minute or two.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from images import Ours, photo, samples, seconds, soft_disc
from ledger import GeneratedStore, catalogue
from model import random_network

from bgpipe.config.presets import Preset
from bgpipe.config.settings import load_settings
from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.broker.embedded import redis_server
from bgpipe.pipeline.broker.queue import make_app
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.models.hub import Hub
from bgpipe.pipeline.models.registry import resolve
from bgpipe.pipeline.networks.birefnet.checkpoint import load
from bgpipe.pipeline.networks.birefnet.fused import fuse
from bgpipe.pipeline.planning.planner import list_job
from bgpipe.pipeline.scheduling.dispatcher import Feeder
from bgpipe.pipeline.storage.local import LocalStore
from bgpipe.pipeline.types import Job, JobId, Outcome, Recipe

FIGURES = Path(__file__).with_name("figures.json")
SLOWER = 1.25
"""Ratio to the committed figure from which the guard fails."""
ROUNDS = 7
IMAGES = 2_000
"""In the job that is listed, published and settled."""
RECIPE = Recipe("none", "0" * 64, (32, 32), Preset())

Work = Callable[[], object]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write what was measured here")
    parser.add_argument("--write", action="store_true", help="replace figures.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    figures = dict(measure())
    text = json.dumps(figures, indent=2) + "\n"
    if given.json:
        given.json.write_text(text)
    if given.write:
        FIGURES.write_text(text)
    slower = list(compare(figures, json.loads(FIGURES.read_text())))
    print("\n".join(slower) or "nothing is slower")
    return 1 if slower else 0


def compare(figures: dict[str, float], committed: dict[str, float]) -> Iterator[str]:
    """Yield what is slower than the committed figures allow, or missing on either side."""
    for name in sorted(figures.keys() | committed.keys()):
        if name not in figures or name not in committed:
            yield f"not in both: {name}: write figures.json anew"
        elif figures[name] > SLOWER * committed[name]:
            yield f"slower: {name}: {figures[name]:.3g}, committed {committed[name]:.3g}"


def measure() -> Iterator[tuple[str, float]]:
    """Yield each part's name and its time in units of its reference."""
    product, deflate = make_product(), make_deflate()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with torch.inference_mode():
            for name, work in networks(folder):
                yield show(name, work, product)
        for name, work in stages():
            yield show(name, work, deflate)
        for name, work in scheduling(stack, folder):
            yield show(name, work, deflate)


def show(name: str, work: Work, reference: Work) -> tuple[str, float]:
    work()
    pairs = [(seconds(reference), seconds(work)) for _ in range(ROUNDS)]
    least = [min(column) for column in zip(*pairs, strict=True)]
    ratio = least[1] / least[0]
    spread = median(one / two for two, one in pairs) / ratio
    print(f"{name:32}{1e3 * least[1]:9.2f} ms {ratio:8.3f}   median {spread:.2f} of it", flush=True)
    return name, round(ratio, 4)


def make_product() -> Work:
    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return lambda: left @ right


def make_deflate() -> Work:
    data = np.random.default_rng(0).integers(0, 16, 2**20, np.uint8).tobytes()
    return lambda: zlib.compress(data, 1)


def networks(cache: Path) -> Iterator[tuple[str, Work]]:
    model = resolve("birefnet-nano", cache=cache, hub=Hub(timeout=1))
    nano, small = fuse(load(model), model.size), torch.randn(1, 3, *model.size)
    yield "network: nano", lambda: nano(small)
    lite, large = fuse(random_network("swin_v1_t"), (256, 256)), torch.randn(1, 3, 256, 256)
    yield "network: lite, 256 x 256", lambda: lite(large)


def stages() -> Iterator[tuple[str, Work]]:
    data, matte, ours = photo(samples(), 4.0), soft_disc(), Ours()
    yield "decode, 4 MP", lambda: ours.decode(data)
    yield "model input, 4 MP", ours.shrink
    yield "matte to cutout, 4 MP", lambda: ours.cut(matte)
    yield "PNG, 4 MP", lambda: ours.write(ours.cutout)


def scheduling(stack: ExitStack, folder: Path) -> Iterator[tuple[str, Work]]:
    """Time of this process alone; the server's is not in it."""
    url = stack.enter_context(redis_server(folder / "state"))
    client = stack.enter_context(connect(url))
    settings = load_settings()
    jobs = JobStore(client)
    feeder = Feeder(jobs, stack.enter_context(make_app(settings, url)), client, settings.queue)
    ids: list[JobId] = []

    def list_images() -> None:
        source = GeneratedStore(folder, islice(catalogue(IMAGES), IMAGES))
        ids.append(JobId(f"job-{len(ids)}"))
        target = LocalStore(folder / ids[-1])
        job = Job(ids[-1], source.location, target.location, RECIPE, time.time(), force=True)
        jobs.open(job)
        list_job(jobs, None, job, source, target, token=1)

    def publish() -> None:
        jobs.set_cursor(ids[-1], 0, 1)
        client.delete(settings.queue.name)
        feeder.publish_next(ids[-1], IMAGES, token=1)

    def settle() -> None:
        for index in range(IMAGES // 4):
            jobs.items.claim(ids[-1], index, "guard")
            jobs.items.settle(ids[-1], Outcome.done(index), identity="a cutout")

    yield f"list {IMAGES} images", list_images
    yield f"publish {IMAGES} images", publish
    yield f"claim and settle {IMAGES // 4} images", settle


if __name__ == "__main__":
    sys.exit(main())
