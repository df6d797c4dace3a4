"""Weights in the form that ships: half precision, only what inference and its loader need.

python infra/training/export.py RUN/checkpoint.safetensors pipeline/model/birefnet-nano.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bgpipe.pipeline.model import CONFIGS

SIDE = 192  # pixels that the bundled weights are for
GAIN = "evidence.gain"  # of what the colours say, which is not trained but added
DERIVED = ("relative_position_index", "num_batches_tracked")  # rebuilt or unused by the loader


def export(average: dict[str, Tensor], model: str, target: Path, side: int = SIDE) -> None:
    """Write `average`, for pictures of `side` pixels, to `target`, whole or not at all."""
    weights = {
        name: tensor.detach().to("cpu", torch.float16).contiguous()
        for name, tensor in average.items()
        if not name.endswith(DERIVED)
    }
    if CONFIGS[model].evidence:
        weights[GAIN] = torch.ones(2, dtype=torch.float16)
    metadata = {
        "format": "pt",
        "bgpipe.config": model,
        "bgpipe.size": f"{side}x{side}",
        "bgpipe.patch_order": "current",
    }
    partial = target.with_suffix(".partial")
    save_file(weights, partial, metadata=metadata)
    partial.chmod(0o644)  # it is made for its owner alone, and is to be installed
    partial.replace(target)


def main() -> None:
    parser = argparse.ArgumentParser(description="averaged weights of a checkpoint, to ship")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--model", default="birefnet_nano")
    given = parser.parse_args()
    prefix = "average."
    tensors = load_file(given.checkpoint)
    average = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    export(average, given.model, given.target)


if __name__ == "__main__":
    main()
