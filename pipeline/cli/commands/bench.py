"""`bgpipe bench`: measure the network alone, then whole images; print tables or JSON lines."""

import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter
from typer import Context, Option, Typer

from bgpipe.config.settings import Precision, Settings, load_settings
from bgpipe.pipeline.bench.end_to_end import open_bench_cluster
from bgpipe.pipeline.bench.protocol import BenchRequest, EndToEndResult, Machine, NetworkResult
from bgpipe.pipeline.cli.command_line import examples, flag, model_option, option
from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.cli.planning import choose_model
from bgpipe.pipeline.errors import Unavailable
from bgpipe.pipeline.models import registry
from bgpipe.pipeline.planning.recipe import build_recipe
from bgpipe.pipeline.processes import request_lines
from bgpipe.pipeline.types import ResolvedModel

MEGAPIXELS = (1.0, 4.0, 12.0, 24.0)
STAGES = ("read", "decode", "resize", "infer", "refine", "encode", "write")
MIB = 2**20
NETWORK_COLUMNS = "precision  batch  images/s        ms      MiB   peak"
END_TO_END_COLUMNS = "   MP  images  images/s   busy      MiB  stages"

app = Typer()


@app.command(
    epilog=examples(
        "bgpipe bench --model birefnet-nano",
        "bgpipe bench --model birefnet-general --random --only device",
    )
)
def bench(
    context: Context,
    model: str | None = model_option(help="A name, or a path to safetensors. Default: model.name."),
    random: bool = flag("--random", help="Use random weights: as fast as trained ones."),
    only: Literal["device", "whole"] | None = option(
        metavar="device|whole",
        help="Measure only the network (device), or only whole images.",
    ),
    precision: list[Precision] | None = option(
        metavar="|".join(Precision),
        help="For the network alone; repeatable. Default: all that the device supports.",
    ),
    batch: list[int] | None = option(
        metavar="N", min=1, help="Images per forward pass; repeatable. Default: 1, 2, 4 ..."
    ),
    compile_: bool = flag("--compile", help="Compile the network measured alone."),
    graphs: bool | None = option(
        "--graphs/--no-graphs",
        help="Run the network alone with CUDA graphs or without. Default: engine.graphs.",
    ),
    size: list[float] | None = option(
        metavar="MP",
        min=0.01,
        help="Megapixels of whole images; repeatable. Default: 1, 4, 12 and 24.",
    ),
    seconds: float = Option(10.0, min=0.1, help="Duration of each measurement."),
) -> None:
    settings = load_settings()
    console: Console = context.obj
    name = model or settings.model.name
    with tempfile.TemporaryDirectory(prefix="bgpipe-bench-") as folder:
        if random:
            resolved = make_random_model(settings, name, Path(folder))
        else:
            resolved = choose_model(settings, console, name)
        height, width = resolved.size
        title = f"{name}, {height}x{width}{', random weights' if random else ''}"
        console.show({"model": name, "size": resolved.size, "random": random}, title)
        if only != "whole":
            request = BenchRequest(
                resolved,
                tuple(precision or ()),
                tuple(batch or ()),
                settings.worker.cpu_threads,
                seconds,
                compile_,
                settings.engine.graphs if graphs is None else graphs,
            )
            _measure_network(console, request)
        if only != "device":
            recipe = build_recipe(settings, model=resolved, matting=registry.NO_MATTING).recipe
            preset = settings.refine.preset
            console.print(f"from file to cutout, preset {preset}; stages in ms per image")
            console.print(END_TO_END_COLUMNS)
            with open_bench_cluster(settings, Path(folder)) as cluster:
                for whole in cluster.measure(recipe, size or MEGAPIXELS, seconds):
                    console.show({"whole": asdict(whole)}, _format_end_to_end(whole))


def make_random_model(settings: Settings, name: str, folder: Path) -> ResolvedModel:
    """Write random weights in the shape of a registered model."""
    entry = registry.find_entry(name)
    path = folder / f"{name}.safetensors"
    module = "bgpipe.pipeline.bench.random_weights"
    command = [sys.executable, "-m", module, entry.backbone, str(path)]
    if subprocess.run(command, check=False).returncode:  # noqa: S603  # a module of ours
        raise Unavailable("cannot make random weights: see the message above")
    model = registry.resolve(str(path), cache=settings.model_folder, hub=None)
    return replace(model, size=entry.size)


def _measure_network(console: Console, request: BenchRequest) -> None:
    adapter = TypeAdapter[Machine | NetworkResult](Machine | NetworkResult)
    for result in request_lines("bgpipe.pipeline.bench.network", request, adapter):
        if isinstance(result, Machine):
            title = f"{result.product}, {result.software}: the network alone"
            console.show({"machine": asdict(result)}, title, NETWORK_COLUMNS)
        else:
            console.show({"forward": asdict(result)}, _format_network(result))


def _format_network(result: NetworkResult) -> str:
    row = f"{result.precision:<10} {result.batch:>5} "
    if result.error:
        return f"{row} {result.error}"
    return (
        f"{row}{result.images_per_second:>9.3g} {result.milliseconds:>9.1f} "
        f"{result.memory / MIB:>8.0f} {result.share_of_peak:>6.0%}"
    )


def _format_end_to_end(result: EndToEndResult) -> str:
    stages = "  ".join(f"{name} {1e3 * result.stages[name]:.0f}" for name in STAGES)
    return (
        f"{result.megapixels:>5g} {result.images:>7} {result.images_per_second:>9.3g} "
        f"{result.device_busy:>6.0%} {result.memory / MIB:>8.0f}  {stages}"
    )
