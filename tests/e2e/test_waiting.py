"""What is said while something outside takes long."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ..support.hub import LoopbackHub, serving
from ..support.redis_server import RedisServer

if TYPE_CHECKING:
    from .conftest import Bgpipe

REPO = "ZhengPeng7/BiRefNet_lite"


@pytest.fixture
def silent_hub() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("quiet", [False, True])
def test_a_wait_for_redis_is_said_without_its_password(
    bgpipe: Bgpipe, redis_server_process: RedisServer, *, quiet: bool
) -> None:
    url = f"redis://:hunter2@127.0.0.1:{redis_server_process.port}/0"
    redis_server_process.freeze()
    process = bgpipe.start(*(["-q"] if quiet else []), "jobs", BGPIPE_REDIS_URL=url)
    assert process.stderr
    if quiet:
        with pytest.raises(Exception, match="timed out"):
            process.communicate(timeout=3)
    else:
        said = process.stderr.readline()
        assert said == f"waiting for Redis at 127.0.0.1:{redis_server_process.port} ...\n"
    redis_server_process.thaw()
    _, rest = process.communicate(timeout=60)
    assert "waiting" not in rest
    assert "hunter2" not in rest


@pytest.mark.parametrize("quiet", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_wait_for_a_hub_is_said(bgpipe: Bgpipe, silent_hub: str, *, quiet: bool) -> None:
    done = bgpipe(
        *(["-q"] if quiet else []),
        *("models", "pull", "birefnet-lite"),
        HF_ENDPOINT=f"http://{silent_hub}",
        BGPIPE_MODEL__HUB_TIMEOUT="3",
    )
    line = f"asking {silent_hub} for birefnet-lite ..."
    assert (done.returncode, line in done.stderr.splitlines()) == (4, not quiet), done.stderr


@pytest.mark.parametrize("quiet", [False, True])
def test_a_download_is_said_with_its_size(bgpipe: Bgpipe, tmp_path: Path, *, quiet: bool) -> None:
    with serving(LoopbackHub(REPO, {"ab" * 20: bytes(2_000_000)})) as hub:
        done = bgpipe(
            *(["-q"] if quiet else []),
            *("models", "pull", "birefnet-lite"),
            HF_ENDPOINT=hub.url,
        )
    line = f"downloading birefnet-lite (2 MB) from 127.0.0.1:{hub.server_port} ..."
    assert (done.returncode, line in done.stderr.splitlines()) == (0, not quiet), done.stderr
    assert not re.search(r"\d%", done.stderr)  # a bar is for terminals
