"""Run `bgpipe` as `python -m bgpipe.pipeline.cli`."""

from __future__ import annotations

from bgpipe.pipeline.cli import main

main()
