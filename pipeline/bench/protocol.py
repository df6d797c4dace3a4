"""Request and results of the benchmark, exchanged as JSON lines between two processes."""

from collections.abc import Mapping
from dataclasses import dataclass

from bgpipe.config.settings import Precision
from bgpipe.pipeline.types import ResolvedModel


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """Forward passes of every precision with every batch size, each for `seconds`."""

    model: ResolvedModel
    precisions: tuple[Precision, ...]
    """Empty: all that the device supports."""
    batches: tuple[int, ...]
    """Empty: the defaults for the device."""
    threads: int
    """On a CPU; 0: one per core."""
    seconds: float
    compiled: bool
    graphs: bool


@dataclass(frozen=True, slots=True)
class Machine:
    device: str
    product: str
    software: str
    matrix_peak: Mapping[Precision, float]
    """FLOP/s of the fastest matrix product."""
    operations: float
    """FLOP of the network for one image."""


@dataclass(frozen=True, slots=True)
class NetworkResult:
    """The network alone: from images in host memory to mattes in host memory."""

    precision: Precision
    batch: int
    images_per_second: float = 0.0
    milliseconds: float = 0.0
    """Median of one pass."""
    memory: int = 0
    """Peak bytes of the device on a GPU, of the process on a CPU."""
    share_of_peak: float = 0.0
    """Share of the matrix product's FLOP/s in this precision."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class EndToEndResult:
    """Images of one size from file to cutout: queue, worker, store."""

    megapixels: float
    images: int
    images_per_second: float
    device_busy: float
    """Share of the time that the device's thread spends in forward passes."""
    memory: int
    """Peak bytes of the worker."""
    stages: Mapping[str, float]
    """Mean seconds per image and stage; stages of different images overlap."""
