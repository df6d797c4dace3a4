"""One check of `bgpipe doctor`."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from bgpipe.pipeline.errors import BgpipeError


class Level(StrEnum):
    """How a check ended; with an error, the command that needs it fails."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class CheckWarning(BgpipeError):
    """It works, but not well, or not for long."""


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    level: Level
    detail: str

    @property
    def ok(self) -> bool:
        return self.level is not Level.ERROR


def run_check(what: str, look: Callable[[], str]) -> Check:
    """What `look` returns or raises, as a finding in one line."""
    try:
        return Check(what, Level.OK, look())
    except CheckWarning as error:
        return Check(what, Level.WARNING, _in_one_line(error))
    except (BgpipeError, OSError, subprocess.SubprocessError) as error:
        return Check(what, Level.ERROR, _in_one_line(error))


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())
