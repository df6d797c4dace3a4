"""Each Redis command of each process meets each fault once: what its user sees.

    REWRITE_SNAPSHOTS=1 python -m pytest tests/e2e/test_redis_fault_table.py --slow

writes tests/e2e/redis_faults.md anew. A process is the real one where it has a process of its own to lose, the
worker; submitter and dispatcher run in threads, with sessions as their commands open.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import pytest

from bgpipe.config.settings import Settings, load_settings
from bgpipe.pipeline.errors import BgpipeError, UsageError
from bgpipe.pipeline.scheduling.dispatcher import Dispatcher, JobController, make_feeder
from bgpipe.pipeline.scheduling.submission import open_job
from bgpipe.pipeline.session import Session, open_session
from bgpipe.pipeline.types import Item, Job, JobId, JobState, Preset, Recipe

from ..chaos.conftest import TROUBLED, fragile
from ..support.redis_proxy import FAULTS, RedisProxy, applies, running_redis_proxy
from ..support.source_tree import ROOT
from ..workers.conftest import Cluster, _show_log, model

__all__ = ["_show_log", "fragile", "model"]

PAGE = ROOT / "tests/e2e/redis_faults.md"
REWRITE = os.environ.get("REWRITE_SNAPSHOTS") == "1"
NAMES = ("a.jpg", "b.jpg", "c.jpg")
PAUSE = 0.25
"""Seconds between faults: Celery logs a traceback of five reconnections in a second."""
SECONDS = 60.0
"""A job that takes longer hangs."""
RECIPE = Recipe("none", "0" * 64, (64, 64), Preset())
WORKER = {"BGPIPE_QUEUE__VISIBILITY_TIMEOUT": "3", "BGPIPE_WORKER__RESTART_DELAY": "0.1"}
NOTHING = "nothing"
ROLES = ("submit", "dispatch", "worker")

pytestmark = [
    pytest.mark.slow,
    # A connection that arrives as the proxy stops is left to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@dataclass
class Case:
    """A cluster in which one process reaches Redis through `proxy`."""

    cluster: Cluster
    proxy: RedisProxy
    role: str
    jobs: int = 0
    dispatcher_error: list[BaseException] = field(default_factory=list)

    def observe(self, command: str, fault: str) -> str:
        """Run a job whose next `command` meets `fault`; return what the user sees."""
        time.sleep(PAUSE)
        log = len(self.cluster.log())
        self.proxy.plan.answer(command, fault, 1)
        try:
            self.run_job()
        except BgpipeError as error:
            return f"exit code {error.exit_code}: {_first_words(str(error))}"
        except Exception as error:  # a traceback is what the user sees
            return f"a traceback: {type(error).__name__}"
        finally:
            self.proxy.plan.pass_all()
            self.end_jobs()
        if self.dispatcher_error:
            return f"the dispatcher ends: {type(self.dispatcher_error.pop()).__name__}"
        new = self.cluster.log()[log:]
        if "worker ended" in new:
            return "the worker process ends and is restarted"
        return "a traceback in the log" if "Traceback" in new else NOTHING

    def run_job(self) -> None:
        """Submit, and lead the job where the submitter is what is tested."""
        self.jobs += 1
        for path in self.cluster.out.iterdir():
            path.unlink()
        url = self.proxy.url if self.role == "submit" else self.cluster.url
        with open_session(settings(url)) as session:
            job = self.open_job(session)
            deadline = time.monotonic() + SECONDS
            controller = JobController(make_feeder(session), session.job_lease(job), job)
            while session.jobs.summary(job).state is not JobState.FINISHED:
                assert time.monotonic() < deadline, "the job hangs"
                if self.role != "dispatch":
                    controller.step(controller.feeder.capacity())
                time.sleep(0.05)
            controller.release()
        assert self.cluster.jobs.summary(job).done == len(NAMES)

    def end_jobs(self) -> None:
        """Whatever became of the last one, the next job has the folder to itself."""
        for job in self.cluster.jobs.ids():
            with suppress(UsageError):  # it has finished
                self.cluster.jobs.cancel(job)
            self.cluster.jobs.forget(job)

    def open_job(self, session: Session) -> JobId:
        job = JobId(f"{self.role}-{self.jobs}")
        items = [Item(i, name, f"{name}.png", f"id-{i}") for i, name in enumerate(NAMES)]
        source, out = str(self.cluster.source), str(self.cluster.out)
        lease = open_job(session, Job(job, source, out, RECIPE, time.time()))
        token = lease.acquire()
        session.jobs.relist(job, token)
        session.jobs.add(job, items, token)
        session.jobs.start(job, token)
        lease.release()
        return job

    @contextmanager
    def dispatcher(self) -> Iterator[None]:
        stopped = threading.Event()

        def run() -> None:
            while not stopped.is_set():  # as a service manager would
                try:
                    with open_session(settings(self.proxy.url)) as session:
                        Dispatcher(session, make_feeder(session)).run(stopped, lambda: None)
                except Exception as error:  # whatever ends the process
                    self.dispatcher_error.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()


def settings(url: str) -> Settings:
    defaults = load_settings()
    dispatch = defaults.dispatch.model_copy(update={"poll": 0.1, "lease": 2.0})
    queue = defaults.queue.model_copy(update={"visibility_timeout": 3})
    return defaults.model_copy(update={"redis_url": url, "dispatch": dispatch, "queue": queue})


@contextmanager
def case(cluster: Cluster, role: str) -> Iterator[Case]:
    with ExitStack() as stack:
        proxy = stack.enter_context(running_redis_proxy(cluster.url))
        case = Case(cluster, proxy, role)
        for name in NAMES:
            cluster.file(name, b"plain")
        of_worker = {"BGPIPE_REDIS_URL": proxy.url} if role == "worker" else {}
        stack.enter_context(cluster.process([TROUBLED, "--supervised"], WORKER | of_worker))
        if role == "dispatch":
            stack.enter_context(case.dispatcher())
        case.run_job()
        yield case


@pytest.mark.parametrize("role", ROLES)
def test_what_users_see_of_a_fault_is_what_the_table_says(fragile: Cluster, role: str) -> None:
    with case(fragile, role) as tried:
        tried.proxy.plan.met.clear()
        tried.run_job()
        commands = sorted({command for command, _ in tried.proxy.plan.met})
        seen: dict[tuple[str, str], list[str]] = defaultdict(list)
        for fault in FAULTS:
            for command in commands:
                if applies(fault, command):
                    seen[fault, tried.observe(command, fault)].append(f"`{command}`")
    faults: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (fault, outcome), them in seen.items():
        faults[", ".join(them), outcome].append(fault)
    rows = [
        f"| {', '.join(alike)} | {them} | {outcome} |" for (them, outcome), alike in faults.items()
    ]
    section = "\n".join(rows) + "\n"
    print(section)
    if REWRITE:
        _rewrite(role, section)
    assert _section(role) == section


def _first_words(message: str) -> str:
    """Return the message up to its address, which differs in each run."""
    return re.split(r": redis://", message)[0]


def _section(role: str) -> str:
    found = _table(role).search(PAGE.read_text(encoding="utf-8"))
    assert found, f"no table of {role}: {PAGE}"
    return found[2]


def _rewrite(role: str, section: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_table(role).sub(lambda found: found[1] + section, text), encoding="utf-8")


def _table(role: str) -> re.Pattern[str]:
    head = rf"(## `bgpipe {role}`\n\n.*?\n\|---\|---\|---\|\n)"
    return re.compile(head + r"((?:\|[^\n]*\n)*)", re.DOTALL)
