"""A session: a Redis, the jobs in it, and the components that work on them.

Heavy components are imported where they are made, so that commands such as --help start fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.broker.client import RedisClient
    from bgpipe.pipeline.broker.lease import Lease
    from bgpipe.pipeline.jobs.store import JobStore
    from bgpipe.pipeline.logging import Notify
    from bgpipe.pipeline.planning.catalog import Catalogs
    from bgpipe.pipeline.scheduling.dispatcher import Dispatcher, JobController
    from bgpipe.pipeline.scheduling.feeder import Feeder
    from bgpipe.pipeline.scheduling.submission import Submitter
    from bgpipe.pipeline.storage.factory import StoreFactory
    from bgpipe.pipeline.types import JobId


@dataclass(frozen=True)
class Session:
    settings: Settings
    redis_url: str
    client: RedisClient
    jobs: JobStore

    @cached_property
    def feeder(self) -> Feeder:
        from bgpipe.pipeline.broker.queue import make_app
        from bgpipe.pipeline.scheduling.feeder import Feeder

        app = make_app(self.settings, self.redis_url)
        return Feeder(self.jobs, app, self.client, self.settings.queue)

    @cached_property
    def stores(self) -> StoreFactory:
        from bgpipe.pipeline.storage.factory import StoreFactory

        return StoreFactory(self.settings.s3)

    @cached_property
    def catalogs(self) -> Catalogs:
        from bgpipe.pipeline.planning.catalog import Catalogs

        return Catalogs(self.jobs.items, self.settings.state_folder / "catalogs")

    @cached_property
    def submitter(self) -> Submitter:
        from bgpipe.pipeline.scheduling.submission import Submitter

        lease = self.settings.dispatch.lease
        return Submitter(self.client, self.jobs, self.stores, self.catalogs, lease)

    def lease(self, name: str) -> Lease:
        from bgpipe.pipeline.broker.lease import Lease

        return Lease(self.client, name, self.settings.dispatch.lease)

    def is_held(self, name: str) -> bool:
        """Whether any process holds the lease `name`."""
        from bgpipe.pipeline.broker.lease import is_held

        return is_held(self.client, name)

    def controller(self, job: JobId, lease: Lease | None = None) -> JobController:
        """Return the controller of `job`, with a lease of its own unless one is given."""
        from bgpipe.pipeline.scheduling.dispatcher import MARGIN, JobController

        lease = lease or self.lease(keys.lease_of_job(job))
        patience = self.settings.queue.visibility_timeout + MARGIN
        return JobController(self.jobs, self.feeder, lease, job, patience)

    def dispatcher(self) -> Dispatcher:
        from bgpipe.pipeline.scheduling.dispatcher import Dispatcher

        lease = self.lease(keys.DISPATCH)
        return Dispatcher(self.jobs, self.feeder, lease, self.controller, self.settings.dispatch)

    def is_dispatched(self) -> bool:
        """Whether a dispatcher feeds the jobs of this cluster."""
        return not self.settings.embedded and self.is_held(keys.DISPATCH)

    def job(self, name: str | None) -> JobId:
        """Return the id of the named job, or of the newest one."""
        from bgpipe.pipeline.types import JobId

        job = JobId(name) if name else self.jobs.latest()
        if job is None:
            raise UsageError("no job yet: start one with bgpipe submit FOLDER")
        return job


@contextmanager
def open_session(
    settings: Settings, retry_seconds: float | None = None, notify: Notify | None = None
) -> Iterator[Session]:
    """Connect to the cluster's Redis, or to the embedded server, which runs until the block ends.

    A command is retried for `retry_seconds` while Redis is away; by default as long as a restart
    takes. `notify` gets a line about each longer wait.
    """
    from bgpipe.pipeline.broker.client import RETRY_SECONDS, connect
    from bgpipe.pipeline.broker.embedded import redis_server
    from bgpipe.pipeline.jobs.store import JobStore

    with ExitStack() as stack:
        url = settings.redis_url or stack.enter_context(redis_server(settings.state_folder))
        seconds = RETRY_SECONDS if retry_seconds is None else retry_seconds
        client = stack.enter_context(connect(url, seconds, notify))
        yield Session(settings, url, client, JobStore(client))
