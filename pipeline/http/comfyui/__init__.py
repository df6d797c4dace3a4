"""The part of ComfyUI's HTTP interface that scripts use, implemented on jobs (infra/docs/comfyui.md)."""

from __future__ import annotations

from fastapi import APIRouter

from bgpipe.pipeline.http.comfyui import routes_files, routes_info, routes_queue, websocket


def make_router() -> APIRouter:
    """Return every route under / and under /api, as in ComfyUI."""
    router = APIRouter(include_in_schema=False)
    for prefix in ("", "/api"):
        for module in (routes_queue, routes_files, routes_info, websocket):
            router.include_router(module.router, prefix=prefix)
    return router
