"""The command line, its exit codes, the codes of errors, and the settings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from bgpipe.config.settings import Settings
from bgpipe.pipeline.cli.app import command_tree
from bgpipe.pipeline.errors import (
    BgpipeError,
    Code,
    ModelUnavailable,
    NoImages,
    PermanentError,
    RedisUnavailable,
    StorageUnavailable,
    StoreCorrupted,
    TransientError,
    UsageError,
)
from bgpipe.pipeline.types import JobState, ReviewFlag

from .snapshot import assert_frozen

EXIT_CODES = {
    "wrong command": UsageError,
    "no images": NoImages,
    "no Redis": RedisUnavailable,
    "damaged records": StoreCorrupted,
    "no storage": StorageUnavailable,
    "no model": ModelUnavailable,
    "image failed, for now": TransientError,
    "image failed": PermanentError,
}
WORDS = {"description", "title"}


def test_commands_and_options() -> None:
    assert_frozen("commands", dict(commands(command_tree(), "bgpipe")))


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, [parameter(each) for each in command.params]
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        yield from commands(inner, f"{path} {name}")


def parameter(each: Any) -> dict[str, Any]:
    is_option = each.param_type_name == "option"
    shown = {
        "names": [*each.opts, *each.secondary_opts] if is_option else [],
        "metavar": each.metavar,
        "default": value(each.default),
        "required": each.required,
        "nargs": each.nargs,
        "flag": is_option and each.is_flag,
        "multiple": is_option and each.multiple,
        "hidden": is_option and each.hidden,
        "environment": each.envvar,
    }
    return {name: one for name, one in shown.items() if one not in (None, [], False)}


def value(default: Any) -> Any:
    """As JSON has it; what typer fills in for lack of a default is none."""
    if isinstance(default, Enum):
        return default.value
    if isinstance(default, list | tuple):
        return [value(each) for each in default]
    if isinstance(default, Path):
        return str(default)
    return default if isinstance(default, str | int | float | None) else None


def test_exit_codes() -> None:
    assert_frozen("exit_codes", {name: error.exit_code for name, error in EXIT_CODES.items()})
    assert {error.exit_code for error in subclasses(BgpipeError)} == {1, 2, 3, 4}


def subclasses(kind: type[BgpipeError]) -> Iterator[type[BgpipeError]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from subclasses(inner)


def test_codes_flags_and_states() -> None:
    """The order of the flags counts: in Redis each is a bit."""
    values = {"codes": sorted(Code), "flags": list(ReviewFlag), "states": sorted(JobState)}
    assert_frozen("values", values)


def test_settings_and_their_defaults(settings: Settings) -> None:
    assert_frozen("settings", dict(sorted(flat(settings.model_dump(mode="json"), ()))))


def flat(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if not isinstance(node, dict) or not node:
        yield ".".join(path), node
        return
    for name, inner in node.items():
        yield from flat(inner, (*path, name))


def test_what_settings_may_be() -> None:
    """Types and ranges, also of the fields of sweeps and presets."""
    schema = Settings.model_json_schema()
    whole = plain(schema, schema.pop("$defs"))
    assert not re.search("[$]ref", str(whole))
    assert_frozen("settings_schema", whole)


def plain(node: Any, kinds: dict[str, Any], *, names: bool = False) -> Any:
    """`node` without words, and with the kinds in place of their names; `names`: keys are fields."""
    if isinstance(node, list):
        return [plain(each, kinds) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        rest = {key: each for key, each in node.items() if key != "$ref"}
        return plain(kinds[node["$ref"].removeprefix("#/$defs/")] | rest, kinds)
    return {
        key: plain(each, kinds, names=key == "properties" and not names)
        for key, each in node.items()
        if names or key not in WORDS
    }
