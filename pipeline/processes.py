"""A process that lives no longer than the one that started it.

A process that may import torch: asked once on its stdin, it answers a line at a time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar, cast

from bgpipe.pipeline.errors import BgpipeError, Unavailable

if TYPE_CHECKING:
    from pydantic import TypeAdapter

TERM_GRACE = 5.0
LINES = 8
"""Lines of a log that are shown."""


class ChildProcess:
    """A command whose standard input is a pipe of ours, which tells it when we are gone.

    It runs in a session of its own, so that Ctrl-C reaches us alone. It writes to the end of `log`
    and keeps the `inherited` descriptors.

    Raises:
        Unavailable: the command or its log cannot be opened.

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
                self._process = subprocess.Popen(  # noqa: S603  # the caller's words, no shell
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

    def check(self) -> None:
        """Do nothing while it runs.

        Raises:
            Unavailable: it has ended; the message holds what it wrote last.

        """
        status = self._process.poll()
        if status is not None:
            said = last_lines(self._log, self._log_start)
            raise Unavailable(f"the worker ended with status {status}: see {self._log}\n{said}")

    def release(self) -> None:
        """Close its standard input and let it end when it is done; `end` then does not wait."""
        self._released = True
        if self._process.stdin:
            self._process.stdin.close()

    def stop(self, patience: float, grace: float = TERM_GRACE) -> None:
        """Close its standard input and wait for it to end.

        After `patience` seconds it gets TERM, after `grace` more KILL.
        """
        if self._released:
            return
        if self._process.stdin:
            self._process.stdin.close()
        if not self._ends_within(patience):
            self._process.terminate()
            self._ends_within(grace)
        if self._process.poll() != 0:
            self._kill_session()

    def _ends_within(self, seconds: float) -> bool:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _kill_session(self) -> None:
        """Also what it started itself and left behind."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def last_lines(log: Path, start: int = 0) -> str:
    """The last lines of what `log` holds from byte `start` on."""
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode("utf-8", "replace").splitlines()
    return "\n".join(lines[-LINES:])


Answer = TypeVar("Answer")


def request_lines(module: str, order: object, line: TypeAdapter[Answer]) -> Iterator[Answer]:
    """What `python -m module` answers to `order`, each a JSON line of the type that `line` reads.

    Raises:
        Unavailable: it ends with an error, which it has told on stderr.

    """
    from pydantic import TypeAdapter

    with subprocess.Popen(  # noqa: S603  # our own modules
        [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        to, answers = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
        with to:
            to.write(TypeAdapter(type(order)).dump_json(order))
        yield from map(line.validate_json, answers)
    if process.returncode:
        raise Unavailable(f"{module} ended with status {process.returncode}")


Request = TypeVar("Request")


def serve_lines(
    request: TypeAdapter[Request],
    response: TypeAdapter[Answer],
    handle: Callable[[Request], Iterable[Answer]],
) -> int:
    """Read a request on stdin and write its responses as JSON lines. Returns the exit code."""
    try:
        for line in handle(request.validate_json(sys.stdin.buffer.read())):
            sys.stdout.buffer.write(response.dump_json(line) + b"\n")
            sys.stdout.buffer.flush()
    except BgpipeError as error:
        sys.stderr.write(f"bgpipe: {error}\n")
        return error.exit_code
    return 0
