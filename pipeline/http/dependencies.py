"""What the endpoints work on: a session with Redis, and the uploads.

Who asks: what the gate found out, for endpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends
from fastapi.requests import HTTPConnection
from fastapi.security import HTTPBearer

from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.http.api_keys import ApiKey, ApiKeys
from bgpipe.pipeline.http.uploads import Uploads
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.jobs.store import JobNotFound
from bgpipe.pipeline.monitoring.collectors import ClusterCollector
from bgpipe.pipeline.session import Session, open_session
from bgpipe.pipeline.types import Job, JobId

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.jobs.store import JobStore

PATIENCE = 3.0
"""Seconds for which a request waits for a Redis that is away: there are callers behind it."""
PICTURES = 4
"""That one server takes in or decodes at once."""


@dataclass(frozen=True, slots=True)
class AppState:
    """Threads share it. Its calls block: endpoints that use it are plain `def`."""

    session: Session
    uploads: Uploads
    pictures: BoundedSemaphore
    """Held while a whole picture is in memory: each may take hundreds of megabytes."""
    cluster: ClusterCollector
    """What Prometheus reads."""

    @property
    def settings(self) -> Settings:
        return self.session.settings

    @property
    def jobs(self) -> JobStore:
        return self.session.jobs

    @property
    def api_keys(self) -> ApiKeys:
        return ApiKeys(self.session.client)

    def job(self, caller: ApiKey, name: str) -> Job:
        """The job of this name, if the caller may know of it.

        Raises:
            UnknownJob: there is none, or it is somebody else's.

        """
        try:
            job = self.jobs.job(JobId(name))
        except UsageError as error:  # no possible name either
            raise JobNotFound(f"unknown job: {name[:80]}") from error
        if not caller.everything and job.owner != caller.name:
            raise JobNotFound(f"unknown job: {name[:80]}")
        return job


@contextmanager
def open_state(settings: Settings) -> Iterator[AppState]:
    """Connect to the cluster's Redis, or to the embedded server for as long as this lasts.

    Raises:
        UsageError: a cluster's servers have not been told where uploads go.
        RedisUnavailable: Redis does not answer.

    """
    root = uploads_root(settings)
    with open_session(settings, PATIENCE) as session:
        limits = Limits.from_settings(settings.images)
        uploads = Uploads(session.stores, root, limits)
        with connect(session.redis_url, retry_seconds=0) as impatient:
            cluster = ClusterCollector(impatient, settings)
            yield AppState(session, uploads, BoundedSemaphore(PICTURES), cluster)


def uploads_root(settings: Settings) -> str:
    """The location of uploads, without a slash at its end."""
    if settings.serve.uploads:
        return settings.serve.uploads.rstrip("/")
    if settings.embedded:
        return str(settings.state_folder.absolute() / "served")
    raise UsageError(
        "a cluster's servers and workers share the uploads: set uploads of [serve] to a folder "
        "that all of them see, or to s3://bucket/prefix"
    )


def get_state(connection: HTTPConnection) -> AppState:
    """The backend of the running application, for requests and websockets."""
    backend: AppState = connection.app.state.backend
    return backend


State = Annotated[AppState, Depends(get_state)]


def get_caller(connection: HTTPConnection) -> ApiKey:
    """Whoever the gate let in (bgpipe.pipeline.http.middleware), by request or websocket."""
    grant: ApiKey = connection.scope["state"]["grant"]
    return grant


# Only says in the OpenAPI document how a key is shown; the gate has looked at it before.
KEYED = [Depends(HTTPBearer(auto_error=False, description="an API key: bgpipe keys add NAME"))]
Caller = Annotated[ApiKey, Depends(get_caller)]
