"""Seeing a job through to its end from the command that submitted or resumed it."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

from bgpipe.pipeline.cli.progress import progress
from bgpipe.pipeline.cli.session import Session
from bgpipe.pipeline.cli.terminal import Terminal

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Books, JobId


def run_job(session: Session, terminal: Terminal, job: JobId) -> Books:
    """Feed and watch `job` until its books close, with a worker of our own where no cluster is.

    Raises:
        KeyboardInterrupt: INT or TERM; the worker has drained, and the job can be resumed.
        Unavailable: Redis or the embedded worker went away for good.
    """
    from bgpipe.pipeline.embedded import worker

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings, feeder = session.settings, session.feeder()
    try:
        with ExitStack() as stack:
            watch = stack.enter_context(progress(terminal))
            ours = None
            if settings.embedded and session.ledger.books(job).state == "running":
                ours = stack.enter_context(
                    worker(session.redis_url, settings.state_folder, settings.worker.drain_timeout)
                )

            def look(books: Books) -> None:
                watch(books)
                if ours:
                    ours.check()

            return feeder.run(job, look)
    except KeyboardInterrupt:
        terminal.warn(f"interrupted: go on with bgpipe resume {job}, or submit again")
        raise
