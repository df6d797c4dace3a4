"""What a deployment may refer to: the command line, the settings, the exit of a drain, as the code has them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Any, get_args

from pydantic import BaseModel

from bgpipe.config.settings import Settings, load_settings
from bgpipe.pipeline.cli.app import command_tree
from bgpipe.workers.lifecycle import GRACE

OUTSIDE = {"BGPIPE_CONFIG", "BGPIPE_SECRETS_DIR"}
"""Variables that are no settings."""


def command_problems(words: Sequence[str]) -> Iterator[str]:
    """What the real command tree says to `bgpipe WORDS`."""
    try:
        _parse(_tree(), words)
    except Exception as error:
        if not hasattr(
            error, "format_message"
        ):  # as click's errors have, and Typer's copies of them
            raise
        yield f"bgpipe {shlex.join(words)}: {error.format_message()}"


def variable_problems(environment: Mapping[str, object]) -> Iterator[str]:
    """The BGPIPE_* names that are no settings."""
    for name in environment:
        if name.startswith("BGPIPE_") and name not in OUTSIDE and not _is_setting(name):
            yield f"no such setting: {name}"


def drain_seconds() -> float:
    """The longest that `bgpipe worker` takes to leave after TERM."""
    return load_settings().worker.drain_timeout + GRACE


@cache
def _tree() -> Any:
    return command_tree()


def _parse(command: Any, words: Sequence[str], parent: Any = None) -> None:
    context = command.make_context(command.name, list(words), parent=parent)
    if hasattr(command, "resolve_command"):
        rest = [*getattr(context, "_protected_args", []), *context.args]
        if not rest:
            return
        _, chosen, rest = command.resolve_command(context, rest)
        _parse(chosen, rest, context)


def _is_setting(name: str) -> bool:
    model: Any = Settings
    for part in name.removeprefix("BGPIPE_").lower().split("__"):
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return False
        if part not in model.model_fields:
            return False
        model = _model_of(model.model_fields[part].annotation)
    return True


def _model_of(annotation: Any) -> Any:
    if isinstance(annotation, UnionType):
        return next(iter(get_args(annotation)))
    return annotation
