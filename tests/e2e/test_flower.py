"""`bgpipe flower` as an operator starts it: from any folder, with secrets that no list of processes shows."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..support.ports import await_listening, free_port

ACCOUNT = "me:secret"
COMMAND = [sys.executable, "-m", "bgpipe.pipeline.cli", "flower"]


def environment(folder: Path, **given: str) -> dict[str, str]:
    ours = ("BGPIPE_", "FLOWER_", "CELERY_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {"BGPIPE_STATE_DIR": str(folder / "state")} | given


@contextmanager
def flower(folder: Path, **given: str) -> Iterator[tuple[str, int]]:
    """The address and the process of a Flower that was started in /."""
    port = free_port()
    with (folder / "flower.log").open("wb") as log:
        process = subprocess.Popen(
            [*COMMAND, "--port", str(port)],
            env=environment(folder, **given),
            cwd="/",
            stdout=log,
            stderr=log,
        )
        try:
            await_listening(port)
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()
            assert process.wait(30) == 0


def get(address: str, account: str = "") -> str:
    request = urllib.request.Request(address)
    if account:
        token = base64.b64encode(account.encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode()


def refusal(address: str, account: str = "") -> int:
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(address, account)
    refused.value.close()
    return refused.value.code


def test_it_shows_the_packages_columns_to_who_has_the_password(
    redis_url: str, tmp_path: Path
) -> None:
    given = {"BGPIPE_REDIS_URL": redis_url, "FLOWER_BASIC_AUTH": ACCOUNT}
    with flower(tmp_path, **given) as (address, pid):
        columns = re.findall('data-column="(.*?)"', get(f"{address}/tasks", ACCOUNT))
        assert columns == ["name", "args", "state", "received", "runtime", "worker"]
        assert get(f"{address}/api/tasks", ACCOUNT) == "{}"
        assert refusal(f"{address}/tasks") == 401
        assert refusal(f"{address}/tasks", "me:guess") == 401
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        assert not [word for word in words if "secret" in word or redis_url in word]
    assert [*(tmp_path / "state").glob("flower*")]  # it saved its state there


def test_the_password_may_be_in_a_file(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "account").write_text(f"{ACCOUNT}\n")
    given = {"BGPIPE_REDIS_URL": redis_url, "FLOWER_BASIC_AUTH_FILE": str(tmp_path / "account")}
    with flower(tmp_path, **given) as (address, _):
        assert get(f"{address}/api/tasks", ACCOUNT) == "{}"
        assert refusal(f"{address}/api/tasks") == 401


@pytest.mark.parametrize(
    ("given", "reported"),
    [
        ({"FLOWER_BASIC_AUTH": ACCOUNT}, "flower needs a cluster: set BGPIPE_REDIS_URL"),
        ({"BGPIPE_REDIS_URL": "sentinel://h"}, "set BGPIPE_REDIS_URL to a server's address"),
        ({"BGPIPE_REDIS_URL": "redis://h"}, "set FLOWER_BASIC_AUTH=user:password"),
        ({"BGPIPE_REDIS_URL": "redis://h", "FLOWER_BASIC_AUTH": "me:"}, "set FLOWER_BASIC_AUTH="),
        (
            {"BGPIPE_REDIS_URL": "redis://h", "FLOWER_BASIC_AUTH_FILE": "/nonexistent"},
            "not readable: FLOWER_BASIC_AUTH_FILE: [Errno 2] No such file",
        ),
    ],
)
def test_missing_requirements_are_reported_with_exit_code_2(
    given: dict[str, str], reported: str, tmp_path: Path
) -> None:
    ended = subprocess.run(
        COMMAND,
        env=environment(tmp_path, **given),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2
    assert reported in ended.stderr
    assert ended.stderr.count("\n") == 1
