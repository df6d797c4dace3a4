"""Which engines a worker keeps, and which it gives up for room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from bgpipe.config.presets import Preset
from bgpipe.pipeline.errors import Code, TransientError
from bgpipe.pipeline.inference.engine_cache import EngineCache, ModelSpec, engine_key
from bgpipe.pipeline.types import Matte, Recipe


def recipe(name: str, side: int = 32) -> Recipe:
    return Recipe(name, name * 64, (side, side), Preset())


@dataclass
class Weights:
    memory: int

    def infer(self, images: Sequence[object]) -> list[Matte]:
        raise AssertionError("unexpected call")


@dataclass
class Device:
    """Where weights of 10 bytes are loaded; `full`: as long as there are others."""

    made: list[str] = field(default_factory=list)
    full: bool = False

    def make(self, spec: ModelSpec) -> Weights:
        self.made.append(spec.model)
        if self.full:
            self.full = False
            raise TransientError(Code.DEVICE, "out of memory")
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
    with pytest.raises(TransientError, match="out of memory"):
        cache.load(recipe("a"))
    assert names(cache) == []
