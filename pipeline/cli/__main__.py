"""Run `bgpipe` as `python -m bgpipe.pipeline.cli`."""

from bgpipe.pipeline.cli import main

main()
