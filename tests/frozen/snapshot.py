"""The one place that reads and rewrites the frozen data.

    REWRITE_SNAPSHOTS=1 python -m pytest tests/frozen

rewrites the files of data/ (settings own the prefix BGPIPE_). Do that only for a change that is listed in
infra/docs/CHANGELOG.md, and look at the difference before it is committed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

DATA = Path(__file__).with_name("data")
REWRITE = os.environ.get("REWRITE_SNAPSHOTS") == "1"


def assert_frozen(name: str, value: object) -> None:
    """Compare `value`, as JSON has it, with data/`name`.json."""
    path = DATA / f"{name}.json"
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    if REWRITE:
        path.write_text(text, encoding="utf-8")
    # The order of the fields counts too, so that texts are compared; a parsed difference reads better.
    assert json.loads(text) == frozen(name)
    assert text == path.read_text(encoding="utf-8")


def frozen(name: str) -> Any:
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
