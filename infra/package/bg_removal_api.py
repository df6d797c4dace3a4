"""`from bg_removal_api import BackgroundRemovalAPI`: the import line of scripts for ComfyUI."""

from bgpipe.pipeline.api.comfyui_client import BackgroundRemovalAPI

__all__ = ["BackgroundRemovalAPI"]
