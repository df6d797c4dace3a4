"""Log events: a line each, as text or JSON, without passwords."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from bgpipe.pipeline.logging import MASK, EventFormatter, JsonFormatter, LogFormat, mask_passwords

SECRET = "s3cr?t"
PROGRAM = """
import logging
from bgpipe.pipeline.logging import LogFormat, log_to_stderr
log_to_stderr(LogFormat({style!r}), {{"worker": "gpu0@host"}})
logging.getLogger("bgpipe").info(
    "image done", extra={{"fields": {{"key": "a b.jpg", "code": None, "seconds": 0.25}}}})
try:
    raise ValueError("redis://me:{secret}@host:1/0 is away")
except ValueError:
    logging.getLogger("library").exception("lost rediss://:{secret}@host")
"""


def log_lines(style: LogFormat) -> list[str]:
    """Return the lines that a process with this format writes to stderr."""
    program = PROGRAM.format(style=str(style), secret=SECRET)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stderr.splitlines()


def test_text_is_a_line_of_fields_for_each_event() -> None:
    first = log_lines(LogFormat.TEXT)[0]
    assert first.endswith('info image done key="a b.jpg" code=- seconds=0.250 worker=gpu0@host')


def test_json_is_an_object_for_each_event_with_numbers_as_numbers() -> None:
    done, lost = (json.loads(line) for line in log_lines(LogFormat.JSON))
    assert done.pop("time").endswith("+00:00")
    assert done == {
        "level": "info",
        "event": "image done",
        "key": "a b.jpg",
        "code": None,
        "seconds": 0.25,
        "worker": "gpu0@host",
    }
    assert lost["level"] == "error"
    assert "ValueError" in lost["traceback"]


@pytest.mark.parametrize("style", LogFormat)
def test_no_format_shows_a_password_even_in_a_traceback(style: LogFormat) -> None:
    lines = "\n".join(log_lines(style))
    assert SECRET not in lines
    assert f"redis://me:{MASK}@host:1/0" in lines
    assert f"rediss://:{MASK}@host" in lines


@pytest.mark.parametrize("kind", [EventFormatter, JsonFormatter])
def test_fields_are_masked_too(kind: type[EventFormatter]) -> None:
    record = logging.LogRecord("n", logging.INFO, "f", 1, "waiting", (), None)
    record.fields = {"url": f"https://user:{SECRET}@hub/x"}
    assert f"https://user:{MASK}@hub/x" in kind({}).format(record)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://user:hunter2@h:1/2", f"redis://user:{MASK}@h:1/2"),
        ("rediss://:hunter2@x@h", f"rediss://:{MASK}@h"),
        (
            "unix:///run/redis.sock?db=1&password=hunter2",
            f"unix:///run/redis.sock?db=1&password={MASK}",
        ),
        (
            "lost 'rediss://h?password=hunter2&db=1' and \"redis://h?db=1&password=hunter2\"",
            f"lost 'rediss://h?password={MASK}&db=1' and \"redis://h?db=1&password={MASK}\"",
        ),
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("s3://bucket/a:b@c", "s3://bucket/a:b@c"),
    ],
)
def test_a_password_is_masked_wherever_an_address_has_it(text: str, shown: str) -> None:
    assert mask_passwords(text) == shown


def test_addresses_without_a_password_stay_as_they_are() -> None:
    for text in ("redis://host:6379/0", "s3://bucket/a@b:c", "at 10:30: me@host"):
        assert mask_passwords(text) == text
