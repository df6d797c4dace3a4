from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from bgpipe.pipeline.errors import Unavailable
from bgpipe.pipeline.processes import ChildProcess, background_thread, request_lines

from ..support.threads import kill_thread

PATIENT = 20.0

DRAINS = "import sys; print('ready', flush=True); sys.stdin.read(); print('drained')"
DIES = "import sys; print('no weights'); sys.exit(4)"
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
PARENT = f"""
import subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-c", {DEAF!r}])
print(grandchild.pid, flush=True)
sys.stdin.read()
sys.exit(1)
"""


def start(program: str, log: Path) -> ChildProcess:
    return ChildProcess([sys.executable, "-c", program], {"BGPIPE_REDIS_URL": "redis://x"}, log)


def watch(child: ChildProcess) -> None:
    while True:
        child.check()


def wait_for(log: Path, text: str) -> None:
    deadline = time.monotonic() + PATIENT
    while text not in log.read_text():
        assert time.monotonic() < deadline, f"not in the log: {text}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether the process runs and is not a zombie."""
    state = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True)
    return state.stdout.strip() not in {"", "Z"}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "worker.log"
    path.write_text("of an earlier run\n")
    return path


def test_one_that_is_released_ends_by_itself_and_is_not_waited_for(log: Path) -> None:
    slow = "import sys, time; print('ready', flush=True); sys.stdin.read(); time.sleep(1); print(7)"
    child = start(slow, log)
    wait_for(log, "ready")
    child.release()
    began = time.monotonic()
    child.stop(PATIENT)
    assert time.monotonic() - began < 0.5
    assert "7" not in log.read_text()
    child.check()
    wait_for(log, "7")
    with pytest.raises(Unavailable):
        watch(child)


def test_it_ends_by_itself_when_its_standard_input_does(log: Path) -> None:
    child = start(DRAINS, log)
    wait_for(log, "ready")
    child.check()
    child.stop(PATIENT)
    assert log.read_text().splitlines() == ["of an earlier run", "ready", "drained"]


def test_an_early_end_is_an_error_with_its_last_lines(log: Path) -> None:
    child = start(DIES, log)
    wait_for(log, "no weights")
    with pytest.raises(Unavailable, match="status 4") as caught:
        watch(child)
    assert "no weights" in str(caught.value)
    assert "earlier" not in str(caught.value)
    child.stop(PATIENT)


def test_a_child_that_ignores_signals_is_killed(log: Path) -> None:
    child = start(DEAF, log)
    wait_for(log, "ready")
    child.stop(0.2, grace=0.2)
    with pytest.raises(Unavailable, match="status -9"):
        child.check()


def test_nothing_that_it_started_outlives_its_failure(log: Path) -> None:
    child = start(PARENT, log)
    wait_for(log, "ready")
    grandchild = int(log.read_text().splitlines()[1])
    assert alive(grandchild)
    child.stop(PATIENT)
    deadline = time.monotonic() + PATIENT
    while alive(grandchild):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_ends_although_its_command_was_killed(log: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from bgpipe.pipeline.processes import ChildProcess; "
        f"ChildProcess([sys.executable, '-c', {DRAINS!r}], {{}}, Path({str(log)!r})); time.sleep(60)"
    )
    command = subprocess.Popen([sys.executable, "-c", program])
    wait_for(log, "ready")
    command.send_signal(signal.SIGKILL)
    command.wait()
    wait_for(log, "drained")


def test_a_command_that_is_not_there_is_named(log: Path) -> None:
    with pytest.raises(Unavailable, match="/no/such"):
        ChildProcess(["/no/such"], {}, log)


SERVER = """
import sys
from collections.abc import Iterator
from pydantic import TypeAdapter
from bgpipe.pipeline.errors import StorageUnavailable
from bgpipe.pipeline.processes import serve_lines

def count(last: int) -> Iterator[int]:
    yield from range(last)
    if last > 2:
        raise StorageUnavailable("too far: 3: count less")

if __name__ == "__main__":
    sys.exit(serve_lines(TypeAdapter(int), TypeAdapter(int), count))
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that a new process can run, which counts."""
    (tmp_path / "counting.py").write_text(SERVER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "counting"


def test_a_process_answers_a_request_in_lines(module: str) -> None:
    assert list(request_lines(module, 2, TypeAdapter(int))) == [0, 1]


def test_an_error_of_the_process_follows_its_replies(
    module: str, capfd: pytest.CaptureFixture[str]
) -> None:
    replies = request_lines(module, 3, TypeAdapter(int))
    assert [next(replies) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Unavailable, match="counting ended with status 4"):
        next(replies)
    assert capfd.readouterr().err == "bgpipe: too far: 3: count less\n"


@pytest.mark.parametrize("name", ["maintenance", "dispatch", "report"])
def test_a_thread_that_is_killed_is_started_again_and_logged(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    rounds = [0]

    def run(stopped: threading.Event) -> None:
        rounds[0] += 1
        while not stopped.wait(0.02):
            pass

    with background_thread(name, run):
        for number in (1, 2):
            deadline = time.monotonic() + PATIENT
            while rounds[0] < number:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            kill_thread(name)
        time.sleep(0.2)
    assert [record.getMessage() for record in caplog.records] == ["thread failed"] * 2
