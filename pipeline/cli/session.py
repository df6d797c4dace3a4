"""What most commands begin with: the settings and a session."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from bgpipe.pipeline import session
from bgpipe.pipeline.configuration import read_settings
from bgpipe.pipeline.session import Session

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.cli.terminal import Console

__all__ = ["Session", "open_session", "read_settings"]


def open_session(
    settings: Settings, terminal: Console | None = None
) -> AbstractContextManager[Session]:
    """Connect to Redis; `terminal` shows that it takes long."""
    return session.open_session(settings, notify=terminal.notify if terminal else None)
