"""The devices of this machine, and a check that one computes correctly.

The supervisor lists devices without torch, which only `check_device` imports.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from bgpipe.pipeline.errors import Code, DeviceLost, UsageError

CPU = "cpu"
CHECK_SIDE = 128
"""Side of matrices of -1, 0 and 1, whose product every precision holds exactly."""

# Lines of nvidia-smi -L; instances are listed below the GPU that is partitioned.
_GPU = re.compile(r"GPU (?P<index>\d+): (?P<product>.+) \(UUID: (?P<uuid>\S+)\)")
_INSTANCE = re.compile(
    r"\s+MIG (?P<profile>\S+)\s+Device\s+(?P<index>\d+): \(UUID: (?P<uuid>\S+)\)"
)


@dataclass(frozen=True, slots=True)
class WorkerDevice:
    """A GPU, an instance of a partitioned one (MIG), or the CPU.

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
        """Variables with which a process sees this device alone; on the CPU, no GPU.

        On the CPU, lanes and the threads of the network share the cores; threads that wait for each
        other by spinning would slow both down many times.
        """
        waiting = {} if self.uuid else {"OMP_WAIT_POLICY": "PASSIVE"}
        return {"CUDA_VISIBLE_DEVICES": self.uuid} | waiting


def select_devices(requested: Sequence[str], *, cpu_allowed: bool) -> list[WorkerDevice]:
    """Return the requested devices; by default every GPU, or else the CPU where that is allowed.

    Raises UsageError if a requested device does not exist, or there is only the CPU.
    """
    gpus = _find_gpus()
    devices = {CPU: WorkerDevice(CPU)} | gpus
    for name in requested:
        if name not in devices:
            raise UsageError(f"no such device: {name}: this machine has {', '.join(devices)}")
    if not (requested or gpus or cpu_allowed):
        raise UsageError("no GPU found: pass --device cpu (slow), or check nvidia-smi")
    return [devices[name] for name in requested or gpus or [CPU]]


def check_device(device: str) -> None:
    """Multiply matrices on `device`, cpu or cuda, in float32 and half precision.

    Raises DeviceLost if it fails, or its product is wrong.
    """
    import torch

    left, right = (
        torch.arange(CHECK_SIDE**2).mul(factor).remainder(3).sub(1).view(CHECK_SIDE, CHECK_SIDE)
        for factor in (5, 7)
    )
    try:
        is_correct = all(
            torch.equal(
                (left.to(device, dtype) @ right.to(device, dtype)).cpu().long(), left @ right
            )
            for dtype in (torch.float32, torch.float16)
        )
    except (RuntimeError, AssertionError) as error:  # the latter from a build without CUDA
        raise DeviceLost(
            Code.DEVICE,
            f"device does not compute: {device}: {error}: check the driver, and that torch is "
            f"built for the device (torch {torch.__version__}, CUDA {torch.version.cuda})",
        ) from error
    if not is_correct:
        raise DeviceLost(Code.DEVICE, f"device computes wrong results: {device}: it may be broken")


def _find_gpus() -> dict[str, WorkerDevice]:
    """Return by name the GPUs that nvidia-smi lists and CUDA_VISIBLE_DEVICES does not hide."""
    program = shutil.which("nvidia-smi")
    if not program:
        return {}
    listing = subprocess.run(  # noqa: S603  # found on the PATH, fixed arguments
        [program, "-L"], capture_output=True, text=True, timeout=30, check=False
    )
    if listing.returncode:
        raise UsageError(f"nvidia-smi failed: {(listing.stderr or listing.stdout).strip()}")
    gpus = _parse_listing(listing.stdout)
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return gpus
    names = [name.strip() for name in allowed.split(",") if name.strip()]
    return {name: gpu for name, gpu in gpus.items() if _is_named(gpu, names)}


def _parse_listing(listing: str) -> dict[str, WorkerDevice]:
    """Return every GPU of `listing`, or its instances if it is partitioned."""
    devices: dict[str, WorkerDevice] = {}
    gpu = WorkerDevice("")
    for line in listing.splitlines():
        if match := _GPU.match(line):
            gpu = WorkerDevice(f"cuda:{match['index']}", match["uuid"], match["product"])
            devices[gpu.name] = gpu
        elif match := _INSTANCE.match(line):
            devices.pop(gpu.name, None)
            name, product = f"{gpu.name}.{match['index']}", f"{gpu.product} MIG {match['profile']}"
            devices[name] = WorkerDevice(name, match["uuid"], product)
    return devices


def _is_named(gpu: WorkerDevice, names: Sequence[str]) -> bool:
    return any(
        f"cuda:{name}" in {gpu.name, gpu.name.rpartition(".")[0]} or gpu.uuid.startswith(name)
        for name in names
    )
