"""Which engines a worker keeps, and which it gives up for room."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from bgpipe.config.presets import Preset
from bgpipe.config.settings import load_settings
from bgpipe.pipeline.errors import Code, DeviceLost, ModelUnavailable, Refused, TransientError
from bgpipe.pipeline.inference.engine_cache import EngineCache, ModelSpec, engine_key, load_engine
from bgpipe.pipeline.types import Recipe

NO_ROOM = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"


def recipe(name: str, side: int = 32) -> Recipe:
    return Recipe(name, name * 64, (side, side), Preset())


@dataclass
class Weights:
    memory: int


@dataclass
class Device:
    """Where weights of 10 bytes are loaded; `full`: as long as there are others."""

    made: list[str] = field(default_factory=list)
    full: bool = False

    def make(self, spec: ModelSpec) -> Weights:
        self.made.append(spec.model)
        if self.full:
            self.full = False
            raise RuntimeError(NO_ROOM)
        return Weights(10)


def names(cache: EngineCache) -> list[str]:
    return [weights[0] for _, weights, _ in reversed(cache._engines)]


def test_what_was_used_last_stays() -> None:
    device = Device()
    cache = EngineCache(device.make, capacity_bytes=25)
    for name in "aba":
        cache.find(engine_key(recipe(name))) or cache.load(recipe(name))
    assert device.made == ["a", "b"]
    cache.load(recipe("c"))
    assert names(cache) == ["c", "a"]


def test_one_size_of_input_is_one_engine() -> None:
    cache = EngineCache(Device().make, capacity_bytes=25)
    cache.load(recipe("a", 32))
    assert cache.find(engine_key(recipe("a", 64))) is None


def test_what_is_too_large_for_the_room_is_kept_alone() -> None:
    cache = EngineCache(Device().make, capacity_bytes=5)
    for name in "ab":
        cache.load(recipe(name))
    assert names(cache) == ["b"]


def test_on_a_full_device_the_others_are_given_up() -> None:
    device = Device()
    cache = EngineCache(device.make, capacity_bytes=100)
    cache.load(recipe("a"))
    device.full = True
    cache.load(recipe("b"))
    assert device.made == ["a", "b", "b"]
    assert names(cache) == ["b"]


def test_what_does_not_fit_alone_either_is_an_error() -> None:
    device = Device(full=True)
    cache = EngineCache(device.make, capacity_bytes=100)
    with pytest.raises(Refused, match="does not fit into the device's memory: a: free it"):
        cache.load(recipe("a"))
    assert names(cache) == []


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (RuntimeError(NO_ROOM), Refused, "does not fit"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), Refused, "does not fit"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), Refused, "does not fit"),
        (TransientError(Code.DEVICE, "NaN"), Refused, "NaN"),
        (ModelUnavailable("no such weights"), ModelUnavailable, "no such weights"),
        (torch.AcceleratorError("CUDA error: illegal access\nSet"), DeviceLost, "illegal access$"),
        (RuntimeError("Failed to find C compiler."), DeviceLost, "Failed to find C compiler"),
        (PermissionError(13, "Permission denied", "/state"), DeviceLost, "/state"),
        (ImportError("libcudart.so.13"), DeviceLost, "does not load: a: ImportError"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_no_load_fails_an_image(error: Exception, kind: type[Exception], text: str) -> None:
    def make(spec: ModelSpec) -> Weights:
        raise error

    with pytest.raises(kind, match=text) as caught:
        EngineCache(make, capacity_bytes=100).load(recipe("a"))
    assert caught.type is kind


@pytest.mark.parametrize("state", ["state", "file/below"])
def test_compiled_code_is_kept_in_the_state_folder_or_where_that_cannot_be_in_another(
    state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # restored at the end
        monkeypatch.delenv(name)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("BGPIPE_STATE_DIR", str(tmp_path / state))
    monkeypatch.setenv("BGPIPE_ENGINE__COMPILE", "true")
    with pytest.raises(Refused):
        load_engine(load_settings(), "cpu", 1, recipe(str(tmp_path / "none.safetensors")))
    kept = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert list(tmp_path.glob("state/compiled" if state == "state" else "bgpipe-*")) == [kept]
    assert os.environ["TRITON_CACHE_DIR"] == str(kept / "triton")
    (kept / "code").touch()
