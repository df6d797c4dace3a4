"""A machine with GPUs, as the driver's library lists them: support/nvml in its place."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "nvml"
"""Has a pynvml to be found first on the path of modules."""


def gpu(number: int, product: str = "NVIDIA H200") -> dict[str, Any]:
    return {"name": product, "uuid": f"GPU-{number}{number}{number}{number}-aaaa"}


def divided(number: int, *profiles: str | None) -> dict[str, Any]:
    """A GPU with these instances; None is a gap in their numbers."""
    instances = [
        profile and {"name": f"NVIDIA H200 MIG {profile}", "uuid": f"MIG-{number}-{index}"}
        for index, profile in enumerate(profiles)
    ]
    return gpu(number) | {"mig": instances}


@dataclass(frozen=True, slots=True)
class GpuHost:
    """`set` may change the machine while processes run on it."""

    state: Path

    def set(
        self,
        *gpus: dict[str, Any] | str,
        init: str = "",
        driver: str = "580.95.05",
        cuda: int = 13000,
    ) -> None:
        """Have these GPUs; a text is the error of one. `init` is an error of the driver, or "hang"."""
        state = {"gpus": gpus, "init": init, "driver": driver, "cuda": cuda}
        new = self.state.with_suffix(".new")
        new.write_text(json.dumps(state))
        new.replace(self.state)  # a process may read it at any time

    @property
    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(FOLDER), "FAKE_NVML": str(self.state)}
