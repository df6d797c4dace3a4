"""The sources of the settings, and where each value comes from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Protocol

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, NestedSecretsSettingsSource

from bgpipe.config.toml_file import KeyPath, SettingsError, TomlFile, dotted, read_toml

PREFIX = "BGPIPE_"
DELIMITER = "__"


class Layer(Protocol):
    """One source of settings."""

    name: str
    values: dict[str, Any]

    def origin(self, path: KeyPath) -> str:
        """Where the value at `path` is set."""

    def spell(self, path: KeyPath) -> str:
        """How this source writes the key."""


class TomlLayer:
    def __init__(self, file: TomlFile) -> None:
        self.name = file.name
        self.values = file.values
        self._file = file

    def origin(self, path: KeyPath) -> str:
        return f"{self.name}:{self.line(path)}"

    def line(self, path: KeyPath) -> int:
        return self._file.line(path)

    def spell(self, path: KeyPath) -> str:
        return dotted(path)


class Bundled(TomlLayer):
    """A file of the package."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(read_toml(path))
        self.name = name

    def origin(self, path: KeyPath) -> str:
        del path
        return self.name


class Environment:
    name = "environment"

    def __init__(self, settings: type[BaseSettings]) -> None:
        self.values = _EnvironmentSource(settings)()

    def origin(self, path: KeyPath) -> str:
        while self.spell(path) not in map(str.upper, os.environ) and len(path) > 1:
            path = path[:-1]
        return self.spell(path)

    def spell(self, path: KeyPath) -> str:
        return PREFIX + DELIMITER.join(map(str, path)).upper()


class SecretFiles:
    """The files of the folder that BGPIPE_SECRETS_DIR names.

    Raises:
        SettingsError: there is no such folder, or it cannot be read.

    """

    def __init__(self, settings: type[BaseSettings], folder: Path) -> None:
        self.name = str(folder)
        try:
            self.values = _SecretsSource(
                settings,  # type: ignore[arg-type]  # the class serves as well
                secrets_dir=folder,
                # Without its secrets a process of a cluster would start an embedded server instead.
                secrets_dir_missing="error",
                secrets_prefix="",
            )()
        except (OSError, ValueError) as error:
            raise SettingsError([f"{PREFIX}SECRETS_DIR: {_reason(error)}: {folder}"]) from error

    def origin(self, path: KeyPath) -> str:
        file = Path(self.name, self.spell(path))
        while not file.exists() and len(path) > 1:
            path = path[:-1]
            file = Path(self.name, self.spell(path))
        return str(file)

    def spell(self, path: KeyPath) -> str:
        return DELIMITER.join(map(str, path))


def merged(layers: Sequence[Layer]) -> dict[str, Any]:
    """The values of all layers; the first ones win."""
    return reduce(_over, (layer.values for layer in reversed(layers)), {})


def source_of(layers: Sequence[Layer], path: KeyPath) -> Layer | None:
    """The layer that sets the value at `path`."""
    return next((layer for layer in layers if _holds(layer.values, path)), None)


class _Undecoded(EnvSettingsSource):
    """Leaves text that is not JSON as it is: validation reports it like every other wrong value."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:  # noqa: ANN401  # the base class says so
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


class _EnvironmentSource(_Undecoded):
    pass


class _SecretsSource(_Undecoded, NestedSecretsSettingsSource):
    pass


def _over(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    both = {
        name: _over(lower[name], value)
        for name, value in upper.items()
        if isinstance(value, dict) and isinstance(lower.get(name), dict)
    }
    return lower | upper | both


def _holds(values: object, path: KeyPath) -> bool:
    for name in path:
        try:
            values = values[name]  # type: ignore[index]  # what has no items raises TypeError
        except (TypeError, LookupError):
            return False
    return True


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return "no such folder" if "does not exist" in str(error) else str(error)
