"""One thing that `bgpipe doctor` looked at."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from bgpipe.pipeline.errors import BgpipeError


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    ok: bool
    detail: str


def check(what: str, look: Callable[[], str]) -> Finding:
    """What `look` returns or raises, as a finding."""
    try:
        return Finding(what, ok=True, detail=look())
    except (BgpipeError, OSError, subprocess.SubprocessError) as error:
        return Finding(what, ok=False, detail=str(error))
