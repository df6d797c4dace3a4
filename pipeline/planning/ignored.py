"""Objects of a source that a job ignores, counted by reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath

from bgpipe.pipeline.storage.base import RAW_SUFFIXES


class IgnoredReason(StrEnum):
    NOT_AN_IMAGE = "not read"
    NOT_INCLUDED = "not included"
    EXCLUDED = "excluded"
    IN_TARGET = "in the target"
    CUTOUT = "made by bgpipe"


NO_SUFFIX = "without suffix"


@dataclass(slots=True)
class IgnoredObjects:
    """Counts by reason; those of NOT_AN_IMAGE also by suffix."""

    reasons: Counter[IgnoredReason] = field(default_factory=Counter)
    suffixes: Counter[str] = field(default_factory=Counter)

    def add(self, reason: IgnoredReason, key: str) -> None:
        self.reasons[reason] += 1
        if reason is IgnoredReason.NOT_AN_IMAGE:
            self.suffixes[PurePosixPath(key).suffix or NO_SUFFIX] += 1

    def add_unread(self, key: str) -> None:
        """Count an object whose name is not an image's."""
        self.add(IgnoredReason.NOT_AN_IMAGE, key)

    def include(self, others: IgnoredObjects) -> None:
        self.reasons += others.reasons
        self.suffixes += others.suffixes

    def record(self) -> dict[str, dict[str, int]]:
        """Return the counts for JSON."""
        return {
            "ignored": {str(reason): count for reason, count in self.reasons.items()},
            "ignored_suffixes": dict(self.suffixes),
        }

    def __str__(self) -> str:
        """`4 ignored: 2 .CR2, 1 .psd are not read; 1 excluded`; empty if there are none."""
        if not self.reasons:
            return ""
        return f"{self.reasons.total():,} ignored: {'; '.join(self._parts())}"

    def _parts(self) -> list[str]:
        parts = []
        if self.suffixes:
            counts = ", ".join(f"{count:,} {name}" for name, count in self._by_count())
            verb = "is" if self.suffixes.total() == 1 else "are"
            parts.append(f"{counts} {verb} not read")
        if any(suffix.lower() in RAW_SUFFIXES for suffix in self.suffixes):
            parts.append("for camera RAW: pip install 'bgpipe[raw]'")
        return parts + [
            f"{count:,} {reason}"
            for reason, count in self.reasons.items()
            if reason is not IgnoredReason.NOT_AN_IMAGE
        ]

    def _by_count(self) -> list[tuple[str, int]]:
        return sorted(self.suffixes.items(), key=lambda item: (-item[1], item[0]))
