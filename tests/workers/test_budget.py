"""The budget of the lanes: never exceeded, no claim overtaken, and large enough for what it admits."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from bgpipe.pipeline.images.limits import estimate_memory
from bgpipe.workers.budget import Budget, default_memory

LANES = 16


class Meter:
    """How much is held at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held = 0
        self.most = 0

    def change(self, amount: int) -> None:
        with self._lock:
            self._held += amount
            self.most = max(self.most, self._held)


def test_claims_never_exceed_the_budget_and_are_held_side_by_side() -> None:
    memory, meter = Budget(100), Meter()

    def work(amount: int) -> None:
        with memory.claim(amount):
            meter.change(amount)
            threading.Event().wait(0.002)
            meter.change(-amount)

    with ThreadPoolExecutor(LANES) as pool:
        list(pool.map(work, [10, 30, 45, 5, 60, 100] * 20))
    assert 60 < meter.most <= 100


def test_a_claim_beyond_the_budget_is_held_alone() -> None:
    memory, inside = Budget(100), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        with memory.claim(1000):
            late = pool.submit(_enter, memory, 1, inside)
            assert not inside.wait(0.05)
        late.result(10)


def test_a_large_claim_that_waits_is_not_overtaken_by_small_ones() -> None:
    memory = Budget(100)
    large, small = threading.Event(), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        with memory.claim(50):
            waiting = pool.submit(_enter, memory, 80, large)
            while not memory._turn.locked():
                threading.Event().wait(0.001)
            behind = pool.submit(_enter, memory, 10, small)
            assert not small.wait(0.05)
        waiting.result(10)
        behind.result(10)


def test_an_image_that_fails_gives_its_memory_back() -> None:
    memory = Budget(100)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), memory.claim(100):
            _ = 1 / 0
    with memory.claim(100):
        pass


def test_the_machine_has_memory() -> None:
    assert 2**26 < default_memory() < 2**50


PROGRAM = """
import io, resource, sys, threading
from concurrent.futures import ThreadPoolExecutor
import cv2, numpy as np, torch
from bgpipe.config.settings import load_settings
from bgpipe.pipeline.images.encode import encode
from bgpipe.pipeline.types import Cutout, Matte, Output, DecodedImage, Preset, Recipe
from bgpipe.workers.image_processor import ImageProcessor
from bgpipe.workers.budget import Budget
from bgpipe.workers.watchdog import StageTimer

budget, lanes, megapixels = (int(word) for word in sys.argv[1:])
cv2.setNumThreads(1)
torch.set_num_threads(1)
y, x = np.mgrid[:256, :256].astype(np.float32) / 256 - 0.5
matte = Matte(np.clip((0.35 - np.hypot(y, x)) * 40, 0, 1))
rgb = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
settings = load_settings()
class Device:
    def infer(self, recipe, images):
        return [matte for _ in images]
image_processor = ImageProcessor(Device(), None, Budget(budget), settings)
recipe = Recipe("m", "0" * 64, (256, 256), Preset(contrast=1.15))

def photo(megapixels):
    side = int((megapixels * 1e6) ** 0.5)
    picture = DecodedImage(cv2.resize(rgb, (side, side)))
    opaque = Cutout(np.dstack([picture.rgb, np.full((side, side), 255, np.uint8)]))
    return encode(opaque, picture, Output(format="jpeg"), {})

def make(data):
    image_processor.process(data, "", [recipe], StageTimer(settings.limits.model_dump()))

def kilobytes(name):
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(name))

small, large = photo(0.1), photo(megapixels)
with ThreadPoolExecutor(lanes) as pool:
    list(pool.map(make, [small] * lanes))
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    before = kilobytes("VmRSS")
    list(pool.map(make, [large] * lanes))
print((kilobytes("VmHWM") - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
@pytest.mark.parametrize("megapixels", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_16_lanes_stay_within_a_budget_for_three_images(megapixels: int) -> None:
    budget = 3 * estimate_memory(megapixels * 400_000, megapixels * 1_000_000)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(budget), str(LANES), str(megapixels)],
        capture_output=True,
        text=True,
        timeout=300,
        env={"PATH": "", "OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "65536"},
    )
    assert done.returncode == 0, done.stderr
    assert budget // 8 < int(done.stdout) < budget


def _enter(memory: Budget, amount: int, inside: threading.Event) -> None:
    with memory.claim(amount):
        inside.set()
