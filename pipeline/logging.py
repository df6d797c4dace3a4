"""Events on stderr, one a line: as text, `time level event field=value ...`, or as JSON.

Reports to the user that something outside takes long.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from bgpipe.config.choices import LogFormat

# Celery says at INFO what our own event per image says better.
QUIET = ("amqp", "celery", "kombu")
_NOTHING: Mapping[str, object] = MappingProxyType({})
_SECRET = re.compile(r"(?<=://)([^\s/:@'\"]*):[^\s/@'\"]+@")


class EventFormatter(logging.Formatter):
    """Render a record and the mapping `fields` of its `extra`; values with spaces become JSON.

    Passwords in addresses are masked, whoever logged them.
    """

    def __init__(self, common: Mapping[str, object]) -> None:
        """`common`: fields that end every line."""
        super().__init__()
        self._common = common

    def format(self, record: logging.LogRecord) -> str:
        words = [f"{name}={_text(value)}" for name, value in self.fields(record).items()]
        line = " ".join([_moment(record), record.levelname.lower(), record.getMessage(), *words])
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return masked(line)

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """What the event is about."""
        fields: dict[str, Any] = getattr(record, "fields", {})
        return {**fields, **self._common}


class JsonFormatter(EventFormatter):
    """The same as one JSON object: time, level, event, the fields, and a traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        told = {"time": _moment(record), "level": record.levelname.lower()}
        told |= {"event": record.getMessage()} | self.fields(record)
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps({name: _plain(value) for name, value in told.items()})


def log_to_stderr(
    style: LogFormat = LogFormat.TEXT, common: Mapping[str, object] = _NOTHING
) -> None:
    """Send this process's events from INFO up, and the libraries' warnings, to stderr.

    `common`: fields that end every line, where several processes write to one place.
    """
    handler = logging.StreamHandler()
    handler.setFormatter((JsonFormatter if style is LogFormat.JSON else EventFormatter)(common))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def masked(text: str) -> str:
    """`text` without the passwords of the addresses in it."""
    return _SECRET.sub(r"\1:***@", text)


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return text if text.isprintable() and not set(text) & set(' "=') else json.dumps(text)


def _plain(value: object) -> object:
    """`value` as JSON has it; what JSON does not know becomes its text."""
    if isinstance(value, float):
        return round(value, 6)
    return value if isinstance(value, int | None) else masked(str(value))


Notify = Callable[[str], None]
"""Shows a line to the user, now."""

DELAY = 1.0
"""Seconds before a wait is reported."""
INTERVAL = 10.0
"""Seconds between two reports of one wait."""


@contextmanager
def report_wait(notify: Notify | None, activity: str) -> Iterator[None]:
    """Pass `activity` to `notify` once the block has taken a second, then every ten with the time."""
    if notify is None:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_report, args=(notify, activity, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _report(notify: Notify, activity: str, ended: threading.Event) -> None:
    if ended.wait(DELAY):
        return
    start = time.monotonic() - DELAY
    notify(f"{activity} ...")
    while not ended.wait(INTERVAL):
        notify(f"{activity} ({time.monotonic() - start:.0f} s) ...")
