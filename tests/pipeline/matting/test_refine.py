"""What each preset has to do to a matte, at every size of an image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
import pytest
from PIL import Image

from bgpipe.pipeline.matting.refine import refine
from bgpipe.pipeline.types import Preset

HALF_LEVEL = 0.5 / 255
REFINED = ["balanced", "products", "portraits"]


@dataclass(frozen=True)
class Subject:
    """A soft disc with thin strands around its upper half, [H, W] in [0, 1]."""

    matte: np.ndarray
    centre: tuple[int, int]
    radius: int

    @property
    def distance(self):
        y, x = np.indices(self.matte.shape, np.float32)
        return np.hypot(x - self.centre[0], y - self.centre[1])

    def strands(self):
        return (self.matte > 0.05) & (self.matte < 0.95) & (self.distance > self.radius + 8)

    def edge(self, plane):
        """The profile from the centre straight down, where there are no strands."""
        x, y = self.centre
        return plane[y : y + self.radius + 30, x]

    def around(self, plane, reach=1.12):
        """The profile on a circle that crosses the strands."""
        angles = np.linspace(1.05, 1.95, 8 * self.radius, dtype=np.float32) * np.float32(np.pi)
        x = self.centre[0] + reach * self.radius * np.cos(angles)
        y = self.centre[1] + reach * self.radius * np.sin(angles)
        return cv2.remap(plane, x[None], y[None], cv2.INTER_LINEAR)[0]


@lru_cache
def made_subject(size):
    radius, centre = int(size * 0.27), (size // 2, int(size * 0.58))
    matte = np.zeros((size, size), np.float32)
    shades = np.random.default_rng(1)
    for angle in np.linspace(1.1, 1.9, 29) * np.pi:
        reach = radius * shades.uniform(1.2, 1.5)
        tip = (int(centre[0] + reach * np.cos(angle)), int(centre[1] + reach * np.sin(angle)))
        cv2.line(matte, centre, tip, shades.uniform(0.3, 1.0), 1, cv2.LINE_AA)
    subject = Subject(cv2.GaussianBlur(matte, (0, 0), 0.6), centre, radius)
    edge = 1 / (1 + np.exp(np.clip((subject.distance - radius) / 0.65, -50, 50)))
    return replace(subject, matte=np.maximum(subject.matte, edge))


@pytest.fixture(params=[256, 512, 4096, "reference"])
def subject(request):
    if request.param != "reference":
        return made_subject(request.param)
    folder = request.getfixturevalue("shared") / "golden" / "comfyui"
    matte = np.asarray(Image.open(folder / "in_disc_hair.png"), np.float32) / 255
    return Subject(matte, (128, 148), 68)


def width(profile):
    """Pixels between 90 % and 10 % of a falling edge."""
    at = np.arange(profile.size)
    inside, outside = np.interp([-0.9, -0.1], -profile, at)
    return outside - inside


def peaks(profile):
    """Where the profile has a strand that no preset takes for background."""
    middle = profile[1:-1]
    is_peak = (middle > 0.2) & (middle > profile[:-2]) & (middle >= profile[2:])
    at = np.flatnonzero(is_peak) + 1
    return at[(at >= 4) & (at < profile.size - 4)]


def kept_peaks(subject, refined):
    """Share of each strand's opacity that is left."""
    before, after = subject.around(subject.matte), subject.around(refined)
    at = peaks(before)
    assert at.size >= 8
    return np.array([after[i - 4 : i + 5].max() / before[i] for i in at])


def test_raw_is_the_networks_own_matte(subject, presets):
    assert refine(subject.matte, presets["raw"]) is subject.matte


@pytest.mark.parametrize("name", REFINED)
def test_core_and_far_background_stay_what_they_are(subject, presets, name):
    refined = refine(subject.matte, presets[name])
    assert refined[subject.distance < subject.radius - 40].min() > 1 - HALF_LEVEL
    assert refined[subject.distance > subject.radius * 1.75 + 8].max() < HALF_LEVEL


@pytest.mark.parametrize("name", REFINED)
def test_no_preset_binarises(subject, presets, name):
    refined = refine(subject.matte, presets[name])
    soft = (refined > HALF_LEVEL) & (refined < 1 - HALF_LEVEL)
    assert np.count_nonzero(soft) > subject.radius


@pytest.mark.parametrize("name", ["balanced", "products"])
def test_contrast_narrows_the_edge(subject, presets, name):
    refined = refine(subject.matte, presets[name])
    assert 1.05 < width(subject.edge(subject.matte)) / width(subject.edge(refined)) < 1.8


@pytest.mark.parametrize(("name", "steeper"), [("balanced", 1.15), ("products", 1.3)])
def test_contrast_turns_about_the_middle(presets, name, steeper):
    ramp = np.tile(np.linspace(1, 0, 4001, dtype=np.float32), (8, 1))
    refined = refine(ramp, presets[name])
    cut = 0.5 - 0.5 / steeper
    assert refined[ramp < cut - 1e-3].max() < HALF_LEVEL
    assert refined[ramp > 1 - cut + 1e-3].min() > 1 - HALF_LEVEL
    assert refined[0, 2000] == pytest.approx(0.5, abs=1e-3)
    assert width(ramp[0]) / width(refined[0]) == pytest.approx(steeper, rel=0.01)
    assert (np.diff(refined[0]) <= 0).all()


@pytest.mark.parametrize("name", REFINED)
def test_strands_keep_their_centreline(subject, presets, name):
    before = subject.around(subject.matte)
    after = subject.around(refine(subject.matte, presets[name]))
    for i in peaks(before):
        near = after[i - 2 : i + 3]
        assert after[i] > 0
        assert after[i] >= near.max() - 0.02


@pytest.mark.parametrize(
    ("name", "least"), [("balanced", 0.85), ("products", 0.75), ("portraits", 0.85)]
)
def test_strands_keep_their_peaks(subject, presets, name, least):
    assert np.median(kept_peaks(subject, refine(subject.matte, presets[name]))) >= least


def test_portraits_widen_the_edge_and_keep_it_monotone(subject, presets):
    edge = subject.edge(refine(subject.matte, presets["portraits"]))
    assert width(edge) > 1.2 * width(subject.edge(subject.matte))
    assert (np.diff(edge) <= 1e-6).all()


def test_portraits_keep_soft_strands_soft(subject, presets):
    refined = refine(subject.matte, presets["portraits"])[subject.strands()]
    assert np.mean((refined > 0.05) & (refined < 0.95)) >= 0.9


def test_smooth_alone_softens_the_edge_a_little_and_keeps_the_strands(subject):
    refined = refine(subject.matte, Preset(smooth=True))
    widened = width(subject.edge(refined)) / width(subject.edge(subject.matte))
    assert 1.05 < widened < 1.8
    assert np.median(kept_peaks(subject, refined)) >= 0.85


def test_without_smooth_the_same_blur_takes_the_strands(subject, presets):
    plain = refine(subject.matte, replace(presets["portraits"], smooth=False))
    assert np.median(kept_peaks(subject, plain)) < 0.7


@pytest.mark.parametrize("name", REFINED)
@pytest.mark.parametrize("size", [512, 4096])
def test_a_hole_stays_a_hole_in_every_preset(presets, name, size):
    matte = np.zeros((size, size), np.float32)
    cv2.circle(matte, (size // 2, size // 2), size // 3, 1.0, -1, cv2.LINE_AA)
    cv2.circle(matte, (size // 2, size // 2), size // 20, 0.0, -1, cv2.LINE_AA)
    refined = refine(matte, presets[name])
    assert refined[size // 2, size // 2] == 0
    assert np.mean(np.abs(refined - matte)) < 0.02


@pytest.mark.parametrize("name", REFINED)
def test_a_real_alpha_keeps_its_core_its_surroundings_and_its_softness(presets, name, shared):
    for path in sorted((shared / "images/quality/alphamatting").glob("*_alpha.png"))[::4]:
        matte = np.asarray(Image.open(path).convert("L"), np.float32) / 255
        refined = refine(matte, presets[name])
        far = np.ones((25, 25), np.uint8)
        assert refined[cv2.erode(matte, far) == 1].min(initial=1) > 1 - HALF_LEVEL
        assert refined[cv2.dilate(matte, far) == 0].max(initial=0) < HALF_LEVEL
        soft = (matte > 0.2) & (matte < 0.8)
        still = (refined > HALF_LEVEL) & (refined < 1 - HALF_LEVEL)
        assert np.count_nonzero(soft & still) > 0.98 * np.count_nonzero(soft)


def test_tiles_leave_no_seams(presets):
    subject = made_subject(900)
    for preset in (presets["portraits"], Preset(dilate=3.4, erode=6, blur=7, smooth=True)):
        moved = refine(np.pad(subject.matte, ((317, 0), (201, 0))), preset)[317:, 201:]
        assert np.abs(moved - refine(subject.matte, preset)).max() < 1e-6


def test_a_hard_edge_is_refined_too():
    step = np.zeros((40, 1200), np.float32)
    step[:, 512:] = 1
    grown = refine(step, Preset(dilate=2))
    assert np.flatnonzero(grown[0])[0] == 510


def test_a_haze_below_half_a_level_is_background():
    haze = np.full((600, 700), 0.0015, np.float32)
    assert refine(haze, Preset(dilate=1, blur=2, contrast=1.15)).max() == 0


def test_blur_stays_near_what_is_uncertain():
    step = np.zeros((40, 400), np.float32)
    step[:, 100:] = 1
    step[:, 300] = 0.5
    blurred = refine(step, Preset(blur=2))
    assert np.array_equal(blurred[:, :200], step[:, :200])
    assert 0.5 < blurred[20, 300] < 1


def test_only_threshold_binarises(subject):
    refined = refine(subject.matte, Preset(threshold=True))
    assert set(np.unique(refined)) == {0, 1}
    assert np.array_equal(refined > 0, subject.matte > 0.5)


def test_invert_keeps_what_was_background(subject):
    assert np.array_equal(refine(subject.matte, Preset(invert=True)), 1 - subject.matte)


def test_the_matte_that_was_given_is_not_changed(subject, presets):
    before = subject.matte.copy()
    for preset in presets.values():
        refine(subject.matte, preset)
    assert np.array_equal(subject.matte, before)


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (3, 2)])
def test_the_smallest_images_are_refined(presets, shape):
    for preset in presets.values():
        assert refine(np.full(shape, 0.5, np.float32), preset).shape == shape
