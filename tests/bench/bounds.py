"""Figures of a benchmark, with the bounds that the documents promise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bound:
    """A figure with the bound it must keep."""

    what: str
    value: float
    unit: str
    maximum: float | None = None
    minimum: float | None = None

    @property
    def is_kept(self) -> bool:
        return (self.maximum is None or self.value <= self.maximum) and (
            self.minimum is None or self.value >= self.minimum
        )

    def row(self) -> str:
        limit = f"at most {self.maximum:g}" if self.maximum else ""
        limit = f"at least {self.minimum:g}" if self.minimum else limit
        verdict = "" if self.is_kept else "MISSED"
        return f"{self.what:<52}{self.value:>12,.1f} {self.unit:<8}{limit:<16}{verdict}"


def report(bounds: Iterable[Bound]) -> bool:
    """Print `bounds` one by one. Returns whether all are kept."""
    is_kept = True
    for bound in bounds:
        print(bound.row(), flush=True)
        is_kept &= bound.is_kept
    return is_kept
