"""The ASGI application: routes, middleware, and what lives as long as it does."""

import importlib.metadata
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

from anyio import to_thread
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.formparsers import MultiPartParser

from bgpipe.config.settings import Settings
from bgpipe.pipeline.errors import Unavailable
from bgpipe.pipeline.http import middleware
from bgpipe.pipeline.http.comfyui import routes as comfyui
from bgpipe.pipeline.http.dependencies import AppState, open_state
from bgpipe.pipeline.http.lifecycle import MaintenanceLoop
from bgpipe.pipeline.http.problems import DOCUMENTED, HANDLERS
from bgpipe.pipeline.http.routes import items, jobs, removebg, service
from bgpipe.pipeline.logging import EventLogger
from bgpipe.pipeline.processes import background_thread
from bgpipe.pipeline.scheduling.dispatcher import Dispatcher

log = EventLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """Return the application, which connects to Redis at startup.

    Without a cluster it starts a Redis server, a dispatcher and a worker, and stops them at shutdown.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ExitStack() as stack:
            # In a thread: Redis may have to read its file, and the worker to drain.
            state = await to_thread.run_sync(lambda: stack.enter_context(open_state(settings)))
            app.state.shared = state
            if settings.embedded:
                stack.enter_context(embedded_worker(state))
            stack.enter_context(background_thread("maintenance", MaintenanceLoop(state).run))
            try:
                yield
            finally:
                await to_thread.run_sync(stack.close)

    MultiPartParser.spool_max_size = 1 << 16  # larger ones go to disk: a form may have a thousand
    app = FastAPI(
        title="bgpipe",
        summary="Removes the backgrounds of very many photos.",
        version=importlib.metadata.version("bgpipe"),
        lifespan=lifespan,
        docs_url="/docs" if settings.serve.docs else None,
        swagger_ui_oauth2_redirect_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        exception_handlers=HANDLERS,
        responses=DOCUMENTED,
        form_limits={"max_fields": 100, "max_part_size": middleware.BODY_BYTES},
    )
    app.add_middleware(middleware.HeadMiddleware)  # the first one is the innermost
    app.add_middleware(middleware.BodyLimitMiddleware, settings=settings)
    app.add_middleware(middleware.AuthMiddleware, settings=settings.serve)
    if settings.serve.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.serve.origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Content-Disposition", "RateLimit", "Retry-After"],
        )
    routers = (service.router, jobs.uploads_router, jobs.router, items.router, removebg.router)
    for router in (*routers, jobs.events_router, comfyui.router):
        app.include_router(router)
    app.include_router(comfyui.router, prefix="/api")
    return app


@contextmanager
def embedded_worker(state: AppState) -> Iterator[None]:
    """Run a dispatcher thread and a worker process until the block ends."""
    session = state.session

    def dispatch(stopped: threading.Event) -> None:
        try:
            Dispatcher(session, state.feeder).run(stopped, child.check)
        except Unavailable as error:
            log.critical("cannot work", error=error)
            # Without a worker the server would accept jobs that never end.
            os.kill(os.getpid(), signal.SIGTERM)

    with session.worker() as child, background_thread("dispatch", dispatch):
        yield
