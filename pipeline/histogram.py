"""How long things took, in counts that never grow in number: what a worker keeps of its stages."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from math import inf

BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, inf)
"""Seconds, each the largest of its bucket: a small network's step to a stuck stage's limit."""


class Histogram:
    """Counts of seconds by BOUNDS, and their sum. One thread at a time may use it."""

    def __init__(self) -> None:
        self._counts = [0] * len(BOUNDS)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    @property
    def count(self) -> int:
        return sum(self._counts)

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Each bound with the number of observations up to it, as Prometheus counts them."""
        return zip(BOUNDS, accumulate(self._counts), strict=True)

    def copy(self) -> Histogram:
        return Histogram.read(self.write())

    def write(self) -> str:
        return json.dumps([self.sum, *self._counts])

    @classmethod
    def read(cls, text: str | bytes) -> Histogram:
        """What `write` made.

        Raises:
            ValueError: somebody else did, or a version with other bounds.

        """
        total, *counts = json.loads(text)
        if len(counts) != len(BOUNDS):
            raise ValueError(f"not a histogram of this version: {len(counts)} buckets")
        found = cls()
        found.sum, found._counts = float(total), [int(count) for count in counts]
        return found
