"""Devices as the driver lists them, in all the states that a host may be in."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from bgpipe.pipeline.errors import DeviceLost, Unavailable, UsageError
from bgpipe.pipeline.inference import devices
from bgpipe.pipeline.inference.devices import WorkerDevice, check_device, select_devices

from ...support.gpu_host import FOLDER, GpuHost, divided, gpu

INSTANCES = ("3g.71gb", None, "1g.18gb")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GpuHost:
    """This process's machine."""
    host = GpuHost(tmp_path / "nvml.json")
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.setenv("FAKE_NVML", str(host.state))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    host.set(gpu(0), gpu(1, "NVIDIA L4"))
    return host


def selected(*requested: str) -> list[tuple[str, str]]:
    chosen = select_devices(requested, cpu_allowed=True)
    return [(device.name, device.uuid) for device in chosen]


@pytest.mark.usefixtures("host")
def test_every_gpu_is_found_with_the_uuid_that_pins_it() -> None:
    first, second = select_devices([], cpu_allowed=False)
    assert first == WorkerDevice("cuda:0", "GPU-0000-aaaa", "NVIDIA H200")
    assert second == WorkerDevice("cuda:1", "GPU-1111-aaaa", "NVIDIA L4")
    pinned = {"CUDA_VISIBLE_DEVICES": "GPU-1111-aaaa", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert pinned.items() <= second.environment.items()


def test_a_divided_gpu_is_as_many_devices_as_it_has_instances(
    host: GpuHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.set(divided(0, *INSTANCES), gpu(1))
    instances = [("cuda:0.0", "MIG-0-0"), ("cuda:0.2", "MIG-0-2")]
    assert selected() == [*instances, ("cuda:1", "GPU-1111-aaaa")]
    assert selected("cuda:0.2") == instances[1:]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert selected() == instances
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-0-2")
    assert selected() == instances[1:]


def test_the_name_of_a_divided_gpu_is_that_of_its_only_instance(host: GpuHost) -> None:
    host.set(divided(0, None, "1g.18gb"))
    assert selected("cuda:0") == [("cuda:0.1", "MIG-0-1")]
    host.set(divided(0, *INSTANCES))
    with pytest.raises(UsageError, match=r"cuda:0: choose from cuda:0\.0, cuda:0\.2$"):
        selected("cuda:0")
    host.set(divided(0, None))
    with pytest.raises(Unavailable):
        selected("cuda:0")


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("visible", ["1", "GPU-1111-aaaa", "GPU-1111"])
def test_a_gpu_that_the_environment_hides_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert selected() == [("cuda:1", "GPU-1111-aaaa")]


def test_without_a_gpu_the_cpu_is_the_device(
    host: GpuHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.set(init="LibraryNotFound")
    assert selected() == [("cpu", "")]
    host.set(init="DriverNotLoaded")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert selected() == [("cpu", "")]


def test_a_dead_gpu_is_named_and_the_others_are_taken(
    host: GpuHost, caplog: pytest.LogCaptureFixture
) -> None:
    host.set(gpu(0), "GpuIsLost", divided(2, None))
    assert selected() == [("cuda:0", "GPU-0000-aaaa")]
    assert "GPU left out: cuda:1: GpuIsLost" in caplog.text
    assert "GPU left out: cuda:2: MIG is on, and no instance exists" in caplog.text
    host.set("GpuIsLost")
    for requested in ([], ["cuda:0"]):
        with pytest.raises(Unavailable, match="no GPU can be used"):
            selected(*requested)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("LibRmVersionMismatch", "driver failed: LibRmVersionMismatch"), ("hang", "did not answer")],
)
def test_a_driver_that_fails_is_not_taken_for_no_gpu_and_the_cpu_does_without_it(
    host: GpuHost, monkeypatch: pytest.MonkeyPatch, fault: str, reason: str
) -> None:
    monkeypatch.setattr(devices, "NVML_SECONDS", 0.2)
    host.set(init=fault)
    with pytest.raises(Unavailable, match=reason):
        selected()
    assert selected("cpu", "cpu") == [("cpu", ""), ("cpu", "")]


def test_an_older_driver_than_torch_needs_is_named_with_the_one_that_it_needs(
    host: GpuHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    host.set(gpu(0), driver="570.86.15", cuda=12080)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(UsageError, match=r"570\.86\.15: .* CUDA 13\.0, which needs 580 or later"):
        check_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    with pytest.raises(DeviceLost, match="check the driver"):
        check_device("cuda")


def test_the_devices_are_listed_with_what_is_wrong_with_them(tmp_path: Path) -> None:
    host = GpuHost(tmp_path / "nvml.json")
    host.set(gpu(0), "GpuIsLost")
    done = subprocess.run(
        [sys.executable, "-m", "bgpipe.workers", "--list-devices"],
        env=os.environ | host.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    listed = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(each["name"], each["problem"]) for each in listed] == [
        ("cuda:0", ""),
        ("cuda:1", "GpuIsLost"),
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_worker_whose_device_does_not_compute_gives_up_and_says_so(
    tmp_path: Path, redis_url: str
) -> None:
    host = GpuHost(tmp_path / "nvml.json")
    host.set(gpu(0))
    settings = {"BGPIPE_REDIS_URL": redis_url, "BGPIPE_WORKER__START_ATTEMPTS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "bgpipe.workers", "--device", "cuda:0"],
        env=os.environ | settings | host.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert "device does not compute: cuda" in done.stderr


def test_the_library_that_takes_the_drivers_place_has_its_functions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, real = _load(monkeypatch, FOLDER), _load(monkeypatch, None)
    for name, value in vars(ours).items():
        if name.startswith("NVMLError"):
            assert issubclass(getattr(real, name), real.NVMLError)
        elif name.startswith("nvml"):
            parameters = inspect.signature(getattr(real, name)).parameters
            assert [*inspect.signature(value).parameters] == [*parameters], name


def _load(monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> ModuleType:
    """The pynvml in `folder`, or the installed one."""
    places = [str(folder)] if folder else [entry for entry in sys.path if entry != str(FOLDER)]
    spec = importlib.machinery.PathFinder.find_spec("pynvml", places)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "pynvml", module)  # it makes its errors as it is imported
    spec.loader.exec_module(module)
    return module


def test_a_worker_on_a_cpu_keeps_the_memory_that_it_frees() -> None:
    """Else every forward pass pays for new pages: 12,288 here."""
    program = (
        "import resource\n"
        "for _ in range(5):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    blocks = [bytes([n]) * 2**24 for n in (1, 2, 3)]\n"
        "    del blocks\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | WorkerDevice("cpu").environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 1000
