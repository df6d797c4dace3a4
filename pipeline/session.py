"""A session: the settings, a Redis, the jobs in it, and the stores that they name."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property

from bgpipe.config.settings import Settings
from bgpipe.pipeline.broker import embedded, keys
from bgpipe.pipeline.broker.client import RETRY_SECONDS, RedisClient, connect
from bgpipe.pipeline.broker.lease import Lease, is_held
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.logging import Notify
from bgpipe.pipeline.planning.catalog import Catalogs
from bgpipe.pipeline.processes import ChildProcess
from bgpipe.pipeline.storage.factory import StoreFactory
from bgpipe.pipeline.types import JobId


@dataclass(frozen=True)
class Session:
    settings: Settings
    redis_url: str
    client: RedisClient
    jobs: JobStore

    @cached_property
    def stores(self) -> StoreFactory:
        return StoreFactory(self.settings.s3)

    @cached_property
    def catalogs(self) -> Catalogs:
        return Catalogs(self.jobs.items, self.settings.state_folder / "catalogs")

    def lease(self, name: str) -> Lease:
        return Lease(self.client, name, self.settings.dispatch.lease)

    def job_lease(self, job: JobId) -> Lease:
        return self.lease(keys.lease_of_job(job))

    def worker(self) -> AbstractContextManager[ChildProcess]:
        """Run an embedded worker until the block ends."""
        drain_timeout = self.settings.worker.drain_timeout
        return embedded.worker(self.redis_url, self.settings.state_folder, drain_timeout)

    def is_dispatched(self) -> bool:
        """Whether a dispatcher feeds the jobs of this cluster."""
        return not self.settings.embedded and is_held(self.client, keys.DISPATCH)

    def job(self, name: str | None) -> JobId:
        """Return the id of the named job, or of the newest one."""
        job = JobId(name) if name else self.jobs.latest()
        if job is None:
            raise UsageError("no job yet: start one with bgpipe submit FOLDER")
        return job


@contextmanager
def open_session(
    settings: Settings, retry_seconds: float = RETRY_SECONDS, notify: Notify | None = None
) -> Iterator[Session]:
    """Connect to the cluster's Redis, or to the embedded server, which runs until the block ends.

    A command is retried for `retry_seconds` while Redis is away; by default as long as a restart
    takes. `notify` gets a line about each longer wait.
    """
    with ExitStack() as stack:
        url = settings.redis_url or stack.enter_context(
            embedded.redis_server(settings.state_folder)
        )
        client = stack.enter_context(connect(url, retry_seconds, notify))
        yield Session(settings, url, client, JobStore(client))
