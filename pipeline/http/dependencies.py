"""Dependencies of the endpoints: the application's state and the caller."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import Annotated, cast

import anyio
from fastapi import Depends
from fastapi.requests import HTTPConnection
from fastapi.security import HTTPBearer

from bgpipe.config.settings import Settings
from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.http.api_keys import ApiKey, ApiKeys
from bgpipe.pipeline.http.files import UploadStore
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.jobs.store import JobNotFound, JobStore
from bgpipe.pipeline.monitoring.collectors import ClusterCollector
from bgpipe.pipeline.scheduling.dispatcher import Feeder, make_feeder
from bgpipe.pipeline.session import Session, open_session
from bgpipe.pipeline.types import DAY_SECONDS, Job, JobId

RETRY_SECONDS = 3.0
"""Seconds for which a request waits for Redis."""
IMAGES_IN_MEMORY = 4
"""Images that one server receives or decodes at once."""


@dataclass(frozen=True, slots=True)
class AppState:
    """Shared by all threads. Its calls block: endpoints that use it are plain `def`."""

    session: Session
    feeder: Feeder
    api_keys: ApiKeys
    uploads: UploadStore
    image_slots: BoundedSemaphore
    """Held while a whole image, perhaps hundreds of megabytes, is in memory."""
    body_lock: anyio.Lock
    """Held while a body with an image in Base64 is parsed, which takes several times its size."""
    cluster: ClusterCollector
    """The metrics of Prometheus."""

    @property
    def settings(self) -> Settings:
        return self.session.settings

    @property
    def jobs(self) -> JobStore:
        return self.session.jobs

    @property
    def keep_seconds(self) -> int:
        """Seconds for which Redis keeps records of clients, at least 1."""
        return max(1, int(self.settings.serve.keep_days * DAY_SECONDS))


@contextmanager
def open_state(settings: Settings) -> Iterator[AppState]:
    """Connect to the cluster's Redis, or to the embedded server, until the block ends.

    UsageError if a cluster has no `serve.uploads`; RedisUnavailable if Redis does not answer.
    """
    if not settings.serve.uploads and not settings.embedded:
        raise UsageError(
            "a cluster's servers and workers share the uploads: set uploads of [serve] to a folder "
            "that all of them see, or to s3://bucket/prefix"
        )
    root = settings.serve.uploads or str(settings.state_folder.absolute() / "served")
    limits = Limits.from_settings(settings.images)
    with (
        open_session(settings, RETRY_SECONDS) as session,
        connect(session.redis_url, retry_seconds=0) as impatient,
    ):
        quota = settings.serve.quota_bytes
        uploads = UploadStore(session.client, session.stores, root.rstrip("/"), limits, quota)
        cluster = ClusterCollector(impatient, settings)
        slots, api_keys = BoundedSemaphore(IMAGES_IN_MEMORY), ApiKeys(session.client)
        feeder = make_feeder(session)
        yield AppState(session, feeder, api_keys, uploads, slots, anyio.Lock(), cluster)


def get_state(connection: HTTPConnection) -> AppState:
    return cast("AppState", connection.app.state.shared)


def get_caller(connection: HTTPConnection) -> ApiKey:
    """Return the key that AuthMiddleware admitted."""
    return cast("ApiKey", connection.state.caller)


State = Annotated[AppState, Depends(get_state)]
Caller = Annotated[ApiKey, Depends(get_caller)]

# Documents in OpenAPI how a key is sent; AuthMiddleware has checked it already.
KEYED = [Depends(HTTPBearer(auto_error=False, description="an API key: bgpipe keys add NAME"))]


def get_own_job(state: State, caller: Caller, job: str) -> Job:
    with suppress(UsageError):  # not found, or not a valid name
        own_job = state.jobs.job(JobId(job))
        if caller.everything or own_job.owner == caller.name:
            return own_job
    raise JobNotFound(job[:80])  # also for a job of another owner


OwnJob = Annotated[Job, Depends(get_own_job)]
"""The job in the path, which the caller may see."""
