"""The sources of the settings, and the place of each value in them."""

import json
import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource, NestedSecretsSettingsSource

from bgpipe.pipeline.errors import UsageError

PREFIX = "BGPIPE_"
DELIMITER = "__"

KeyPath = tuple[str | int, ...]
"""Names of tables and key, and indexes of lists: `("worker", "places", 0)`."""

_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_BARE = re.compile(r"[A-Za-z0-9_-]+")


class SettingsError(UsageError):
    """The settings are invalid; the text has one line per problem, `origin: reason`."""


class TomlLayer:
    """A TOML file, with the line of every key, which `tomllib` does not report.

    `bundled_name` is the origin of all values of a file of the package.

    Raises SettingsError if the file is unreadable or not valid TOML.
    """

    def __init__(self, path: Path, bundled_name: str = "") -> None:
        self.name = bundled_name or str(path)
        self.is_bundled = bool(bundled_name)
        try:
            self._text = path.read_text(encoding="utf-8")
            self.values = tomllib.loads(self._text)
        except OSError as error:
            raise SettingsError(f"{path}: {(error.strerror or str(error)).lower()}") from error
        except UnicodeDecodeError as error:
            raise SettingsError(f"{path}: not UTF-8") from error
        except tomllib.TOMLDecodeError as error:
            position = _POSITION.search(str(error))
            line = (position and position[1]) or len(self._text.splitlines()) or 1
            reason = _POSITION.sub("", str(error))
            reason = f"not valid TOML: {reason[:1].lower()}{reason[1:]}"
            raise SettingsError(f"{path}:{line}: {reason}") from error

    @cached_property
    def lines(self) -> dict[KeyPath, int]:
        """Line of each key, from 1; a table's is that of its header.

        Blocks of the text grow by a line at a time: where one parses, a statement has ended, and its
        new keys are in the lines since the last end. A table begins a new block, until the first
        [[table]]: from there on the block keeps growing, so that such tables are counted.
        """
        lines: dict[KeyPath, int] = {}
        block, start = "", 1
        for number, line in enumerate(self._text.split("\n"), 1):
            if number == start and line.lstrip().startswith("[") and "[[" not in block:
                block = ""
            block += f"{line}\n"
            with suppress(tomllib.TOMLDecodeError):
                for path in _walk(tomllib.loads(block)):
                    lines.setdefault(path, start)
                start = number + 1
        return lines

    def line(self, path: KeyPath) -> int:
        """Return the line of `path`, or of the innermost known table around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def origin(self, path: KeyPath) -> str:
        """Return the place that sets the value at `path`: `bgpipe.toml:3`."""
        return self.name if self.is_bundled else f"{self.name}:{self.line(path)}"

    def spell(self, path: KeyPath) -> str:
        """Return the key in this source's notation: `BGPIPE_WORKER__LANES`."""
        return dotted(path)


class EnvironmentLayer:
    """The variables with PREFIX."""

    is_bundled = False

    def __init__(self, settings: type[Any]) -> None:
        self.name = "environment"
        self.values = _TextSource(settings, env_prefix=PREFIX, env_nested_delimiter=DELIMITER)()
        self._names = set(map(str.upper, os.environ))

    def origin(self, path: KeyPath) -> str:
        # A table may be set as a whole.
        while len(path) > 1 and self.spell(path) not in self._names:
            path = path[:-1]
        return self.spell(path)

    def spell(self, path: KeyPath) -> str:
        return PREFIX + DELIMITER.join(map(str, path)).upper()


class SecretsLayer(EnvironmentLayer):
    """A folder with one file per setting, named by BGPIPE_SECRETS_DIR.

    Raises SettingsError if the folder does not exist or cannot be read.
    """

    def __init__(self, settings: type[Any], folder: Path) -> None:
        self.name = str(folder)
        try:
            self.values = _SecretsSource(
                settings,  # type: ignore[arg-type]  # the class serves as well
                secrets_dir=folder,
                # Without its secrets a process of a cluster would start an embedded server instead.
                secrets_dir_missing="error",
                secrets_prefix="",
                secrets_nested_delimiter=DELIMITER,
            )()
            self._names = {file.name for file in folder.iterdir()}
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            reason = "no such folder" if "does not exist" in reason else reason.lower()
            raise SettingsError(f"{PREFIX}SECRETS_DIR: {reason}: {folder}") from error

    def origin(self, path: KeyPath) -> str:
        return f"{self.name}/{super().origin(path)}"

    def spell(self, path: KeyPath) -> str:
        return DELIMITER.join(map(str, path))


Layer = TomlLayer | EnvironmentLayer
"""One source of settings."""


class _TextSource(EnvSettingsSource):
    """Passes text that is not JSON on, so that validation reports it like any other wrong value."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:  # noqa: ANN401  # the base class's signature
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


class _SecretsSource(_TextSource, NestedSecretsSettingsSource):
    pass


def merge_layers(layers: Sequence[Layer]) -> dict[str, Any]:
    """Merge the values of all layers; earlier layers win."""
    return reduce(_merge, (layer.values for layer in reversed(layers)), {})


def _merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    tables = {
        name: _merge(lower[name], value)
        for name, value in upper.items()
        if isinstance(value, dict) and isinstance(lower.get(name), dict)
    }
    return lower | upper | tables


def find_layer(layers: Sequence[Layer], path: KeyPath) -> Layer | None:
    for layer in layers:
        values: Any = layer.values
        try:
            for name in path:
                values = values[name]
        except (TypeError, LookupError):  # TypeError: not a container
            continue
        return layer
    return None


def dotted(path: KeyPath) -> str:
    """Return the key in TOML's notation: `sweeps.shop.include[0]`."""

    def part(name: str | int) -> str:
        if isinstance(name, int):
            return f"[{name}]"
        return f".{name if _BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)}"

    return "".join(map(part, path)).removeprefix(".")


def _walk(value: object, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the path of every key of `value`, tables before their keys."""
    if path:
        yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _walk(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _walk(inner, (*path, index))
