"""Errors as problem details."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi")

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.http.problems import STATUS, problem_of


def test_every_error_code_has_a_status() -> None:
    assert set(STATUS) == set(Code)


@pytest.mark.parametrize("code", Code)
def test_an_error_of_an_image_keeps_its_code_and_detail(code: Code) -> None:
    problem = problem_of(PermanentError(code, "why"))
    assert (problem.code, problem.detail, problem.status_code) == (code, "why", STATUS[code])
    assert 400 <= problem.status_code < 600
