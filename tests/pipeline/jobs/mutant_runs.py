"""Runs the state machine and the unit tests on a mutant of a Lua file, in several processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import Value, get_context
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from bgpipe.pipeline.broker.client import RedisClient

from ...support.lua_mutants import Mutant, mutants
from ...support.source_tree import ROOT
from .job_machine import JobMachine
from .virtual_redis import product_scripts, virtual_redis

VARIABLE_URL = "TEST_MUTANTS_REDIS_URL"
STEPS = 60
EXAMPLES = (10, 100)
"""Most mutants do not outlive the first examples."""
UNIT_TESTS = {
    "broker": (
        "tests/pipeline/broker/test_lease.py",
        "tests/pipeline/broker/test_queue.py",
        "tests/pipeline/monitoring/test_collectors.py",
    ),
    "jobs": (
        "tests/pipeline/jobs/test_store.py",
        "tests/pipeline/jobs/test_store_lost_replies.py",
    ),
    "served": ("tests/pipeline/http/test_lifecycle_maintenance.py",),
    "monitoring": ("tests/pipeline/monitoring/test_collectors_stats.py",),
}


def all_mutants() -> Iterator[tuple[Path, Mutant]]:
    """Yield the mutants of every Lua file of the product."""
    for file in sorted((ROOT / "pipeline").rglob("*.lua")):
        for mutant in mutants(file.read_text()):
            yield file, mutant


def survivors(
    redis_url: str, chosen: Sequence[tuple[Path, Mutant]]
) -> Iterator[tuple[Path, Mutant]]:
    """Yield those of `chosen` that neither the state machine nor a unit test notices."""
    databases = Value("i", 0)
    with ProcessPoolExecutor(initializer=_begin, initargs=(redis_url, databases)) as pool:
        killed = pool.map(is_killed, *zip(*chosen, strict=True))
        yield from (pair for pair, dead in zip(chosen, killed, strict=True) if not dead)


def _begin(redis_url: str, databases: Synchronized[int]) -> None:
    """Choose the database of this process, in a server that all share."""
    with databases.get_lock():
        databases.value += 1
        os.environ[VARIABLE_URL] = f"{redis_url.rpartition('/')[0]}/{databases.value}"


def is_killed(file: Path, mutant: Mutant) -> bool:
    original = file.read_text()
    few, many = EXAMPLES
    return (
        _fails_the_machine(original, mutant.text, few)
        or _fails_a_unit_test(file, mutant.text)
        or _fails_the_machine(original, mutant.text, many)
    )


def _fails_the_machine(original: str, mutated: str, examples: int) -> bool:
    def mutate(script: str) -> str:
        return script.replace(original, mutated)

    with virtual_redis(os.environ[VARIABLE_URL], mutate) as virtual:

        class Machine(JobMachine):
            client = virtual

        return _fails(Machine, examples)


def _fails(machine: type[JobMachine], examples: int) -> bool:
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=STEPS,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],
                database=None,
                print_blob=False,
            ),
        )
    except (Exception, pytest.fail.Exception):  # an assertion, an error of Lua, an unreadable reply
        return True
    return False


def _fails_a_unit_test(file: Path, mutated: str) -> bool:
    tests = UNIT_TESTS.get(file.stem) or UNIT_TESTS[file.parent.parent.name]
    process = get_context("fork").Process(
        target=_run_unit_tests, args=(file.read_text(), mutated, tests)
    )
    process.start()
    process.join()
    assert process.exitcode in {0, 1}  # else pytest could not run them
    return process.exitcode == 1


def _run_unit_tests(original: str, mutated: str, tests: Sequence[str]) -> None:
    """Run pytest in this process, which has its imports behind it, and end with its exit code."""
    execute = RedisClient.execute_command

    def execute_mutated(client: RedisClient, *args: object, **options: object) -> object:
        if args[0] == "EVALSHA" and (text := product_scripts().get(str(args[1]))):
            args = ("EVAL", text.replace(original, mutated), *args[2:])
        return execute(client, *args, **options)

    RedisClient.execute_command = execute_mutated  # type: ignore[method-assign]
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    os.chdir(ROOT)
    os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
