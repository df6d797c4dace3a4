"""The devices of this machine, and a check that one computes correctly.

The supervisor lists devices without torch, which only `check_device` imports.
"""

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import TypeVar

from bgpipe.pipeline.errors import Code, DeviceLost, Unavailable, UsageError
from bgpipe.pipeline.logging import EventLogger
from bgpipe.pipeline.processes import start_daemon

CPU = "cpu"
KEPT_BYTES = 2**25
"""Size up to which glibc takes a block from its heap: the largest that it allows."""
CHECK_SIDE = 128  # side of matrices of -1, 0 and 1, whose product every precision holds exactly
NVML_SECONDS = 10.0  # time for the driver to list its GPUs; some faults make it never answer
WITHOUT_GPU = "use the CPU: worker --device cpu, or CUDA_VISIBLE_DEVICES= for submit"
DRIVERS = {"12": 525, "13": 580}
"""The oldest driver for each major version of CUDA ("CUDA Compatibility", minor version compatibility)."""

_FULL = re.compile("OutOfMemoryError|out of memory|_ALLOC(ATION)?_FAILED")

Answer = TypeVar("Answer")

log = EventLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerDevice:
    """A GPU, an instance of a partitioned one (MIG), or the CPU.

    `name` as users write it: cuda:N, cuda:N.M for instance M of GPU N, or cpu; GPUs are counted in
    the order of the PCI bus. `uuid` pins a GPU or an instance and is empty for the CPU. `problem`:
    why a GPU cannot be used.
    """

    name: str
    uuid: str = ""
    product: str = ""
    problem: str = ""

    @property
    def label(self) -> str:
        """The device's part of a worker's name: gpu0, gpu0.1 or cpu0."""
        return f"gpu{self.name.removeprefix('cuda:')}" if self.uuid else "cpu0"

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which a process sees this device alone; on the CPU, no GPU.

        Lanes and the threads of torch share the cores; threads that wait for each other by spinning
        would slow both down many times. On the CPU, glibc keeps freed memory instead of returning it to
        the kernel: page faults took a fifth of the network's time.
        """
        shared = {
            "CUDA_VISIBLE_DEVICES": self.uuid,
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        kept = {
            "MALLOC_MMAP_THRESHOLD_": str(KEPT_BYTES),
            "MALLOC_TRIM_THRESHOLD_": str(2 * KEPT_BYTES),
        }
        return shared if self.uuid else shared | kept


def select_devices(requested: Sequence[str], *, cpu_allowed: bool) -> list[WorkerDevice]:
    """Return the requested devices; by default every GPU, or else the CPU where that is allowed.

    GPUs that cannot be used are logged and left out.

    Raises:
        UsageError: a requested device does not exist, or there is only the CPU.
        Unavailable: no requested device can be used, or the driver fails.
    """
    if requested and set(requested) == {CPU}:
        return [WorkerDevice(CPU)] * len(requested)
    gpus = list_gpus()
    if not (requested or gpus or cpu_allowed):
        raise UsageError("no GPU found: pass --device cpu (slow), or check nvidia-smi")
    chosen = [_pick(name, gpus) for name in requested] or gpus or [WorkerDevice(CPU)]
    for device in chosen:
        if device.problem:
            log.error(f"GPU left out: {device.name}: {device.problem}")
    if usable := [device for device in chosen if not device.problem]:
        return usable
    raise Unavailable(f"no GPU can be used: check nvidia-smi, or {WITHOUT_GPU}")


def list_gpus() -> list[WorkerDevice]:
    """Return the GPUs of this machine that CUDA_VISIBLE_DEVICES does not hide.

    A divided GPU is listed as its instances. Raises Unavailable if the driver fails.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in (visible or "").split(",") if name.strip()]
    if visible is not None and not names:
        return []
    try:
        # In a thread, because a call of a faulty driver cannot be interrupted.
        _, listing = start_daemon("nvml", partial(_ask_nvml, _read_gpus))
        gpus = listing.result(NVML_SECONDS) or []
    except TimeoutError as error:
        silent = f"NVIDIA driver did not answer within {NVML_SECONDS:g} s"
        raise Unavailable(f"{silent}: restart the machine, or {WITHOUT_GPU}") from error
    return gpus if visible is None else [gpu for gpu in gpus if _is_named(gpu, names)]


def check_device(device: str) -> None:
    """Multiply matrices on `device`, cpu or cuda, in float32 and half precision.

    Raises:
        UsageError: the driver is too old for this build of torch.
        DeviceLost: the device fails, or its product is wrong.
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
        _check_driver(torch.version.cuda or "")
        raise DeviceLost(
            Code.DEVICE,
            f"device does not compute: {device}: {error}: check the driver, and that torch is "
            f"built for the device (torch {torch.__version__}, CUDA {torch.version.cuda})",
        ) from error
    if not is_correct:
        raise DeviceLost(Code.DEVICE, f"device computes wrong results: {device}: it may be broken")


def is_out_of_memory(error: Exception) -> bool:
    """Return whether the device has no room; cuBLAS and cuDNN say so in the text alone."""
    return bool(_FULL.search(f"{type(error).__name__}: {error}"))


def _pick(name: str, gpus: Sequence[WorkerDevice]) -> WorkerDevice:
    """Return the device of this name; cuda:N is also the only instance of a divided GPU N."""
    devices = {device.name: device for device in (WorkerDevice(CPU), *gpus)}
    if name in devices:
        return devices[name]
    instances = [device for device in gpus if device.name.startswith(f"{name}.")]
    if len(instances) == 1:
        return instances[0]
    if instances:
        choice = ", ".join(device.name for device in instances)
        raise UsageError(f"GPU is divided into instances (MIG): {name}: choose from {choice}")
    raise UsageError(f"no such device: {name}: this machine has {', '.join(devices)}")


def _is_named(gpu: WorkerDevice, names: Sequence[str]) -> bool:
    return any(
        f"cuda:{name}" in {gpu.name, gpu.name.rpartition(".")[0]} or gpu.uuid.startswith(name)
        for name in names
    )


def _read_gpus(nvml: ModuleType) -> list[WorkerDevice]:
    return [gpu for index in range(nvml.nvmlDeviceGetCount()) for gpu in _read_gpu(nvml, index)]


def _read_gpu(nvml: ModuleType, index: int) -> list[WorkerDevice]:
    """Return the GPU, or its instances if it is divided; where it fails, with the problem."""
    name = f"cuda:{index}"
    try:
        gpu = nvml.nvmlDeviceGetHandleByIndex(index)
        if not _is_divided(nvml, gpu):
            return [WorkerDevice(name, nvml.nvmlDeviceGetUUID(gpu), nvml.nvmlDeviceGetName(gpu))]
        instances = []
        for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
            with suppress(nvml.NVMLError_NotFound):  # the numbers have gaps
                instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, number)
                uuid, product = nvml.nvmlDeviceGetUUID(instance), nvml.nvmlDeviceGetName(instance)
                instances.append(WorkerDevice(f"{name}.{number}", uuid, product))
    except nvml.NVMLError as error:
        return [WorkerDevice(name, problem=str(error))]
    empty = "MIG is on, and no instance exists: create one, or turn MIG off"
    return instances or [WorkerDevice(name, problem=empty)]


def _is_divided(nvml: ModuleType, gpu: object) -> bool:
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(gpu)
    except nvml.NVMLError_NotSupported:
        return False
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def _check_driver(cuda: str) -> None:
    """Raise UsageError if the driver is too old for CUDA of version `cuda`, like 13.0."""
    major = cuda.partition(".")[0]
    with suppress(Unavailable):
        versions = _ask_nvml(_read_versions)
        if major and versions and versions[1] < int(major):
            old = (
                f"NVIDIA driver too old: {versions[0]}: torch is built for CUDA {cuda}, which needs"
            )
            remedy = "update the driver, or install a build of torch for an older CUDA"
            raise UsageError(f"{old} {DRIVERS.get(major, 'a newer one')} or later: {remedy}")


def _read_versions(nvml: ModuleType) -> tuple[str, int]:
    """Return the driver's version, and the major version of the newest CUDA that it supports."""
    return nvml.nvmlSystemGetDriverVersion(), nvml.nvmlSystemGetCudaDriverVersion() // 1000


def _ask_nvml(ask: Callable[[ModuleType], Answer]) -> Answer | None:
    """Return the answer of NVIDIA's management library, or None where it is not installed.

    Raises Unavailable if the driver fails.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            return ask(pynvml)
        finally:
            pynvml.nvmlShutdown()  # a process that uses the GPUs would prevent their reset
    except pynvml.NVMLError_LibraryNotFound:
        return None
    except pynvml.NVMLError as error:
        repair = "check nvidia-smi"
        raise Unavailable(f"NVIDIA driver failed: {error}: {repair}, or {WITHOUT_GPU}") from error
