"""The ASGI application: routes, middleware, and what lives as long as it does."""

import importlib.metadata
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from anyio import to_thread
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.formparsers import MultiPartParser

from bgpipe.config.settings import Settings
from bgpipe.pipeline.http import middleware
from bgpipe.pipeline.http.background import MaintenanceLoop, embedded_worker
from bgpipe.pipeline.http.comfyui import routes as comfyui
from bgpipe.pipeline.http.dependencies import open_state
from bgpipe.pipeline.http.problems import DOCUMENTED, HANDLERS
from bgpipe.pipeline.http.routes import items, jobs, removebg, service, uploads
from bgpipe.pipeline.processes import background_thread


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

    MultiPartParser.spool_max_size = 1 << 16  # larger images, of a thousand in a form, go to disk
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
    modules = (service, uploads, jobs, items, removebg)
    for router in (*(module.router for module in modules), jobs.events_router, comfyui.router):
        app.include_router(router)
    app.include_router(comfyui.router, prefix="/api")
    return app
