"""`python -m bgpipe.pipeline.cli` is `bgpipe`."""

from __future__ import annotations

from bgpipe.pipeline.cli import main

main()
