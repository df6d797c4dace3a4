"""The `bgpipe` command."""

from __future__ import annotations

from bgpipe.pipeline.cli.app import main

__all__ = ["main"]
