"""What the shell offers after TAB, asked as bash asks."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.types import Job, JobId, Preset, Recipe

if TYPE_CHECKING:
    from .conftest import Bgpipe

Offered = Callable[..., list[str]]


@pytest.fixture
def offered(bgpipe: Bgpipe) -> Offered:
    def ask(line: str, **environment: str) -> list[str]:
        done = bgpipe(
            COMP_WORDS=line,
            COMP_CWORD=str(len(line.split(" ")) - 1),
            _BGPIPE_COMPLETE="complete_bash",
            **environment,
        )
        assert done.stderr == ""
        return done.stdout.split()

    return ask


def test_commands_options_and_global_options_are_offered(offered: Offered) -> None:
    assert {"status", "config", "models"} <= set(offered("bgpipe "))
    assert offered("bgpipe status --wat") == ["--watch"]
    assert offered("bgpipe models list --js") == ["--json"]


def test_presets_are_offered_with_those_of_the_settings(bgpipe: Bgpipe, offered: Offered) -> None:
    (bgpipe.home / "bgpipe.toml").write_text(
        "[presets.prints]\n[sweeps.shop]\nsource='/a'\ntarget='/b'\n"
    )
    assert set(offered("bgpipe eval --preset p")) == {"products", "portraits", "prints"}
    assert offered("bgpipe sweep run s") == ["shop"]


def test_models_are_offered_by_what_they_are_for(offered: Offered) -> None:
    assert offered("bgpipe bench --model birefnet-n") == ["birefnet-nano"]
    assert set(offered("bgpipe eval --matting ")) == {"none", "vitmatte", "vitmatte-base"}
    assert "auto" not in offered("bgpipe models pull ")


def test_settings_are_offered(offered: Offered) -> None:
    assert offered("bgpipe config show worker.la") == ["worker.lanes"]


def test_wrong_settings_offer_nothing_and_say_nothing(bgpipe: Bgpipe, offered: Offered) -> None:
    (bgpipe.home / "bgpipe.toml").write_text("[worker\n")
    assert offered("bgpipe eval --preset ") == []
    assert offered("bgpipe status ") == []


def test_jobs_are_offered_from_a_server_that_runs(offered: Offered, redis_url: str) -> None:
    with connect(redis_url) as client:
        recipe = Recipe("birefnet-nano", "ab" * 32, (256, 320), Preset())
        JobStore(client).open(Job(JobId("spring"), "/a", "/b", recipe, created=1.7e9))
    assert offered("bgpipe status ", BGPIPE_REDIS_URL=redis_url) == ["spring"]
    assert offered("bgpipe cancel s", BGPIPE_REDIS_URL=redis_url) == ["spring"]


def test_no_server_is_started_for_a_completion_and_none_is_waited_for(
    bgpipe: Bgpipe, offered: Offered
) -> None:
    assert offered("bgpipe status ") == []
    assert not (bgpipe.home / "state").exists()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        start = time.monotonic()
        assert offered("bgpipe status ", BGPIPE_REDIS_URL=url) == []
        assert time.monotonic() - start < 8
