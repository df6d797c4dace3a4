"""Removes the backgrounds of photos: `remove` for one, `bgpipe submit` for very many.

Each name is imported at its first use: `import bgpipe` stays light for the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["BackgroundRemover", "__version__", "remove"]

if TYPE_CHECKING:
    from bgpipe.pipeline.api.remover import BackgroundRemover, remove

    __version__: str
else:  # unseen by type checkers, for which every name would exist

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            return version(__name__)
        if name in __all__:
            from bgpipe.pipeline.api import remover

            return getattr(remover, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
