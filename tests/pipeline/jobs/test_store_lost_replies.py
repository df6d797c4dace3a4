"""Every change of the ledger whose answer is lost is sent again, and must count once."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.errors import Code
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.types import Item, Job, JobState, Outcome


class ForgetfulWire:
    """A proxy between a client and Redis that, on demand, forwards a request and drops the reply."""

    def __init__(self, redis_url: str) -> None:
        there = urlsplit(redis_url)
        self._there = (there.hostname, there.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self.lose_next = False
        self.lost = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._there) as server:
            while request := client.recv(1 << 20):
                server.sendall(request)
                answer = server.recv(1 << 20)
                if self.lose_next and b"SCRIPT" not in request and b"NOSCRIPT" not in answer:
                    self.lose_next = False
                    self.lost += 1
                    return
                client.sendall(answer)


@pytest.fixture
def wire(redis_url: str) -> Iterator[ForgetfulWire]:
    wire = ForgetfulWire(redis_url)
    yield wire
    wire.close()


def test_no_change_counts_twice(
    wire: ForgetfulWire, job: Job, items: Callable[[int], list[Item]]
) -> None:
    with connect(wire.url) as client:
        job_store = JobStore(client)
        client.ping()  # the greetings of a new connection are over

        def losing(change: Callable[[], object]) -> object:
            lost = wire.lost
            wire.lose_next = True
            answer = change()
            assert wire.lost == lost + 1
            return answer

        losing(lambda: job_store.open(job))
        losing(lambda: job_store.add(job.id, items(3)))
        losing(lambda: job_store.skip(job.id, 7))
        losing(lambda: job_store.start(job.id))
        losing(lambda: job_store.set_cursor(job.id, 3))
        for attempt in (1, 2):
            claim = losing(lambda: job_store.items.claim(job.id, 0, "w"))
            assert claim.attempt == attempt
        losing(lambda: job_store.items.settle(job.id, Outcome.done(0)))
        losing(lambda: job_store.items.settle(job.id, Outcome(1, Code.EMPTY, "")))
        claim = losing(lambda: job_store.items.claim(job.id, 2, "w"))
        losing(lambda: job_store.items.release(claim))
        losing(lambda: job_store.items.settle(job.id, Outcome.done(2)))
        summary = job_store.summary(job.id)
    assert (summary.state, summary.total, summary.done, summary.failed, summary.skipped) == (
        JobState.FINISHED,
        10,
        2,
        1,
        7,
    )
