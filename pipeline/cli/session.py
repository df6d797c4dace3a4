"""What most commands begin with: the settings and a session."""

from __future__ import annotations

from bgpipe.pipeline.configuration import read_settings
from bgpipe.pipeline.session import Session, open_session

__all__ = ["Session", "open_session", "read_settings"]

