"""What a worker has done so far: outcomes, and the times of their stages."""

from __future__ import annotations

import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from bgpipe.pipeline.histogram import Histogram

WHOLE = "image"
"""The stage that stands for all of an image's time in its lane."""


class WorkerCounters:
    """Any lane may write, any thread may read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stages: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.images = 0
        self.progress = 0.0
        """Unix time of the last outcome, 0 before it."""
        self.disk_free = -1
        """Bytes free where the last cutout was written; -1 where that was no folder."""

    def record_outcome(self, seconds: float, stages: Mapping[str, float]) -> None:
        """Note an outcome, which took `seconds`."""
        with self._lock:
            self.images += 1
            self.progress = time.time()
            for name, spent in {WHOLE: seconds, **stages}.items():
                self._stages[name].observe(spent)

    def record_write(self, location: str) -> None:
        """Note that there is a new cutout at the store's `location`."""
        self.disk_free = -1
        with suppress(OSError):  # the folder is gone again: whoever writes next will say so
            if "://" not in location:
                self.disk_free = shutil.disk_usage(Path(location)).free

    def stages(self) -> dict[str, Histogram]:
        """The seconds of each stage so far."""
        with self._lock:
            return {name: one.copy() for name, one in self._stages.items()}
