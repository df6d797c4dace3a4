"""A process that may import torch: asked once on its stdin, it answers a line at a time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, TypeVar, cast

from bgpipe.pipeline.errors import Unavailable

if TYPE_CHECKING:
    from pydantic import TypeAdapter

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
