"""Measuring for `bgpipe bench`: the network alone, then whole images, as tables or JSON lines."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bgpipe.pipeline.cli.asked import request_lines
from bgpipe.pipeline.cli.recipe import choose_model
from bgpipe.pipeline.cli.terminal import Console
from bgpipe.pipeline.errors import Unavailable, UsageError

if TYPE_CHECKING:
    from bgpipe.config.precision import Precision
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.bench.trials import EndToEndResult, NetworkResult
    from bgpipe.pipeline.types import ResolvedModel

SIZES = (1.0, 4.0, 12.0, 24.0)
STAGES = ("read", "decode", "resize", "infer", "refine", "encode", "write")
MIB = 2**20
DEVICE = "{:<10} {:>5} {:>9} {:>9} {:>8} {:>6}"
WHOLE = "{:>5} {:>7} {:>9} {:>6} {:>8}  {}"


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What is measured; what is empty is chosen for the device."""

    model: str
    random: bool
    device: bool
    whole: bool
    precisions: tuple[Precision, ...]
    batches: tuple[int, ...]
    compiled: bool
    graphs: bool
    sizes: tuple[float, ...]
    seconds: float


def run_bench(settings: Settings, terminal: Console, choices: BenchOptions) -> None:
    """Measure and tell, line by line.

    Raises:
        UsageError, ModelUnavailable: as of the choice of a model.
        Unavailable: a process of the measurement ends too early.

    """
    with tempfile.TemporaryDirectory(prefix="bgpipe-bench-") as folder:
        model = _model(settings, terminal, choices, Path(folder))
        terminal.print_json({"model": choices.model, "size": model.size, "random": choices.random})
        height, width = model.size
        chance = ", weights by chance" if choices.random else ""
        terminal.print(f"{choices.model}, {height}x{width}{chance}")
        if choices.device:
            _device(settings, terminal, choices, model)
        if choices.whole:
            _whole(settings, terminal, choices, model, Path(folder))


def _device(
    settings: Settings, terminal: Console, choices: BenchOptions, model: ResolvedModel
) -> None:
    from pydantic import TypeAdapter

    from bgpipe.pipeline.bench.trials import BenchRequest, Machine, NetworkResult

    order = BenchRequest(
        model,
        choices.precisions,
        choices.batches,
        settings.worker.cpu_threads,
        choices.seconds,
        choices.compiled,
        choices.graphs,
    )
    line = TypeAdapter[Machine | NetworkResult](Machine | NetworkResult)
    for found in request_lines("bgpipe.pipeline.bench.forward", order, line):
        if isinstance(found, Machine):
            terminal.print_json({"machine": asdict(found)})
            terminal.print(f"{found.product}, {found.software}: the network alone")
            terminal.print(DEVICE.format("precision", "batch", "images/s", "ms", "MiB", "peak"))
        else:
            terminal.print_json({"forward": asdict(found)})
            terminal.print(_device_row(found))


def _device_row(found: NetworkResult) -> str:
    if found.error:
        return f"{found.precision:<10} {found.batch:>5}  {found.error}"
    return DEVICE.format(
        found.precision,
        found.batch,
        f"{found.images_per_second:.3g}",
        f"{found.milliseconds:.1f}",
        f"{found.memory / MIB:.0f}",
        f"{found.share_of_peak:.0%}",
    )


def _whole(
    settings: Settings, terminal: Console, choices: BenchOptions, model: ResolvedModel, folder: Path
) -> None:
    from bgpipe.pipeline.bench import whole
    from bgpipe.pipeline.recipes import preset_named
    from bgpipe.pipeline.types import Recipe

    preset = preset_named(settings, settings.refine.preset)
    recipe = Recipe(model.name, model.sha256, model.size, preset)
    terminal.print(f"from file to cutout, preset {settings.refine.preset}; stages in ms an image")
    terminal.print(WHOLE.format("MP", "images", "images/s", "busy", "MiB", "stages"))
    with whole.bench_cluster(settings, folder) as line:
        for found in line.measure(recipe, choices.sizes or SIZES, choices.seconds):
            terminal.print_json({"whole": asdict(found)})
            terminal.print(_whole_row(found))


def _whole_row(found: EndToEndResult) -> str:
    stages = "  ".join(f"{name} {1e3 * found.stages[name]:.0f}" for name in STAGES)
    return WHOLE.format(
        f"{found.megapixels:g}",
        found.images,
        f"{found.images_per_second:.3g}",
        f"{found.device_busy:.0%}",
        f"{found.memory / MIB:.0f}",
        stages,
    )


def _model(
    settings: Settings, terminal: Console, choices: BenchOptions, folder: Path
) -> ResolvedModel:
    """The weights of the name, or others of the same shape made by chance."""
    from bgpipe.pipeline import registry

    if not choices.random:
        return choose_model(settings, terminal, choices.model)
    entry = registry.models().get(choices.model)
    if entry is None:
        raise UsageError(f"--random knows the names of bgpipe models list, not {choices.model}")
    path = folder / f"{choices.model}.safetensors"
    command = [sys.executable, "-m", "bgpipe.pipeline.bench.chance", entry.backbone, str(path)]
    if subprocess.run(command, check=False).returncode:  # noqa: S603  # our own module
        raise Unavailable("no weights were made: see the message above")
    made = registry.resolve(str(path), cache=settings.model_folder, hub=None)
    return replace(made, size=entry.size)
