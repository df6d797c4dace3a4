"""/object_info, /system_stats and the lists that clients ask for when they connect."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import TYPE_CHECKING

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from bgpipe.pipeline.comfyui import make_node_types
from bgpipe.pipeline.http.comfyui.dependencies import Service
from bgpipe.pipeline.http.comfyui.errors import ComfyRoute
from bgpipe.pipeline.monitoring.heartbeat import read_heartbeats

if TYPE_CHECKING:
    from bgpipe.pipeline.comfyui.graph import Json
    from bgpipe.pipeline.http.comfyui.dependencies import PromptService

SPEAKS = "0.3.64"
"""The version of ComfyUI whose interface this is."""
MODELS = "background_removal"
"""The only folder of models."""

router = APIRouter(route_class=ComfyRoute)


@router.get("/object_info")
def show_nodes(desk: Service) -> JSONResponse:
    return JSONResponse(_nodes(desk))


@router.get("/object_info/{name}")
def show_node(desk: Service, name: str) -> JSONResponse:
    found = _nodes(desk)
    return JSONResponse({name: found[name]} if name in found else {})


@router.get("/system_stats")
def show_system(desk: Service) -> JSONResponse:
    """Of the server's machine, and of the workers, wherever they are."""
    total, free = _memory("SC_PHYS_PAGES"), _memory("SC_AVPHYS_PAGES")
    workers = read_heartbeats(desk.backend.session.client)
    system = {
        "os": os.name,
        "ram_total": total,
        "ram_free": free,
        "comfyui_version": SPEAKS,
        "required_frontend_version": "",
        "installed_templates_version": "",
        "required_templates_version": "",
        "python_version": platform.python_version(),
        "pytorch_version": _torch_version(),
        "embedded_python": False,
        "argv": ["bgpipe", "serve"],
        "bgpipe_version": importlib.metadata.version("bgpipe"),
    }
    return JSONResponse(
        {
            "system": system,
            "devices": [_device(index, beat.worker) for index, beat in enumerate(workers)],
        }
    )


@router.get("/features")
def show_features() -> JSONResponse:
    return JSONResponse({})


@router.get("/embeddings")
def show_embeddings() -> JSONResponse:
    return JSONResponse([])


@router.get("/extensions")
def show_extensions() -> JSONResponse:
    return JSONResponse([])


@router.get("/models")
def show_folders() -> JSONResponse:
    return JSONResponse([MODELS])


@router.get("/models/{folder}")
def show_models(desk: Service, folder: str) -> JSONResponse:
    models = list(desk.backend.settings.comfyui.models)
    return JSONResponse(models if folder == MODELS else [])


def _nodes(desk: PromptService) -> dict[str, Json]:
    types = make_node_types(tuple(desk.backend.settings.comfyui.models), desk.photos.names())
    return {name: node.info for name, node in types.items()}


def _device(index: int, worker: str) -> dict[str, Json]:
    """A worker; what memory its device has, only it knows."""
    kind = "cpu" if worker.startswith("cpu") else "cuda"
    memory = dict.fromkeys(("vram_total", "vram_free", "torch_vram_total", "torch_vram_free"), 0)
    return {"name": worker, "type": kind, "index": index} | memory


def _torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return ""  # a machine without workers needs none


def _memory(pages: str) -> int:
    """Bytes; 0 where the system does not tell."""
    try:
        return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0
