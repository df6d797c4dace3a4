"""The state of jobs against a model, in thousands of random steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from .job_machine import JobMachine
from .virtual_redis import VirtualRedis, virtual_redis

EXAMPLE_STEPS = 50
"""At most; many examples have fewer."""


@pytest.fixture
def virtual(redis_url: str) -> Iterator[VirtualRedis]:
    with virtual_redis(redis_url) as client:
        yield client


@pytest.mark.parametrize("steps", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_no_order_of_events_loses_or_doubles_an_image(virtual: VirtualRedis, steps: int) -> None:
    class Machine(JobMachine):
        client = virtual

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=2 * steps // EXAMPLE_STEPS,
            stateful_step_count=EXAMPLE_STEPS,
            deadline=None,
            derandomize=steps == 2_000,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
            database=None,
            print_blob=False,
        ),
    )
    print(f"{Machine.steps} steps")
    assert Machine.steps >= steps
