"""Who does the work where there is no cluster: a dispatcher in a thread and a worker of our own."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from bgpipe.pipeline.embedded import worker
from bgpipe.pipeline.errors import RedisUnavailable, Unavailable

if TYPE_CHECKING:
    from bgpipe.pipeline.child import ChildProcess
    from bgpipe.pipeline.http.backend import AppState
    from bgpipe.pipeline.session import Session

log = logging.getLogger(__name__)


@contextmanager
def embedded_worker(backend: AppState) -> Iterator[None]:
    """Feed and work on all jobs of the embedded server until the block ends."""
    session, settings = backend.session, backend.settings
    stopped = threading.Event()
    with worker(session.redis_url, settings.state_folder, settings.worker.drain_timeout) as child:
        thread = threading.Thread(target=_dispatch, args=(session, child, stopped), name="dispatch")
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()


def _dispatch(session: Session, child: ChildProcess, stopped: threading.Event) -> None:
    dispatcher = session.dispatcher()
    while not stopped.is_set():
        try:
            more = dispatcher.step()
            child.check()
        except RedisUnavailable as error:
            log.warning("waiting for redis", extra={"fields": {"error": error}})
            more = False
        except Unavailable as error:
            log.critical("cannot work", extra={"fields": {"error": error}})
            # A server that takes jobs which nobody does is worse than none.
            os.kill(os.getpid(), signal.SIGTERM)
            return
        if not more:
            stopped.wait(session.settings.dispatch.poll)
    with suppress(RedisUnavailable):  # the lease ends by itself
        dispatcher.release()
