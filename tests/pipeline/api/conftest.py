"""The running service of the HTTP tests."""

from __future__ import annotations

from ..http.conftest import client, finished, guarded, photo, service

__all__ = ["client", "finished", "guarded", "photo", "service"]
