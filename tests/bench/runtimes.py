"""The network by bgpipe, ONNX Runtime and OpenVINO, on a CPU in float32.

    python -m venv ENV && ENV/bin/pip install . onnx onnxscript onnxruntime openvino
    OMP_NUM_THREADS=1 ENV/bin/python tests/bench/runtimes.py

One thread: on a busy machine, torch's threads spin while they wait for each other, which counts as CPU time. All have the same
random weights and take the same images in turn. The ONNX file has one DeformConv for each deformable convolution
(opset 22, which ONNX Runtime computes on a CPU). CPU seconds are medians over the rounds, after one that is not
counted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
import openvino
import torch
from model import NAMES, random_network
from openvino import opset8
from openvino.frontend import NodeContext
from openvino.frontend.onnx import ConversionExtension
from torch import Tensor, nn

from bgpipe.pipeline.networks.birefnet.deform_conv import DeformableConv
from bgpipe.pipeline.networks.birefnet.fused import fuse

OPSET = 22

Array = np.ndarray[Any, np.dtype[np.float32]]


class ExportedConv(nn.Module):
    def __init__(self, conv: DeformableConv) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.regular_conv.weight
        outputs, _, kernel, _ = weight.shape
        mask = 2 * torch.sigmoid(self.conv.modulator_conv(x))
        inputs = (x, weight, self.conv.offset_conv(x), x.new_zeros(outputs), mask)
        attributes = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4}
        shape = (x.shape[0], outputs, *x.shape[2:])
        return torch.onnx.ops.symbolic(
            "DeformConv", inputs, attributes, dtype=x.dtype, shape=shape, version=OPSET
        )


def export(network: nn.Module, side: int, path: Path) -> None:
    """Write `network`, whose deformable convolutions this replaces, for images of side x side."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, DeformableConv):
                setattr(module, name, ExportedConv(child))
    network.bb.fix_sizes([(side, side), (side // 2, side // 2)])
    image = torch.randn(1, 3, side, side)
    torch.onnx.export(
        network,
        (image,),
        path,
        dynamo=True,
        opset_version=OPSET,
        input_names=["image"],
        verbose=False,
    )


def ours(network: nn.Module, side: int) -> Callable[[Array], Array]:
    fused = fuse(network, (side, side))

    def run(image: Array) -> Array:
        with torch.inference_mode():
            logits: Array = fused(torch.from_numpy(image))[0].numpy()
        return logits

    return run


def onnx_runtime(path: Path, threads: int) -> Callable[[Array], Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image})[0]


def convert(node: NodeContext) -> Any:
    """Return OpenVINO's own operator for DeformConv, which its reader of ONNX files does not know."""
    x, weight, offset, _, mask = (node.get_input(i) for i in range(5))
    pads = [weight.get_partial_shape()[2].get_length() // 2] * 2
    out = opset8.deformable_convolution(
        x, offset, weight, [1, 1], pads, pads, [1, 1], mask, bilinear_interpolation_pad=True
    )
    return out.outputs()


def open_vino(path: Path, threads: int) -> Callable[[Array], Array]:
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    core = openvino.Core()
    core.add_extension(ConversionExtension("DeformConv", convert))
    compiled = core.compile_model(core.read_model(path), "CPU", settings)
    return lambda image: compiled(image)[0]


def compare(name: str, side: int, rounds: int, threads: int) -> None:
    network = random_network(NAMES[name])
    runtimes = [ours(network, side)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export(network, side, path)
        runtimes += [onnx_runtime(path, threads), open_vino(path, threads)]
    seconds: list[list[float]] = [[] for _ in runtimes]
    distance = size = 0.0
    for i in range(rounds + 1):
        image = np.random.default_rng(i).normal(size=(1, 3, side, side)).astype(np.float32)
        logits = []
        for run, times in zip(runtimes, seconds, strict=True):
            start = time.process_time()
            logits.append(run(image))
            times.append(time.process_time() - start)
        distance = max(distance, *(float(np.abs(logits[0] - each).max()) for each in logits[1:]))
        size = max(size, float(np.abs(logits[0]).max()))
    cells = " | ".join(f"{median(times[1:]):.1f}" for times in seconds)
    print(f"| {name}, {side} x {side} | {cells} | {distance:.0e} of {size:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--sizes", nargs="+", type=int, default=[512, 1024])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print("| CPU s | bgpipe | ONNX Runtime | OpenVINO | logits differ by |\n|---|---|---|---|---|")
    for model in given.models:
        for side in given.sizes:
            compare(model, side, given.rounds, given.threads)
    print(
        f"\nONNX Runtime {onnxruntime.__version__}, OpenVINO {openvino.__version__}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
