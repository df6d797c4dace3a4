"""What most commands begin with: the settings, a Redis, and the ledger in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.connection import Connection
    from bgpipe.pipeline.feeder import Feeder
    from bgpipe.pipeline.ledger import Ledger
    from bgpipe.pipeline.types import JobId


@dataclass(frozen=True, slots=True)
class Session:
    settings: Settings
    redis_url: str
    client: Connection
    ledger: Ledger

    def feeder(self) -> Feeder:
        from bgpipe.pipeline.feeder import Feeder
        from bgpipe.pipeline.queue import make_app

        app = make_app(self.settings, self.redis_url)
        return Feeder(self.ledger, app, self.client, self.settings.queue)

    def job(self, name: str | None) -> JobId:
        """The job named, or the latest one."""
        from bgpipe.pipeline.types import JobId

        job = JobId(name) if name else self.ledger.latest()
        if job is None:
            raise UsageError("no job yet: start one with bgpipe submit FOLDER")
        return job


def read_settings() -> Settings:
    from bgpipe.config.settings import load_settings

    try:
        return load_settings()
    except ValueError as error:
        raise UsageError(f"settings: {error}") from error


@contextmanager
def open_session(settings: Settings) -> Iterator[Session]:
    """Connect to the cluster's Redis, or to the embedded server for as long as this lasts."""
    from bgpipe.pipeline.connection import connect
    from bgpipe.pipeline.embedded import redis_server
    from bgpipe.pipeline.ledger import Ledger

    with ExitStack() as stack:
        url = settings.redis_url or stack.enter_context(redis_server(settings.state_folder))
        client = stack.enter_context(connect(url))
        yield Session(settings, url, client, Ledger(client))
