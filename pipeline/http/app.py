"""The application: its parts, and what lives as long as it does."""

from __future__ import annotations

import importlib.metadata
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from anyio import to_thread
from fastapi import FastAPI

from bgpipe.pipeline.http import health, jobs
from bgpipe.pipeline.http.backend import open_backend
from bgpipe.pipeline.http.crew import crew
from bgpipe.pipeline.http.gate import Gate
from bgpipe.pipeline.http.problems import tell_problems

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings

ROUTERS = (health.router, jobs.router)


def create_app(settings: Settings) -> FastAPI:
    """The ASGI application; Redis is connected to as it starts.

    Without a cluster it brings its Redis, its dispatcher and its worker, and ends them with it.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ExitStack() as stack:
            # In a thread: a Redis that reads its file, and a worker that drains, take a while.
            app.state.backend = await to_thread.run_sync(
                lambda: stack.enter_context(open_backend(settings))
            )
            if settings.embedded:
                stack.enter_context(crew(app.state.backend))
            yield

    app = FastAPI(
        title="bgpipe",
        summary="Removes the backgrounds of very many photos.",
        version=importlib.metadata.version("bgpipe"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
    )
    app.add_middleware(Gate)
    tell_problems(app)
    for router in ROUTERS:
        app.include_router(router)
    return app
