"""Each comparison, branch and write of the scripts is needed, and a test notices its loss."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from ...support.lua_mutants import mutants
from .mutant_runs import all_mutants, survivors

EQUIVALENTS = Path(__file__).with_name("lua_equivalents.toml")


def test_every_comparison_branch_and_write_is_changed() -> None:
    script = """-- a comment: if x == y then
if a < b and redis.call('HDEL', KEYS[1], f(x)) == 0 then return 'x == y' end
redis.call('HSET', KEYS[1], 'a', 1, 'b', g(2, 3))
finish(KEYS[1])
"""
    assert [mutant.mutated for mutant in mutants(script)] == [
        "if a <= b and redis.call('HDEL', KEYS[1], f(x)) == 0 then return 'x == y' end",
        "if a >= b and redis.call('HDEL', KEYS[1], f(x)) == 0 then return 'x == y' end",
        "if a < b or redis.call('HDEL', KEYS[1], f(x)) == 0 then return 'x == y' end",
        "if a < b and redis.call('HDEL', KEYS[1], f(x)) ~= 0 then return 'x == y' end",
        "if true then return 'x == y' end",
        "if false then return 'x == y' end",
        "if a < b and redis.call('HEXISTS', KEYS[1], f(x)) == 0 then return 'x == y' end",
        "do end",
        "redis.call('HSET', KEYS[1], 'b', g(2, 3))",
        "redis.call('HSET', KEYS[1], 'a', 1)",
        "do end",
    ]


@pytest.mark.slow
def test_every_mutant_of_a_script_is_killed_but_the_equivalent_ones(redis_url: str) -> None:
    everything = list(all_mutants())
    alive = {f"{file.name}: {mutant.change}" for file, mutant in survivors(redis_url, everything)}
    listed = tomllib.loads(EQUIVALENTS.read_text())["equivalent"]
    print(f"{len(everything)} mutants, {len(everything) - len(alive)} killed, {len(alive)} not")
    assert alive == {entry["mutant"] for entry in listed}
    assert all(entry["why"] for entry in listed)
