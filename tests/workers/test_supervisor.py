"""The life of worker processes: started, restarted, drained, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgpipe.config.settings import WorkerSettings, load_settings
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.queue import publish
from bgpipe.pipeline.inference.devices import WorkerDevice
from bgpipe.pipeline.types import JobId
from bgpipe.workers.lifecycle import EXIT_RESTART
from bgpipe.workers.supervisor import SIGNALS, DeviceWorker, Supervisor, make_workers

from .conftest import QUEUE, Cluster, until

CPU = ("--device", "cpu")
TROUBLED = Path(__file__).with_name("troubled_worker.py")


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def test_a_killed_worker_is_replaced(cluster: Cluster) -> None:
    with cluster.supervisor(*CPU) as supervisor:
        (first,) = children(supervisor.pid)
        os.kill(first, signal.SIGKILL)
        until(lambda: children(supervisor.pid) not in ([], [first]))
        job = cluster.submit([cluster.photo("a.jpg")])
        assert cluster.finished(job).done == 1


@pytest.mark.slow
def test_nothing_is_lost_when_a_worker_is_killed(cluster: Cluster) -> None:
    names = [cluster.photo(f"photo {i}.jpg") for i in range(40)]
    # Redelivered soon, which may also happen to what a slow machine still works on.
    quick = {"BGPIPE_QUEUE__VISIBILITY_TIMEOUT": "5", "BGPIPE_QUEUE__MAX_ATTEMPTS": "20"}
    with cluster.supervisor(*CPU, **quick) as supervisor:
        (first,) = children(supervisor.pid)
        job = cluster.submit(names)
        until(lambda: cluster.jobs.summary(job).done >= 2)
        os.kill(first, signal.SIGKILL)
        summary = cluster.finished_after_a_kill(job)
        (second,) = children(supervisor.pid)
    assert second != first
    assert (summary.done, summary.failed) == (40, 0)
    assert len(list(cluster.out.iterdir())) == 40


@pytest.mark.parametrize("end", ["signal", pytest.param("stdin", marks=pytest.mark.slow)])
def test_a_drain_finishes_what_is_in_flight_and_gives_the_rest_back(
    cluster: Cluster, end: str
) -> None:
    names = [cluster.photo(f"photo {i}.jpg") for i in range(100)]
    with cluster.supervisor(*CPU, "--lanes", "2", "--stop-with-stdin") as supervisor:
        (child,) = children(supervisor.pid)
        job = cluster.submit(names)
        until(lambda: cluster.jobs.summary(job).done >= 1)
        assert supervisor.stdin
        if end == "signal":
            supervisor.terminate()
        else:
            supervisor.stdin.close()
        assert supervisor.wait(60) == 0
    assert not alive(child)
    summary = cluster.jobs.summary(job)
    assert 1 <= summary.done < 100
    assert (summary.running, summary.failed) == (0, 0)
    assert not cluster.client.exists(keys.UNACKED)
    assert cluster.client.llen(QUEUE) == 100 - summary.done


def test_workers_do_not_outlive_a_supervisor_that_was_killed(cluster: Cluster) -> None:
    with cluster.supervisor(*CPU) as supervisor:
        (child,) = children(supervisor.pid)
        supervisor.kill()
        until(lambda: not alive(child), 30)


def test_a_stuck_image_is_given_back_when_the_worker_drains(cluster: Cluster) -> None:
    with cluster.process([TROUBLED], {"BGPIPE_WORKER__DRAIN_TIMEOUT": "1"}) as worker:
        job = cluster.submit([cluster.file("stuck.jpg", b"stuck"), cluster.file("fine.jpg", b"")])
        until(lambda: cluster.jobs.summary(job).done == 1)
        worker.terminate()
        assert worker.wait(30) == 0
    assert cluster.client.llen(QUEUE) == 1
    assert not cluster.client.exists(keys.UNACKED)
    assert not cluster.jobs.items.claims(job)
    assert cluster.jobs.items.claim(job, 0, "another").attempt == 1
    assert "image given back" in cluster.log()
    assert not any(noise in cluster.log() for noise in ("Traceback", "SecurityWarning"))


def test_a_worker_whose_device_is_lost_leaves(cluster: Cluster) -> None:
    with cluster.process([TROUBLED], {}) as worker:
        job = cluster.submit([cluster.file("lost.jpg", b"lost")])
        assert worker.wait(60) == EXIT_RESTART
    assert cluster.jobs.summary(job).failed == 0
    assert "E_DEVICE" in cluster.log()


def test_a_model_that_does_not_load_fails_no_image_and_ends_the_worker(cluster: Cluster) -> None:
    error = "CUDA error: no kernel image is available for execution on the device"
    with cluster.process([TROUBLED], {"TEST_LOAD_ERROR": error}) as worker:
        job = cluster.submit([cluster.file(f"{index}.jpg", b"") for index in range(20)])
        assert worker.wait(60) == EXIT_RESTART
    assert_untouched(cluster, job)
    with cluster.process([TROUBLED], {}):
        cluster.jobs.resume(job)
        publish(cluster.app, job, list(cluster.jobs.items.read(job, 0, 20)), QUEUE)
        assert cluster.finished(job).done == 20


def test_a_model_that_the_device_has_no_room_for_pauses_the_job(cluster: Cluster) -> None:
    error = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    with cluster.process([TROUBLED], {"TEST_LOAD_ERROR": error}):
        job = cluster.submit([cluster.file(f"{index}.jpg", b"") for index in range(20)])
        until(lambda: cluster.jobs.summary(job).paused)
        assert "does not fit into the device's memory" in cluster.jobs.summary(job).paused
        until(lambda: not cluster.client.exists(keys.UNACKED, QUEUE))
    assert_untouched(cluster, job)


def assert_untouched(cluster: Cluster, job: JobId) -> None:
    """No image is settled, and none took an attempt."""
    summary = cluster.jobs.summary(job)
    assert (summary.done, summary.failed, summary.running) == (0, 0, 0)
    assert not cluster.client.hgetall(keys.of_job(job).repeats)


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "said"),
    [
        (["--device", "cuda:7"], {}, 2, "no such device: cuda:7"),
        (CPU, {"BGPIPE_WORKER__LANES": "many"}, 2, "BGPIPE_WORKER__LANES"),
        (CPU, {"BGPIPE_ENGINE__PRECISION": "tf32"}, 2, "on a CPU: tf32: choose float32"),
        ((*CPU, "--compile"), {"CXX": "no-such-compiler"}, 2, "needs a compiler and the headers"),
        (CPU, {"BGPIPE_REDIS_URL": ""}, 2, "set BGPIPE_REDIS_URL"),
        (CPU, {"BGPIPE_REDIS_URL": "redis://127.0.0.1:9/0"}, 4, "127.0.0.1:9"),
    ],
)
def test_a_wrong_start_says_why_and_ends(
    cluster: Cluster, arguments: list[str], environment: dict[str, str], code: int, said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bgpipe.workers", *arguments],
        env=cluster.environment(environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


class Script(DeviceWorker):
    """Python code in the place of a worker; every start leaves a line in `starts`."""

    def __init__(self, name: str, code: str, starts: Path) -> None:
        super().__init__(name, WorkerDevice("cpu"))
        self.code = code
        self.starts = starts

    def _spawn(self, restarts: int) -> subprocess.Popen[bytes]:
        with self.starts.open("a") as file:
            file.write(f"started after {restarts} others\n")
        command = [sys.executable, "-c", self.code]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def count(self) -> int:
        return len(self.starts.read_text().splitlines()) if self.starts.exists() else 0


@pytest.fixture
def settings() -> WorkerSettings:
    return load_settings().worker.model_copy(update={"restart_delay": 0.01, "drain_timeout": 60})


@pytest.fixture
def _own_signals() -> Iterator[None]:
    """Gives back the handlers that a supervisor in this process takes."""
    numbers = SIGNALS
    handlers = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("_own_signals")
def test_a_worker_that_keeps_dying_is_started_again_and_again(
    tmp_path: Path, settings: WorkerSettings
) -> None:
    dying = Script("dying", "raise SystemExit(1)", tmp_path / "starts")
    supervisor = Supervisor([dying], settings)
    threading.Thread(target=lambda: (until(lambda: dying.count() >= 3), supervisor.stop())).start()
    assert supervisor.run() == 0
    assert dying.count() >= 3


@pytest.mark.usefixtures("_own_signals")
def test_a_worker_that_is_configured_wrongly_ends_all(
    tmp_path: Path, settings: WorkerSettings
) -> None:
    wrong = Script("wrong", "raise SystemExit(2)", tmp_path / "wrong")
    fine = Script("fine", "import time; time.sleep(600)", tmp_path / "fine")
    assert Supervisor([fine, wrong], settings).run() == 2
    assert (fine.count(), wrong.count()) == (1, 1)


@pytest.mark.usefixtures("_own_signals")
def test_a_second_signal_does_not_wait_for_the_drain(
    tmp_path: Path, settings: WorkerSettings
) -> None:
    deaf = Script(
        "deaf",
        "import signal, time, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"open({str(tmp_path / 'ready')!r}, 'w').close(); time.sleep(600)",
        tmp_path / "starts",
    )

    def signal_twice() -> None:
        until((tmp_path / "ready").exists)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)

    threading.Thread(target=signal_twice).start()
    start = time.monotonic()
    assert Supervisor([deaf], settings).run() == 0
    assert time.monotonic() - start < settings.drain_timeout


def test_names_tell_the_device_and_are_unique_where_supervisors_share_a_host() -> None:
    devices = [
        WorkerDevice("cuda:0", "GPU-a"),
        WorkerDevice("cuda:3", "GPU-b"),
        WorkerDevice("cpu"),
        WorkerDevice("cpu"),
    ]
    plain = [worker.name.split("@")[0] for worker in make_workers(devices, shared_host=False)]
    assert plain == ["gpu0", "gpu3", "cpu0", "cpu0-2"]
    ours, theirs = ([w.name for w in make_workers(devices, shared_host=True)] for _ in range(2))
    assert not set(ours) & set(theirs)


@pytest.mark.usefixtures("_own_signals")
def test_a_supervisor_gives_up_once_no_worker_gets_ready(
    tmp_path: Path, settings: WorkerSettings, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Script("broken", "raise SystemExit(1)", tmp_path / "broken")
    slow = Script("slow", "import time; time.sleep(0.5); raise SystemExit(1)", tmp_path / "slow")
    assert Supervisor([broken, slow], settings).run() == 4
    assert min(broken.count(), slow.count()) == slow.count() == settings.start_attempts
    assert "giving up" in caplog.text


@pytest.mark.usefixtures("_own_signals")
def test_a_device_that_is_broken_does_not_end_the_workers_of_the_others(
    tmp_path: Path, settings: WorkerSettings
) -> None:
    broken = Script("broken", "raise SystemExit(1)", tmp_path / "broken")
    fine = Script("fine", "import time; print('ready'); time.sleep(600)", tmp_path / "fine")
    supervisor = Supervisor([broken, fine], settings)
    enough = settings.start_attempts + 2
    threading.Thread(
        target=lambda: (until(lambda: broken.count() >= enough), supervisor.stop())
    ).start()
    assert supervisor.run() == 0
    assert fine.count() == 1


@pytest.mark.usefixtures("_own_signals")
def test_a_worker_that_was_ready_or_found_no_redis_is_started_for_ever(
    tmp_path: Path, settings: WorkerSettings
) -> None:
    more = settings.start_attempts + 2
    ready = Script("ready", "print('ready'); raise SystemExit(1)", tmp_path / "ready")
    away = Script("away", "raise SystemExit(4)", tmp_path / "away")
    supervisor = Supervisor([ready, away], settings)
    threading.Thread(
        target=lambda: (
            until(lambda: min(ready.count(), away.count()) >= more),
            supervisor.stop(),
        )
    ).start()
    assert supervisor.run() == 0


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGQUIT, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_signalled_worker_finishes_what_is_in_flight(
    cluster: Cluster, number: signal.Signals
) -> None:
    with cluster.process([TROUBLED], {"TEST_DECODE_SECONDS": "0.5"}) as worker:
        job = cluster.submit([cluster.file(f"{i}.jpg", b"") for i in range(100)])
        until(lambda: cluster.jobs.items.claims(job))
        worker.send_signal(number)
        assert worker.wait(30) == 0
    summary = cluster.jobs.summary(job)
    assert summary.running == 0
    assert not cluster.client.exists(keys.UNACKED)
    assert cluster.client.llen(QUEUE) == 100 - summary.done


def test_a_worker_signalled_twice_leaves_at_once(cluster: Cluster) -> None:
    with cluster.process([TROUBLED], {"BGPIPE_LIMITS__DECODE": "600"}) as worker:
        job = cluster.submit([cluster.file("stuck.jpg", b"stuck")])
        until(lambda: cluster.jobs.items.claims(job))
        worker.send_signal(signal.SIGTERM)
        until(lambda: "draining" in cluster.log())
        assert worker.poll() is None
        worker.send_signal(signal.SIGQUIT)
        assert worker.wait(5) == 128 + signal.SIGQUIT
