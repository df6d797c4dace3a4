"""What both kinds of process begin and end with: settings, events, exit codes."""

from __future__ import annotations

import logging
from collections.abc import Callable

from bgpipe.config.settings import LogFormat, Settings, load_settings
from bgpipe.pipeline.configuration import read_settings
from bgpipe.pipeline.errors import BgpipeError, UsageError
from bgpipe.pipeline.log import log_to_stderr

log = logging.getLogger(__name__)


def run_entry_point(work: Callable[[], int], worker: str = "") -> int:
    """What `work` returns; an error of ours becomes its event and its exit code.

    `worker` is on every line of the log: those of a machine share one.
    """
    log_to_stderr(_log_format(), {"worker": worker} if worker else {})
    try:
        return work()
    except BgpipeError as error:
        log.critical("cannot work", extra={"fields": {"error": str(error)}})
        return error.exit_code


def _log_format() -> LogFormat:
    """Settings that cannot be read are told of as text, by whoever reads them next."""
    try:
        return load_settings().log.format
    except ValueError:
        return LogFormat.TEXT


def worker_settings() -> Settings:
    """The settings of a process that works for a Redis, which it does not bring along.

    Raises:
        UsageError: a value is wrong, or there is no address.

    """
    settings = read_settings()
    if settings.embedded:
        raise UsageError("no Redis to work for: set BGPIPE_REDIS_URL")
    return settings
