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
        parts = []
        if self.suffixes:
            by_count = sorted(self.suffixes.items(), key=lambda item: (-item[1], item[0]))
            counts = ", ".join(f"{count:,} {name}" for name, count in by_count)
            parts.append(f"{counts} {'is' if self.suffixes.total() == 1 else 'are'} not read")
        if not RAW_SUFFIXES.isdisjoint(map(str.lower, self.suffixes)):
            parts.append("for camera RAW: pip install 'bgpipe[raw]'")
        parts += [
            f"{count:,} {reason}"
            for reason, count in self.reasons.items()
            if reason is not IgnoredReason.NOT_AN_IMAGE
        ]
        return f"{self.reasons.total():,} ignored: {'; '.join(parts)}" if parts else ""
