"""What is wrong with the settings."""

from __future__ import annotations

from collections.abc import Sequence


class SettingsError(ValueError):
    """Some settings are wrong; the text has a line for each `problem`, the place before a colon."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
