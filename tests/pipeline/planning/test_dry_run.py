"""What is said of a job before it is done."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from PIL import Image

from bgpipe.config.settings import EstimateSettings
from bgpipe.pipeline.cli.planning import estimate
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.planning.dry_run import SAMPLE_SIZE, draw_sample, estimate_job
from bgpipe.pipeline.storage.local import LocalStore
from bgpipe.pipeline.types import Job, ObjectInfo

LIMITS = Limits(max_pixels=10**9, max_side=65_000, max_bytes=1 << 30)


def test_no_more_headers_are_read_than_a_sample_has(job: Job, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(SAMPLE_SIZE + 50):
        Image.new("L", (10, 10)).save(photos / f"{number}.png")
    found = estimate_job(job, LocalStore(photos), LocalStore(tmp_path / "out"), LIMITS)
    assert (found.to_do, found.sample) == (SAMPLE_SIZE + 50, SAMPLE_SIZE)
    assert found.megapixels == {"below 1": SAMPLE_SIZE}


def test_the_size_of_a_long_file_is_read_from_its_beginning(job: Job, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    noise = Image.effect_noise((3000, 2000), 90)
    noise.save(photos / "a.jpg", quality=95)
    noise.save(photos / "b.png")
    found = estimate_job(job, LocalStore(photos), LocalStore(tmp_path / "out"), LIMITS)
    assert found.size > 2 << 20
    assert found.megapixels == {"4 to 12": 2}


def test_a_sample_is_of_all_parts_of_a_long_listing() -> None:
    sample = draw_sample((ObjectInfo(str(number), 1, "") for number in range(10_000)), 100)
    tenths = Counter(int(entry.key) // 1000 for entry in sample)
    assert len({entry.key for entry in sample}) == 100
    assert len(tenths) == 10


def test_nothing_is_estimated_without_a_measured_speed() -> None:
    def of(speed: float, price: float) -> tuple[float | None, float | None]:
        return estimate(7200, EstimateSettings(images_per_second=speed, price_per_hour=price))

    assert of(0, 3) == (None, None)
    assert of(2, 0) == (1.0, None)
    assert of(2, 3) == (1.0, 3.0)
