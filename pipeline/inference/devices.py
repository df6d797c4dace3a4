"""Which devices this machine's workers run on, without importing torch.

Whether a device computes: asked before any image relies on it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bgpipe.pipeline.errors import Code, DeviceLost, UsageError

if TYPE_CHECKING:
    import torch

CPU = "cpu"
GPU = re.compile(r"GPU (?P<index>\d+): (?P<product>.+) \(UUID: (?P<uuid>\S+)\)")
INSTANCE = re.compile(r"\s+MIG (?P<profile>\S+)\s+Device\s+(?P<index>\d+): \(UUID: (?P<uuid>\S+)\)")
"""Lines of nvidia-smi -L; instances stand below the GPU that is divided."""


@dataclass(frozen=True, slots=True)
class WorkerDevice:
    """A GPU, an instance of a divided one (MIG), or the CPU.

    `name` as users write it: cuda:N, cuda:N.M for instance M of GPU N, or cpu. `uuid` pins a GPU or
    an instance and is empty for the CPU.
    """

    name: str
    uuid: str = ""
    product: str = ""

    @property
    def label(self) -> str:
        """The device's part of a worker's name: gpu0, gpu0.1 or cpu0."""
        return f"gpu{self.name.removeprefix('cuda:')}" if self.uuid else "cpu0"

    @property
    def environment(self) -> dict[str, str]:
        """What lets a process see this device alone: with no UUID, no GPU at all.

        On the CPU, lanes and the network's threads share the cores; threads that wait for each other
        by spinning would slow both down many times.
        """
        waiting = {} if self.uuid else {"OMP_WAIT_POLICY": "PASSIVE"}
        return {"CUDA_VISIBLE_DEVICES": self.uuid} | waiting


def select_devices(requested: Sequence[str], *, cpu_allowed: bool) -> list[WorkerDevice]:
    """The devices asked for; if none is, every GPU, or else the CPU where that is allowed.

    Raises:
        UsageError: a device that is asked for does not exist, or only the CPU is there.

    """
    gpus = {gpu.name: gpu for gpu in find_gpus()}
    if requested:
        return [_pick(name, gpus) for name in requested]
    if gpus:
        return list(gpus.values())
    if cpu_allowed:
        return [WorkerDevice(CPU)]
    raise UsageError("no GPU found: ask for the CPU with --device cpu (slow), or check nvidia-smi")


def find_gpus() -> list[WorkerDevice]:
    """The GPUs that nvidia-smi lists and CUDA_VISIBLE_DEVICES does not hide."""
    program = shutil.which("nvidia-smi")
    if not program:
        return []
    listing = subprocess.run(  # noqa: S603  # found on the PATH, fixed arguments
        [program, "-L"], capture_output=True, text=True, timeout=30, check=False
    )
    if listing.returncode:
        raise UsageError(f"nvidia-smi fails: {(listing.stderr or listing.stdout).strip()}")
    return [gpu for gpu in _usable(listing.stdout) if _visible(gpu)]


def _usable(listing: str) -> Iterator[WorkerDevice]:
    """Every GPU that `listing` names; instead of one that is divided, its instances."""
    whole, divided = None, False
    for line in listing.splitlines():
        if found := GPU.match(line):
            if whole and not divided:
                yield whole
            whole = WorkerDevice(f"cuda:{found['index']}", found["uuid"], found["product"])
            divided = False
        elif whole and (found := INSTANCE.match(line)):
            divided = True
            product = f"{whole.product} MIG {found['profile']}"
            yield WorkerDevice(f"{whole.name}.{found['index']}", found["uuid"], product)
    if whole and not divided:
        yield whole


def _visible(gpu: WorkerDevice) -> bool:
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return True
    names = [name.strip() for name in allowed.split(",") if name.strip()]
    return any(
        f"cuda:{name}" in {gpu.name, gpu.name.rpartition(".")[0]} or gpu.uuid.startswith(name)
        for name in names
    )


def _pick(name: str, gpus: dict[str, WorkerDevice]) -> WorkerDevice:
    if name == CPU:
        return WorkerDevice(CPU)
    if name not in gpus:
        known = ", ".join([CPU, *gpus])
        raise UsageError(f"no such device: {name}; this machine has {known}")
    return gpus[name]


SIDE = 128
"""Of matrices of -1, 0 and 1, whose product every precision holds exactly."""


def check_device(device: str) -> None:
    """Multiply matrices on `device`, cpu or cuda, in float32 and half precision.

    Raises:
        DeviceLost: it does not answer, or wrongly.

    """
    import torch  # the supervisor, which lists devices, does without it

    try:
        right = all(_multiplies(device, dtype) for dtype in (torch.float32, torch.float16))
    except (RuntimeError, AssertionError) as error:  # the latter from a build without CUDA
        raise DeviceLost(
            Code.DEVICE,
            f"the device does not compute: {device}: {error}: check the driver, and that torch is "
            f"built for the device (torch {torch.__version__}, CUDA {torch.version.cuda})",
        ) from error
    if not right:
        raise DeviceLost(Code.DEVICE, f"the device computes wrongly: {device}: it may be broken")


def _multiplies(device: str, dtype: torch.dtype) -> bool:
    import torch

    left, right = (
        torch.arange(SIDE * SIDE).mul(factor).remainder(3).sub(1).view(SIDE, SIDE)
        for factor in (5, 7)
    )
    found = left.to(device, dtype) @ right.to(device, dtype)
    return torch.equal(found.cpu().long(), left @ right)
