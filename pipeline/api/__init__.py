"""bgpipe from Python: one image in this process, or many by the queue of a server."""

from bgpipe.pipeline.api.comfyui_client import BackgroundRemovalAPI, Batch, Detail
from bgpipe.pipeline.api.remover import BackgroundRemover

__all__ = ["BackgroundRemovalAPI", "BackgroundRemover", "Batch", "Detail"]
