"""NVIDIA's management library for tests: its GPUs are those in the file that FAKE_NVML names.

The file is JSON: `driver` and `cuda` are versions, `init` is an error of every call or "hang", and each of `gpus` is
the error of a GPU, or its name and UUID, with `mig` if it is divided: name and UUID of each instance, or null.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

NVML_DEVICE_MIG_ENABLE = 1


class NVMLError(Exception):
    def __str__(self) -> str:
        return type(self).__name__.removeprefix("NVMLError_")


class NVMLError_DriverNotLoaded(NVMLError): ...  # noqa: N801


class NVMLError_GpuIsLost(NVMLError): ...  # noqa: N801


class NVMLError_LibRmVersionMismatch(NVMLError): ...  # noqa: N801


class NVMLError_LibraryNotFound(NVMLError): ...  # noqa: N801


class NVMLError_NotFound(NVMLError): ...  # noqa: N801


class NVMLError_NotSupported(NVMLError): ...  # noqa: N801


def _state() -> dict:
    path = os.environ.get("FAKE_NVML", "")
    return json.loads(Path(path).read_text()) if path else {"init": "LibraryNotFound"}


def _error(name: str) -> NVMLError:
    return globals()[f"NVMLError_{name}"]()


def nvmlInit() -> None:  # noqa: N802
    error = _state().get("init")
    if error == "hang":
        time.sleep(600)
    if error:
        raise _error(error)


def nvmlShutdown() -> None: ...  # noqa: N802


def nvmlSystemGetDriverVersion() -> str:  # noqa: N802
    return _state()["driver"]


def nvmlSystemGetCudaDriverVersion() -> int:  # noqa: N802
    return _state()["cuda"]


def nvmlDeviceGetCount() -> int:  # noqa: N802
    return len(_state()["gpus"])


def nvmlDeviceGetHandleByIndex(index: int) -> dict:  # noqa: N802
    gpu = _state()["gpus"][index]
    if isinstance(gpu, str):
        raise _error(gpu)
    return gpu


def nvmlDeviceGetName(handle: dict) -> str:  # noqa: N802
    return handle["name"]


def nvmlDeviceGetUUID(handle: dict) -> str:  # noqa: N802
    return handle["uuid"]


def nvmlDeviceGetMigMode(device: dict) -> list[int]:  # noqa: N802
    if "mig" not in device:
        raise NVMLError_NotSupported
    return [NVML_DEVICE_MIG_ENABLE] * 2


def nvmlDeviceGetMaxMigDeviceCount(device: dict) -> int:  # noqa: N802
    return len(device["mig"])


def nvmlDeviceGetMigDeviceHandleByIndex(device: dict, index: int) -> dict:  # noqa: N802
    if device["mig"][index] is None:
        raise NVMLError_NotFound
    return device["mig"][index]
