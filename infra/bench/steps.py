"""The steps of infra/bench/gpu: each yields lines of figures, the most important first."""

from __future__ import annotations

import itertools
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bgpipe.pipeline.inference.engine import BiRefNetEngine

ROOT = Path(__file__).parents[2]
HOST_THREADS = 4
MEGAPIXELS = 4.0

Row = dict[str, object]


@dataclass(frozen=True)
class Scale:
    """What is measured where: the released networks on a GPU, a small one on a CPU."""

    device: str
    side: int
    batches: tuple[int, ...]
    seconds: float
    """Of each measurement."""

    @classmethod
    def of(cls, device: str | None) -> Scale:
        import torch

        if (device or ("cuda" if torch.cuda.is_available() else "cpu")) == "cuda":
            return cls("cuda", 1024, (8, 1, 4, 16), 0.5)
        return cls("cpu", 64, (1, 2), 0.0)

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"


def machine(scale: Scale) -> Iterator[Row]:
    """Versions, devices as a worker sees them, and the ceilings of copies and of matrix products."""
    import torch

    from bgpipe.config.settings import Precision
    from bgpipe.pipeline.inference.devices import check_device, select_devices
    from bgpipe.pipeline.inference.engine import DTYPES, cast_network

    versions = {"python": platform.python_version(), "torch": torch.__version__}
    yield {"what": "versions", **versions, "cuda": torch.version.cuda, "triton": triton_version()}
    for device in select_devices((), cpu_allowed=True):
        yield {"what": "device", "name": device.name, "product": device.product}
    check_device(scale.device)
    if scale.on_gpu:
        gpu = torch.cuda.get_device_properties(0)
        yield {
            "what": "properties",
            "capability": f"{gpu.major}.{gpu.minor}",
            "multiprocessors": gpu.multi_processor_count,
            "gigabytes": gpu.total_memory / 1e9,
        }
    source = torch.ones(2**30 if scale.on_gpu else 2**20, dtype=torch.uint8, device=scale.device)
    target = torch.empty_like(source)
    ms = timed(lambda: target.copy_(source), scale)
    yield {"what": "copy", "ms": ms, "GB_per_s": 2 * source.numel() / ms / 1e6}
    side = 8192 if scale.on_gpu else 128
    for precision in DTYPES if scale.on_gpu else (Precision.FLOAT32,):
        cast_network(torch.nn.Identity(), precision, torch.device(scale.device))
        left = torch.randn(side, side, device=scale.device, dtype=DTYPES[precision])
        ms = timed(lambda left=left: left @ left, scale)
        yield {"what": f"product {precision}", "ms": ms, "TFLOP_per_s": 2 * side**3 / ms / 1e9}


def engine(scale: Scale) -> Iterator[Row]:
    """Passes alone, as events time them, and from the host's pixels to its mattes."""
    import numpy as np
    import torch

    size = (scale.side, scale.side, 3)
    pixels = [np.random.default_rng(seed).integers(0, 256, size, np.uint8) for seed in range(64)]
    for name in ("general", "lite"):
        yield plain_row(scale, name)
        plain = make_network(scale, name)
        batches = scale.batches if name == "general" else scale.batches[:2]
        for batch, graphs in itertools.product(batches, (True, False)):
            if not graphs and batch not in scale.batches[:2]:
                continue
            made = make_engine(scale, name, batch=batch, graphs=graphs, network=plain)
            given = torch.zeros((batch, *size), dtype=torch.uint8, device=scale.device)
            with torch.inference_mode():
                ms = timed(lambda made=made, given=given: made._step(given), scale)
            row: Row = {"what": f"{name} batch {batch} {'graph' if graphs else 'eager'}"}
            row |= {"pass_ms_an_image": ms / batch, "fits": made.batch == batch}
            for passes in (1, 4):
                images = pixels[: passes * batch]
                wall = timed(lambda made=made, images=images: made.infer(images), scale)
                row[f"infer_x{passes}_images_per_s"] = 1e3 * len(images) / wall
            yield row | {"kernels": ",".join(kinds_with_kernel(made))}
            del made


def plain_row(scale: Scale, name: str) -> Row:
    import torch

    dtype = torch.float16 if scale.on_gpu else torch.float32
    image = torch.randn(1, 3, scale.side, scale.side, device=scale.device, dtype=dtype)
    half = make_network(scale, name).to(dtype)
    with torch.inference_mode():
        ms = timed(lambda: half(image), scale)
    return {"what": f"{name} plain module, batch 1", "ms": ms, "images_per_s": 1e3 / ms}


def compare_kernels(scale: Scale) -> Iterator[Row]:
    """Each kernel against torch's operations, on the layers of the general model, batch 8."""
    import torch

    from bgpipe.pipeline.inference.kernel_choice import find_largest
    from bgpipe.pipeline.networks.birefnet import deform_conv, fused, kernels

    batch = 8 if scale.on_gpu else 1
    made = make_engine(scale, "general", batch=batch, graphs=False)
    pixels = torch.randint(
        0, 256, (batch, scale.side, scale.side, 3), dtype=torch.uint8, device=scale.device
    )
    choices = (False, True) if scale.on_gpu else (False,)
    with torch.inference_mode():
        largest = find_largest(made._network, lambda: made._forward(pixels))

    def time_layer(layer: Any, inputs: Any, kernel: bool) -> Row:
        layer.kernel = kernel
        with torch.inference_mode():
            out = layer(*inputs)
            ms = timed(lambda: layer(*inputs), scale)
            layer.kernel = False
            expected = layer(*inputs)
        difference = ((out - expected).abs().max() / expected.abs().max()).item()
        return {"what": type(layer).__name__, "kernel": kernel, "ms": ms, "difference": difference}

    for (layer, inputs), kernel in itertools.product(largest.values(), choices):
        yield time_layer(layer, inputs, kernel)
    layer, inputs = largest[fused.FusedDeformableBranch]
    for power, kernel in itertools.product((24, 26, 28), choices):
        deform_conv.GPU_VALUES = fused.GPU_VALUES = 2**power
        yield time_layer(layer, inputs, kernel) | {"what": f"largest branch, 2^{power} values"}
    for samples in (32, 128) if scale.on_gpu else ():
        kernels.SAMPLES = samples
        yield time_layer(layer, inputs, True) | {"what": f"largest branch, {samples} samples"}


def attention(scale: Scale) -> Iterator[Row]:
    """Backends of torch on the strides of the network, with each way to mask."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    dtype = torch.float16 if scale.on_gpu else torch.float32
    heads, tokens, windows = 24, 144, 8 * 45 if scale.on_gpu else 2
    qkv = torch.randn(windows, tokens, 3, heads, 32, device=scale.device, dtype=dtype)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    for backend, apart in itertools.product(SDPBackend.__members__.values(), (-100.0, -torch.inf)):
        bias = torch.zeros(1, heads, tokens, tokens, device=scale.device, dtype=dtype)
        bias[..., : tokens // 2, tokens // 2 :] = bias[..., tokens // 2 :, : tokens // 2] = apart
        row: Row = {"what": f"{backend.name.lower()}, mask {apart}"}
        try:
            with sdpa_kernel(backend), torch.inference_mode():
                out = scaled_dot_product_attention(q, k, v, attn_mask=bias)
                ms = timed(
                    lambda bias=bias: scaled_dot_product_attention(q, k, v, attn_mask=bias), scale
                )
        except RuntimeError as error:
            yield row | {"problem": str(error)[:120]}
        else:
            yield row | {"ms": ms, "finite": bool(out.isfinite().all())}


def convolutions(scale: Scale) -> Iterator[Row]:
    """The convolution of sampling points: padded outputs, TF32, and what measuring would choose."""
    import torch

    batch, side = (8, 256) if scale.on_gpu else (1, 16)
    for kernel, outputs, dtype, search in itertools.product(
        (7, 3, 1), (False, True), (torch.float16, torch.float32), (False, True)
    ):
        if not scale.on_gpu and (search or dtype is torch.float16):
            continue
        count = 3 * kernel**2
        count += -count % 8 if outputs else 0
        torch.backends.cudnn.benchmark, torch.backends.cudnn.fp32_precision = search, "tf32"
        conv = torch.nn.Conv2d(64, count, kernel, padding=kernel // 2)
        conv = conv.to(scale.device, dtype, memory_format=torch.channels_last)
        x = torch.randn(batch, 64, side, side, device=scale.device, dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            ms = timed(lambda conv=conv, x=x: conv(x), scale)
        kind = str(dtype).removeprefix("torch.")
        yield {"what": f"k={kernel}, {count} outputs, {kind}", "searched": search, "ms": ms}


def tests(scale: Scale) -> Iterator[Row]:
    """The tests that need a GPU; on a CPU, that they can be collected."""
    every = ("tests/pipeline/inference", "tests/pipeline/networks")
    folders = every if scale.on_gpu else ("tests/pipeline/inference/test_engine_cuda.py",)
    command = [sys.executable, "-m", "pytest", "--noconftest", "-W", "default", "-q", *folders]
    command += ["-m", "gpu and not slow", "--tb=line"] + (
        [] if scale.on_gpu else ["--collect-only"]
    )
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    *lines, last = done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]]
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            yield {"what": "test", "problem": line[:200]}
    yield {"what": "pytest", "exit_code": done.returncode, "summary": last}


def profile(scale: Scale) -> Iterator[Row]:
    """The operations that take the most time of the device."""
    import torch
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    made = make_engine(scale, "general", batch=8 if scale.on_gpu else 1, graphs=False)
    given = torch.zeros(
        (made.batch, scale.side, scale.side, 3), dtype=torch.uint8, device=scale.device
    )
    with torch.inference_mode():
        made._forward(given)
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * scale.on_gpu
        with profiler(activities=activities) as profiled:
            made._forward(given)
            wait(scale)
    events = profiled.key_averages()
    attribute = "self_device_time_total" if scale.on_gpu else "self_cpu_time_total"
    events = sorted(events, key=lambda event: -getattr(event, attribute))
    for event in events[:30]:
        yield {"what": event.key[:44], "ms": getattr(event, attribute) / 1e3, "calls": event.count}


def lanes(scale: Scale) -> Iterator[Row]:
    """Whole images of 4 megapixels, from file to file, through the device thread of a worker."""
    import cv2
    import torch

    from bgpipe.config.settings import load_settings
    from bgpipe.pipeline.images.decode import decode
    from bgpipe.pipeline.images.encode import encode
    from bgpipe.pipeline.images.limits import Limits
    from bgpipe.pipeline.inference.engine_cache import EngineCache
    from bgpipe.pipeline.matting.cutout import cut_out
    from bgpipe.pipeline.monitoring.heartbeat import WorkerStats
    from bgpipe.pipeline.networks.preprocess import preprocess
    from bgpipe.pipeline.types import Output, Preset, Recipe
    from bgpipe.workers.batcher import Batcher
    from bgpipe.workers.heartbeat import WorkerCounters

    cv2.setNumThreads(1)
    sys.setswitchinterval(5e-4)
    settings = load_settings()
    data = photo(MEGAPIXELS if scale.on_gpu else 0.05)
    limits = Limits(160_000_000, 65_000, 2**29)
    size = (scale.side, scale.side)
    recipe = Recipe("random", "0" * 64, size, Preset())
    batch = 8 if scale.on_gpu else 1
    for name, graphs, threads, count in (
        ("general", True, HOST_THREADS, 24),
        ("general", True, HOST_THREADS, 40),
        ("general", False, HOST_THREADS, 24),
        ("general", True, 2, 24),
        ("general", True, 16, 24),
        ("lite", True, HOST_THREADS, 40),
    ):
        made = make_engine(scale, name, batch=batch, graphs=graphs)
        torch.set_num_threads(threads)
        cache = EngineCache(lambda _, made=made: made, 10**12)
        counters = WorkerCounters(WorkerStats())
        batcher = Batcher(
            cache, counters, settings.limits, batch=batch, wait=0.004, on_lost=lambda: None
        )

        def make_cutout(_: int, batcher: Batcher = batcher) -> int:
            image = decode(data, limits)
            (matte,) = batcher.infer(recipe, [preprocess(image.rgb, size)])
            return len(encode(cut_out(image, matte, Preset()), image, Output(), {}))

        images = count * (6 if scale.on_gpu else 1)
        with batcher, ThreadPoolExecutor(count) as pool:
            list(pool.map(make_cutout, range(count)))  # loads
            start, cpu = time.perf_counter(), time.process_time()
            list(pool.map(make_cutout, range(images)))
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        how = "graph" if graphs else "eager"
        row: Row = {"what": f"{name}, {how}, {threads} threads, {count} lanes"}
        yield row | {"images_per_s": images / seconds, "cores": cpu / seconds}
        del made, cache, batcher


def safety(scale: Scale) -> Iterator[Row]:
    """Half precision against float32 on the CPU, equal bits anywhere in a batch, a full device."""
    import numpy as np
    import torch

    side = min(scale.side, 256)
    small = Scale(scale.device, side, scale.batches, scale.seconds)
    images = [
        np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8) for seed in range(8)
    ]
    network = make_network(Scale("cpu", side, (), 0.0), "lite" if scale.on_gpu else "general")
    exact = make_engine(Scale("cpu", side, (), 0.0), "", batch=1, graphs=False, network=network)
    half = make_engine(small, "", batch=4, graphs=True, network=network)
    together = half.infer(images)
    differences = [
        np.abs(near.alpha - exact.infer([image])[0].alpha)
        for near, image in zip(together[:2], images[:2], strict=True)
    ]
    yield {
        "what": f"against float32 on the CPU, {half.precision}",
        "largest_of_255": 255 * float(max(map(np.max, differences))),
        "mean_of_255": 255 * float(np.mean(differences)),
    }
    alone = [half.infer([image])[0] for image in images]
    backwards = half.infer(images[::-1])[::-1]
    same = all(
        (a.alpha == b.alpha).all() and (a.alpha == c.alpha).all()
        for a, b, c in zip(together, alone, backwards, strict=True)
    )
    yield {"what": "equal bits alone, in a batch, backwards", "equal": same}
    eager = make_engine(small, "", batch=4, graphs=False, network=network)
    same = all(
        (a.alpha == b.alpha).all() for a, b in zip(eager.infer(images), together, strict=True)
    )
    yield {"what": "equal bits with and without a graph", "equal": same}
    if scale.on_gpu:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, 6e9 / total))
        full = make_engine(scale, "general", batch=64, graphs=True)
        mattes = full.infer([np.zeros((scale.side, scale.side, 3), np.uint8)] * 3)
        yield {"what": "batch 64 in 6 GB", "batch": full.batch, "mattes": len(mattes)}


def compiled(scale: Scale) -> Iterator[Row]:
    """torch.compile of the whole network."""
    import numpy as np

    batch = 8 if scale.on_gpu else 1
    start = time.perf_counter()
    if not scale.on_gpu:
        yield {"what": "compiled", "problem": "not on a CPU"}
        return
    made = make_engine(scale, "general", batch=batch, graphs=True, compiled=True)
    yield {"what": "compiled, batch 8", "start_seconds": time.perf_counter() - start}
    images = [np.zeros((scale.side, scale.side, 3), np.uint8)] * (4 * batch)
    ms = timed(lambda: made.infer(images), scale)
    yield {"what": "compiled, batch 8", "infer_x4_images_per_s": 1e3 * len(images) / ms}


def timed(run: Callable[[], object], scale: Scale) -> float:
    """Return the median milliseconds of a run, until the device has ended it."""
    import torch

    run()
    wait(scale)
    times: list[float] = []
    end = time.perf_counter() + scale.seconds
    while len(times) < 3 or time.perf_counter() < end:
        if scale.on_gpu:
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            events[0].record()
            run()
            events[1].record()
            events[1].synchronize()
            times.append(events[0].elapsed_time(events[1]))
        else:
            start = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def wait(scale: Scale) -> None:
    import torch

    if scale.on_gpu:
        torch.cuda.synchronize()


def make_network(scale: Scale, name: str) -> Any:
    """Return the plain network with random weights, whose offsets are some pixels long."""
    import torch

    from bgpipe.pipeline.networks.birefnet import ModelConfig, SwinConfig, build, create

    small = ModelConfig(
        backbone=SwinConfig(embed=16, depths=(1, 1, 2, 1), heads=(1, 1, 2, 4), window=7),
        inner=16,
        branch=16,
        kernels=(1, 7),
        image_inner=8,
    )
    torch.manual_seed(0)
    with torch.device(scale.device):
        names = {"general": "swin_v1_l", "lite": "swin_v1_t"}
        network = create(names[name]) if scale.on_gpu else build(small)
    with torch.no_grad():
        for key, weight in network.named_parameters():
            if key.endswith("offset_conv.weight"):
                weight.normal_(0, 0.02)
    return network


def make_engine(
    scale: Scale,
    name: str,
    *,
    batch: int,
    graphs: bool,
    compiled: bool = False,
    network: Any = None,
) -> BiRefNetEngine:
    """Return the engine of `network`, or of a new one."""
    from bgpipe.pipeline.inference.engine import BiRefNetEngine
    from bgpipe.pipeline.networks.birefnet.fused import fuse
    from bgpipe.pipeline.types import PatchOrder, ResolvedModel

    size = (scale.side, scale.side)
    plain = network or make_network(scale, name)
    return BiRefNetEngine(
        ResolvedModel("random", Path(), "", size, PatchOrder.CURRENT),
        scale.device,
        batch=batch,
        threads=HOST_THREADS,
        compiled=compiled,
        graphs=graphs,
        load=lambda _: fuse(plain, size),
    )


def kinds_with_kernel(engine: BiRefNetEngine) -> list[str]:
    modules = engine._network.modules()
    return sorted({type(module).__name__ for module in modules if getattr(module, "kernel", False)})


def triton_version() -> str:
    try:
        from triton import __version__
    except ImportError:
        return "not installed"
    return str(__version__)


def photo(megapixels: float) -> bytes:
    """A JPEG with smooth and busy places, 4 to 3."""
    import cv2
    import numpy as np

    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    noise = np.random.default_rng(0).integers(0, 256, (height // 8, height // 6, 3), np.uint8)
    pixels = cv2.resize(noise, (height * 4 // 3, height), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


STEPS: dict[str, Callable[[Scale], Iterator[Row]]] = {
    "machine": machine,
    "engine": engine,
    "kernels": compare_kernels,
    "tests": tests,
    "attention": attention,
    "convolutions": convolutions,
    "profile": profile,
    "lanes": lanes,
    "safety": safety,
    "compile": compiled,
}
