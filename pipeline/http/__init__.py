"""The HTTP service: a native API under /v1 and a web page, stateless over the ledger."""

from __future__ import annotations

from bgpipe.pipeline.http.app import create_app

__all__ = ["create_app"]
