"""Everything a run needs to go on, in one safetensors file, so that a write is whole or absent."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class Progress:
    """How far a run has come. A leg is the part of a run with one set of settings."""

    step: int = 0  # of the optimiser, over all legs
    samples: int = 0  # also the index of the next sample
    seconds: float = 0.0  # of training, over all legs
    leg_seconds: float = 0.0
    leg_samples: int = 0
    best: float = 0.0  # score of the leg's best weights, on the photos held out
    leg: dict[str, Any] = field(default_factory=dict)

    def begin(self, leg: dict[str, Any]) -> None:
        """Begin the next leg."""
        self.leg, self.leg_seconds, self.leg_samples, self.best = leg, 0.0, 0, 0.0


def save(
    path: Path,
    network: nn.Module,
    average: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """Replace the checkpoint at `path`; a reader sees the old file or the whole new one."""
    tensors = {f"weights.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.items()}
    for name, parameter in network.named_parameters():
        moments = optimiser.state.get(parameter, {})
        tensors |= {f"{key}.{name}": moments[key] for key in MOMENTS if key in moments}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"progress": json.dumps(asdict(progress))})
    partial.replace(path)


def restore(
    path: Path,
    network: nn.Module,
    average: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
) -> Progress:
    """Fill network, average and optimiser from `path`, in place, and say how far the run was."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        progress = Progress(**json.loads(file.metadata()["progress"]))
    network.load_state_dict(_under("weights.", tensors))
    for name, tensor in _under("average.", tensors).items():
        average[name].copy_(tensor)
    for name, parameter in network.named_parameters():
        moments = {key: tensors[f"{key}.{name}"] for key in MOMENTS if f"{key}.{name}" in tensors}
        if moments:
            # The fused optimiser wants them laid out in memory as their parameter is.
            alike = {k: torch.empty_like(parameter).copy_(v) for k, v in moments.items()}
            step = torch.tensor(float(progress.step), device=parameter.device)
            optimiser.state[parameter] = {"step": step, **alike}
    return progress


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
