"""The `bgpipe` command."""

from bgpipe.pipeline.cli.app import main

__all__ = ["main"]
