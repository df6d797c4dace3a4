"""The settings, with what is wrong in them as an error of ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.config.layers import Layer
    from bgpipe.config.settings import Settings


def read_settings() -> Settings:
    """Read every source of the settings.

    Raises:
        UsageError: some are wrong; the message has a line for each.

    """
    return read_with_layers()[0]


def read_with_layers() -> tuple[Settings, Sequence[Layer]]:
    """The settings and their sources, the strongest one first. Raises as `read_settings`."""
    from bgpipe.config.problems import validated
    from bgpipe.config.settings import Settings, read_layers

    with _translated():
        layers = read_layers()
        return validated(Settings, layers), layers


@contextmanager
def _translated() -> Iterator[None]:
    from bgpipe.config.errors import SettingsError

    try:
        yield
    except SettingsError as error:
        raise UsageError(str(error)) from error
