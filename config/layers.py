"""The sources of the settings, and the origin of each value."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
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
        """Return the place that sets the value at `path`: `bgpipe.toml:3`."""

    def spell(self, path: KeyPath) -> str:
        """Return the key in this source's notation: `BGPIPE_WORKER__LANES`."""


class TomlLayer:
    def __init__(self, file: TomlFile) -> None:
        self.name = file.name
        self.values = file.values
        self.line = file.line

    def origin(self, path: KeyPath) -> str:
        return f"{self.name}:{self.line(path)}"

    def spell(self, path: KeyPath) -> str:
        return dotted(path)


class BundledLayer(TomlLayer):
    """A file of the package."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(read_toml(path))
        self.name = name

    def origin(self, path: KeyPath) -> str:
        del path
        return self.name


class EnvironmentLayer:
    name = "environment"

    def __init__(self, settings: type[BaseSettings]) -> None:
        self.values = _EnvironmentSource(settings)()

    def origin(self, path: KeyPath) -> str:
        variables = set(map(str.upper, os.environ))
        return self.spell(_shorten_until(path, lambda path: self.spell(path) in variables))

    def spell(self, path: KeyPath) -> str:
        return PREFIX + DELIMITER.join(map(str, path)).upper()


class SecretsLayer:
    """A folder with one file per setting, named by BGPIPE_SECRETS_DIR.

    Raises:
        SettingsError: the folder does not exist or cannot be read.

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
        folder = Path(self.name)
        path = _shorten_until(path, lambda path: (folder / self.spell(path)).exists())
        return str(folder / self.spell(path))

    def spell(self, path: KeyPath) -> str:
        return DELIMITER.join(map(str, path))


def merge_layers(layers: Sequence[Layer]) -> dict[str, Any]:
    """Merge the values of all layers; earlier layers win."""
    return reduce(_merge, (layer.values for layer in reversed(layers)), {})


def find_layer(layers: Sequence[Layer], path: KeyPath) -> Layer | None:
    """Return the layer that sets the value at `path`."""
    return next((layer for layer in layers if _contains(layer.values, path)), None)


class _TextSource(EnvSettingsSource):
    """Passes text that is not JSON on, so that validation reports it like any other wrong value."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:  # noqa: ANN401  # the base class's signature
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


class _EnvironmentSource(_TextSource):
    pass


class _SecretsSource(_TextSource, NestedSecretsSettingsSource):
    pass


def _shorten_until(path: KeyPath, is_set: Callable[[KeyPath], bool]) -> KeyPath:
    """Return the innermost table around `path` that is set as a whole, or its outermost one."""
    while not is_set(path) and len(path) > 1:
        path = path[:-1]
    return path


def _merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    tables = {
        name: _merge(lower[name], value)
        for name, value in upper.items()
        if isinstance(value, dict) and isinstance(lower.get(name), dict)
    }
    return lower | upper | tables


def _contains(values: object, path: KeyPath) -> bool:
    for name in path:
        try:
            values = values[name]  # type: ignore[index]  # TypeError: not a container
        except (TypeError, LookupError):
            return False
    return True


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return "no such folder" if "does not exist" in str(error) else str(error)
