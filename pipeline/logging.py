"""Log events on stderr, a line each, as text or JSON; reports of long waits to the user."""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from bgpipe.pipeline.processes import background_thread

# bgpipe's own event per image replaces Celery's at INFO.
QUIET = ("amqp", "celery", "kombu")
MASK = "**********"
"""As pydantic's."""
_PASSWORD = re.compile(r"(://[^\s/:@'\"]*:)[^\s/'\"]+(?=@)|([?&]password=)[^\s&'\"]+")

Notify = Callable[[str], None]
"""Shows a line to the user at once."""
DELAY = 1.0
"""Seconds before a wait is reported."""
INTERVAL = 10.0
"""Seconds between two reports of one wait."""


class LogFormat(StrEnum):
    """Format of log events: text for people, JSON lines for a log store."""

    TEXT = "text"
    JSON = "json"


class EventLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose keywords are the fields of an event: `log.info("image done", key="a.jpg")`."""

    def __init__(self, module: str) -> None:
        super().__init__(logging.getLogger(module))

    def process(
        self, msg: object, kwargs: MutableMapping[str, Any]
    ) -> tuple[object, MutableMapping[str, Any]]:
        """Move the keywords to the event's `fields`; only `exc_info` stays logging's own."""
        exc_info = kwargs.pop("exc_info", None)
        return msg, {"exc_info": exc_info, "extra": {"fields": kwargs}}


class EventFormatter(logging.Formatter):
    """Format a record as `time level event field=value ...`, from the `fields` of its `extra`.

    Values with spaces become JSON. Passwords in URLs are masked, also in messages of libraries.
    """

    def __init__(self, common: Mapping[str, object]) -> None:
        """`common`: fields at the end of every line."""
        super().__init__()
        self._common = common

    def format(self, record: logging.LogRecord) -> str:
        start, fields = self._split(record)
        words = [*start.values(), *(f"{name}={_text(value)}" for name, value in fields.items())]
        line = " ".join(words)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return mask_passwords(line)

    def _split(self, record: logging.LogRecord) -> tuple[dict[str, str], dict[str, object]]:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        start = {"time": moment, "level": record.levelname.lower(), "event": record.getMessage()}
        return start, {**getattr(record, "fields", {}), **self._common}


class JsonFormatter(EventFormatter):
    """Format a record as a JSON object: time, level, event, the fields, and its traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        start, fields = self._split(record)
        values = start | fields
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return json.dumps({name: _json_value(value) for name, value in values.items()})


def log_to_stderr(
    style: LogFormat = LogFormat.TEXT, common: Mapping[str, object] | None = None
) -> None:
    """Send this process's events from INFO up, and the libraries' warnings, to stderr.

    `common`: fields at the end of every line, where several processes share a log.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(
        (JsonFormatter if style is LogFormat.JSON else EventFormatter)(common or {})
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def mask_passwords(text: str) -> str:
    """Mask the passwords of the URLs in `text`, also those in a query."""
    return _PASSWORD.sub(rf"\1\2{MASK}", text)


@contextmanager
def report_wait(notify: Notify | None, activity: str) -> Iterator[None]:
    """Pass `activity` to `notify` once the block has taken a second, then every ten with the time."""
    if notify is None:
        yield
        return

    def report(ended: threading.Event) -> None:
        if ended.wait(DELAY):
            return
        start = time.monotonic() - DELAY
        notify(f"{activity} ...")
        while not ended.wait(INTERVAL):
            notify(f"{activity} ({time.monotonic() - start:.0f} s) ...")

    with background_thread("report", report):
        yield


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return text if text.isprintable() and not set(text) & set(' "=') else json.dumps(text)


def _json_value(value: object) -> object:
    """Return a number as it is, any other value as text."""
    if isinstance(value, float):
        return round(value, 6)
    return value if isinstance(value, int | None) else mask_passwords(str(value))
