"""Histograms of seconds: what they count, and that they survive being written."""

from __future__ import annotations

from math import inf

import pytest

from bgpipe.pipeline.monitoring.heartbeat import BOUNDS, Histogram


def test_an_observation_counts_in_every_bucket_that_reaches_it() -> None:
    histogram = Histogram()
    for seconds in (0.01, 0.3, 0.5, 1000.0):
        histogram.observe(seconds)
    counts = dict(histogram.cumulative())
    assert list(counts) == list(BOUNDS)
    assert (counts[0.01], counts[0.25], counts[0.5], counts[300.0], counts[inf]) == (1, 1, 3, 3, 4)
    assert histogram.sum == pytest.approx(1000.81)


def test_a_histogram_that_was_written_is_read_as_it_was() -> None:
    histogram = Histogram()
    for seconds in (0.02, 7.0):
        histogram.observe(seconds)
    found = Histogram.read(histogram.write())
    assert (found.sum, list(found.cumulative())) == (histogram.sum, list(histogram.cumulative()))


@pytest.mark.parametrize("text", ["[1.0, 2, 3]", "nothing"])
def test_what_is_no_histogram_of_this_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"histogram|Expecting"):
        Histogram.read(text)
