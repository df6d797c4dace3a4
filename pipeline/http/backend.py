"""What the endpoints work on: a session with Redis, the uploads, and the verbs of a job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends
from fastapi.requests import HTTPConnection

from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.http.uploads import Uploads
from bgpipe.pipeline.images import Limits
from bgpipe.pipeline.session import Session, open_session

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Backend:
    """Threads share it. Its calls block: endpoints that use it are plain `def`."""

    session: Session
    uploads: Uploads

    @property
    def settings(self) -> Settings:
        return self.session.settings

    @property
    def ledger(self) -> Ledger:
        return self.session.ledger


@contextmanager
def open_backend(settings: Settings) -> Iterator[Backend]:
    """Connect to the cluster's Redis, or to the embedded server for as long as this lasts.

    Raises:
        UsageError: a cluster's servers have not been told where uploads go.
        RedisUnavailable: Redis does not answer.

    """
    root = uploads_root(settings)
    with open_session(settings) as session:
        limits = Limits(**settings.images.model_dump())
        yield Backend(session, Uploads(session.stores, root, limits))


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


def get_backend(connection: HTTPConnection) -> Backend:
    """The backend of the running application, for requests and websockets."""
    backend: Backend = connection.app.state.backend
    return backend


TheBackend = Annotated[Backend, Depends(get_backend)]
