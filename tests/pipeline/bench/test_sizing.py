"""The arithmetic of `bgpipe bench --plan`."""

from __future__ import annotations

import pytest

from bgpipe.pipeline.bench.sizing import (
    CORE_SECONDS,
    MESSAGE,
    Host,
    Load,
    Storage,
    bytes_in_flight,
    core_seconds,
    plan,
    storage_seconds,
)
from bgpipe.pipeline.images.limits import estimate_memory


@pytest.mark.parametrize(("megapixels", "seconds"), CORE_SECONDS)
def test_a_measured_size_costs_what_was_measured(megapixels: float, seconds: float) -> None:
    assert core_seconds(megapixels) == pytest.approx(seconds + MESSAGE)


def test_sizes_between_and_beyond_lie_on_the_line() -> None:
    assert core_seconds(8.0) == pytest.approx(MESSAGE + (0.107 + 0.220) / 2)
    assert core_seconds(36.0) == pytest.approx(MESSAGE + 2 * 0.386 - 0.220)
    assert core_seconds(0.01) >= MESSAGE


def test_storage_takes_two_requests_and_the_bytes_of_both_files() -> None:
    assert storage_seconds(4.0, Storage(0.05, 80e6)) == pytest.approx(0.1 + 3.6e6 / 80e6)


def test_memory_is_what_a_worker_claims() -> None:
    assert bytes_in_flight(12.0) == pytest.approx(estimate_memory(3_000_000, 12_000_000))


def test_a_device_with_all_it_needs_is_the_limit_itself() -> None:
    needed = plan(Load(17.0, 12.0), Host(), Storage())
    assert (needed.limit, needed.images_per_second) == ("device", 17.0)
    again = plan(Load(17.0, 12.0), Host(needed.cores, needed.connections), Storage())
    assert again.limit == "device"


@pytest.mark.parametrize(
    ("host", "limit"), [(Host(cores=2), "cores"), (Host(cores=64, connections=1), "connections")]
)
def test_what_is_scarce_is_named_and_sets_the_pace(host: Host, limit: str) -> None:
    found = plan(Load(17.0, 12.0, 1000), host, Storage(), price_per_hour=2.0)
    assert found.limit == limit
    assert found.images_per_second < 17.0
    assert found.hours == pytest.approx(1000 / found.images_per_second / 3600)
    assert found.cost == pytest.approx(2.0 * found.hours)


def test_without_a_price_there_is_no_cost() -> None:
    assert plan(Load(1.0, 1.0), Host(), Storage()).cost is None
