"""What is measured, and what was found: one JSON object a line between two processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bgpipe.config.choices import Precision
from bgpipe.pipeline.types import ResolvedModel


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """Forward passes: every precision with every batch, for `seconds` each."""

    model: ResolvedModel
    precisions: tuple[Precision, ...]
    """Empty: all that the device has."""
    batches: tuple[int, ...]
    """Empty: those that suit the device."""
    threads: int
    seconds: float
    compiled: bool
    graphs: bool


@dataclass(frozen=True, slots=True)
class Machine:
    """What measured. `matrix_peak`: floating-point operations a second of its best matrix product."""

    device: str
    product: str
    software: str
    matrix_peak: Mapping[Precision, float]
    operations: float
    """Floating-point operations of the network for one image."""


@dataclass(frozen=True, slots=True)
class NetworkResult:
    """The network alone, images in the host's memory to mattes there."""

    precision: Precision
    batch: int
    images_per_second: float = 0.0
    milliseconds: float = 0.0
    """Of one pass; the median."""
    memory: int = 0
    """Bytes: the device's peak on a GPU, the process's on a CPU."""
    share_of_peak: float = 0.0
    """Of what the device's matrix product does in this precision."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class EndToEndResult:
    """Images of one size from file to cutout: queue, worker, store."""

    megapixels: float
    images: int
    images_per_second: float
    device_busy: float
    """Share of the time that the device's thread spends within forward passes."""
    memory: int
    """Bytes that the worker holds, the most that was seen."""
    stages: Mapping[str, float]
    """Mean seconds of an image in each stage; they overlap those of other images."""
