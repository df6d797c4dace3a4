"""What most commands begin with: the settings and a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.session import Session, open_session

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings

__all__ = ["Session", "open_session", "read_settings"]


def read_settings() -> Settings:
    from bgpipe.config.settings import load_settings

    try:
        return load_settings()
    except ValueError as error:
        raise UsageError(f"settings: {error}") from error
