"""/object_info and /system_stats."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import TYPE_CHECKING

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from bgpipe.pipeline.comfyui.node_types import make_node_types
from bgpipe.pipeline.http.comfyui.dependencies import PromptService, Service
from bgpipe.pipeline.http.comfyui.errors import ComfyRoute
from bgpipe.pipeline.monitoring.heartbeat import read_heartbeats

if TYPE_CHECKING:
    from bgpipe.pipeline.comfyui.graph import Json

COMFYUI_VERSION = "0.3.64"
"""The version of ComfyUI whose interface this is."""

router = APIRouter(route_class=ComfyRoute)


@router.get("/object_info")
def show_nodes(service: Service) -> JSONResponse:
    return JSONResponse(_node_info(service))


@router.get("/object_info/{name}")
def show_node(service: Service, name: str) -> JSONResponse:
    info = _node_info(service)
    return JSONResponse({name: info[name]} if name in info else {})


@router.get("/system_stats")
def show_system(service: Service) -> JSONResponse:
    """The server's machine, and the workers of the cluster."""
    heartbeats = read_heartbeats(service.state.session.client)
    system = {
        "os": os.name,
        "ram_total": _memory("SC_PHYS_PAGES"),
        "ram_free": _memory("SC_AVPHYS_PAGES"),
        "comfyui_version": COMFYUI_VERSION,
        "required_frontend_version": "",
        "installed_templates_version": "",
        "required_templates_version": "",
        "python_version": platform.python_version(),
        "pytorch_version": _torch_version(),
        "embedded_python": False,
        "argv": ["bgpipe", "serve"],
        "bgpipe_version": importlib.metadata.version("bgpipe"),
    }
    devices = [_device(index, heartbeat.worker) for index, heartbeat in enumerate(heartbeats)]
    return JSONResponse({"system": system, "devices": devices})


def _node_info(service: PromptService) -> dict[str, Json]:
    models = tuple(service.state.settings.comfyui.models)
    node_types = make_node_types(models, service.images.names())
    return {name: node_type.info for name, node_type in node_types.items()}


def _device(index: int, worker: str) -> dict[str, Json]:
    """Describe a worker as a device; the memory of its device is unknown here."""
    kind = "cpu" if worker.startswith("cpu") else "cuda"
    memory = dict.fromkeys(("vram_total", "vram_free", "torch_vram_total", "torch_vram_free"), 0)
    return {"name": worker, "type": kind, "index": index} | memory


def _torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return ""  # optional on a machine without workers


def _memory(pages: str) -> int:
    """Return the bytes of `pages`, or 0 where the system does not report them."""
    try:
        return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0
