"""Child processes that end with their parent, also one that answers in JSON lines; background threads."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar, cast

from bgpipe.pipeline.errors import BgpipeError, Unavailable

if TYPE_CHECKING:
    from pydantic import TypeAdapter

TERM_GRACE = 5.0
LAST_LINES = 8
"""Lines of a log in an error message."""

RESTART_PAUSE = 1.0
"""Seconds before a thread that failed is started again."""

log = logging.getLogger(__name__)

Request = TypeVar("Request")
Reply = TypeVar("Reply")
Result = TypeVar("Result")


@contextmanager
def background_thread(name: str, run: Callable[[threading.Event], None]) -> Iterator[None]:
    """Call `run` in a supervised thread; set its event and wait for it at the end of the block."""
    stopped = threading.Event()
    thread = start_supervised(name, run, stopped)
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def start_supervised(
    name: str, run: Callable[[threading.Event], None], stopped: threading.Event
) -> threading.Thread:
    """Call `run` in a daemon thread, and again whenever it raises, until `stopped` is set.

    The process depends on such a thread, which must not end unseen: each failure is logged.
    """

    def supervise() -> None:
        while not stopped.is_set():
            try:
                run(stopped)
                break
            except BaseException:  # of any kind: the process goes on without this thread
                fields = {"thread": name, "again_in": RESTART_PAUSE}
                log.critical("thread failed", exc_info=True, extra={"fields": fields})
                stopped.wait(RESTART_PAUSE)

    thread = threading.Thread(target=supervise, name=name, daemon=True)
    thread.start()
    return thread


def start_daemon(name: str, work: Callable[[], Result]) -> tuple[threading.Thread, Future[Result]]:
    """Run `work` in a thread, which may be abandoned if it is stuck; return the thread and the result."""
    result: Future[Result] = Future()

    def fulfill() -> None:
        try:
            result.set_result(work())
        except BaseException as error:  # raised again where the result is read
            result.set_exception(error)

    thread = threading.Thread(target=fulfill, name=name, daemon=True)
    thread.start()
    return thread, result


class ChildProcess:
    """A command that reads a pipe from this process, whose end signals that the parent is gone.

    It has a session of its own, so that Ctrl-C reaches only the parent. It appends to `log` and keeps
    the `inherited` descriptors. Raises Unavailable if the command or its log cannot be opened.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        inherited: Sequence[int] = (),
    ) -> None:
        self._log = log
        self._released = False
        try:
            with log.open("ab") as output:
                self._log_start = output.tell()
                self._process = subprocess.Popen(  # noqa: S603  # the caller's command, no shell
                    command,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment},
                    start_new_session=True,
                    pass_fds=inherited,
                )
        except OSError as error:
            raise Unavailable(f"cannot be started: {command[0]}: {error}") from error
        self._stdin = cast("IO[bytes]", self._process.stdin)

    def check(self) -> None:
        """Raise Unavailable with the last lines of its log if the process has ended."""
        if (status := self._process.poll()) is not None:
            lines = last_lines(self._log, self._log_start)
            raise Unavailable(f"the worker ended with status {status}: see {self._log}\n{lines}")

    def release(self) -> None:
        """Close its standard input and let it finish; `stop` then does not wait."""
        self._released = True
        self._stdin.close()

    def stop(self, timeout: float, grace: float = TERM_GRACE) -> None:
        """Close its standard input and wait for its end.

        It gets TERM after `timeout` seconds and KILL after `grace` more. If it fails, the processes
        that it started are killed too.
        """
        if self._released:
            return
        self._stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
        if self._process.poll() != 0:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def last_lines(log: Path, start: int = 0) -> str:
    """Return the last lines of `log` after byte `start`."""
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode("utf-8", "replace").splitlines()
    return "\n".join(lines[-LAST_LINES:])


def request_lines(module: str, request: object, reply: TypeAdapter[Reply]) -> Iterator[Reply]:
    """Send `request` to `python -m module`, which calls `serve_lines`, and yield its replies.

    Raises Unavailable if the process failed; it has written its error to stderr.
    """
    from pydantic import TypeAdapter  # command-line help needs this module, but not pydantic

    with subprocess.Popen(  # noqa: S603  # bgpipe's own modules
        [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        stdin, stdout = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
        with stdin:
            stdin.write(TypeAdapter(type(request)).dump_json(request))
        yield from map(reply.validate_json, stdout)
    if process.returncode:
        raise Unavailable(f"{module} ended with status {process.returncode}")


def serve_lines(
    request: TypeAdapter[Request],
    reply: TypeAdapter[Reply],
    answer: Callable[[Request], Iterable[Reply]],
) -> int:
    """Answer the request on stdin with a JSON line on stdout for each reply, at once.

    Returns the exit status; an error is written to stderr.
    """
    try:
        for value in answer(request.validate_json(sys.stdin.buffer.read())):
            sys.stdout.buffer.write(reply.dump_json(value) + b"\n")
            sys.stdout.buffer.flush()
    except BgpipeError as error:
        sys.stderr.write(f"bgpipe: {error}\n")
        return error.exit_code
    return 0
