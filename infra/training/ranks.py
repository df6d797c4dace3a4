"""Processes that train one network together, one per GPU or per CPU core (`torchrun`)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """The one process that writes files."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        return torch.device(f"cuda:{self.rank}" if torch.cuda.is_available() else "cpu")

    def average_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over all processes."""
        if self.count == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in tensors])  # one message, not hundreds
        dist.all_reduce(flat)
        flat /= self.count
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def mean(self, value: float) -> float:
        """The same number in every process, so that all take the same decisions."""
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        self.average_([shared])
        return shared.item()


ALONE = Ranks()


def join() -> Ranks:
    """Meet the processes that torchrun started, if it was torchrun that started this one."""
    if "WORLD_SIZE" not in os.environ:
        return ALONE
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return Ranks(dist.get_rank(), dist.get_world_size())
