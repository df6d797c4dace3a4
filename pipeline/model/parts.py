"""Submodules by name, with the type that they are known to have."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Submodule = TypeVar("Submodule", bound=nn.Module)


def submodule(whole: nn.Module, name: str, kind: type[Submodule]) -> Submodule:
    """The submodule of this name, which is known to be of this kind."""
    found = whole.get_submodule(name)
    if not isinstance(found, kind):
        raise TypeError(f"not a {kind.__name__}: {name} is a {type(found).__name__}")
    return found
