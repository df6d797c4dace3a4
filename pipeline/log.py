"""Events on stderr, one a line: `time level event field=value ...`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

# Celery says at INFO what our own event per image says better.
QUIET = ("amqp", "celery", "kombu")
_NOTHING: Mapping[str, object] = MappingProxyType({})


class EventFormatter(logging.Formatter):
    """Render a record and the mapping `fields` of its `extra`; values with spaces become JSON."""

    def __init__(self, common: Mapping[str, object]) -> None:
        """`common`: fields that end every line."""
        super().__init__()
        self._common = common

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: dict[str, Any] = getattr(record, "fields", {})
        words = [f"{name}={_text(value)}" for name, value in {**fields, **self._common}.items()]
        line = " ".join([moment, record.levelname.lower(), record.getMessage(), *words])
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def log_to_stderr(common: Mapping[str, object] = _NOTHING) -> None:
    """Send this process's events from INFO up, and the libraries' warnings, to stderr.

    `common`: fields that end every line, where several processes write to one place.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(EventFormatter(common))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return text if text.isprintable() and not set(text) & set(' "=') else json.dumps(text)
