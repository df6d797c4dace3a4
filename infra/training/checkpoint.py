"""Checkpoints of a run and the weights that ship: safetensors files, replaced atomically.

python infra/training/checkpoint.py RUN/weights.safetensors birefnet-nano.safetensors SIZE GAIN
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

MODEL = "birefnet_nano"
MOMENTS = ("exp_avg", "exp_avg_sq")


def save(
    path: Path,
    network: nn.Module,
    average: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    steps: int,
) -> None:
    tensors = {f"weights.{name}": x for name, x in network.state_dict().items()}
    tensors |= {f"average.{name}": x for name, x in average.items()}
    for name, parameter in network.named_parameters():
        moments = optimiser.state.get(parameter, {})
        tensors |= {f"{key}.{name}": moments[key] for key in MOMENTS if key in moments}
    _write(path, tensors, {"steps": str(steps)})


def restore(
    path: Path,
    network: nn.Module,
    average: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
) -> int:
    """Load network, average and optimiser in place; returns the steps done."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        steps = int(file.metadata()["steps"])
    network.load_state_dict(_under("weights.", tensors))
    for name, tensor in _under("average.", tensors).items():
        average[name].copy_(tensor)
    for name, parameter in network.named_parameters():
        moments = {key: tensors[f"{key}.{name}"] for key in MOMENTS if f"{key}.{name}" in tensors}
        if moments:
            # The fused optimiser needs the memory layout of the parameter.
            alike = {k: torch.empty_like(parameter).copy_(v) for k, v in moments.items()}
            optimiser.state[parameter] = {"step": torch.tensor(float(steps)), **alike}
    return steps


def export(average: Mapping[str, Tensor], model: str, target: Path, side: int) -> None:
    """Write the tensors of inference in half precision, for a native size of `side` pixels."""
    header = {"bgpipe.config": model, "bgpipe.size": f"{side}x{side}"}
    header |= {"format": "pt", "bgpipe.patch_order": "current"}
    _write(target, {name: x.to(torch.float16) for name, x in average.items()}, header)


def _write(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    partial = path.with_suffix(".partial")
    save_file({name: x.detach().contiguous() for name, x in tensors.items()}, partial, header)
    partial.chmod(0o644)  # created as 0600
    partial.replace(path)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)}


def surer(weights: Mapping[str, Tensor], gain: float) -> dict[str, Tensor]:
    """Return the weights with logits multiplied by `gain`."""
    last = ("decoder.conv_out1.0.weight", "decoder.conv_out1.0.bias")
    return {name: x * gain if name in last else x for name, x in weights.items()}


if __name__ == "__main__":
    source, target, side, gain = sys.argv[1:]
    export(surer(load_file(source), float(gain)), MODEL, Path(target), int(side))
