"""infra/scripts/demo-cluster: the ledger, Flower and Prometheus count the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bgpipe.pipeline.broker.embedded import find_server
from bgpipe.pipeline.errors import RedisUnavailable

from ..support.programs import require_program
from ..support.source_tree import ROOT

SECONDS = 900


@pytest.mark.slow
@pytest.mark.parametrize("images", [6, 150])
def test_the_three_witnesses_of_the_demonstration_agree(images: int, tmp_path: Path) -> None:
    try:
        find_server()
    except RedisUnavailable:
        require_program("redis-server")
    require_program("prometheus")
    pytest.importorskip("skimage")
    picture = tmp_path / "flower.png"
    # Without the wrapper, which would install into another environment than this one.
    command = [sys.executable, ROOT / "infra/scripts/demo_cluster.py", "--images", str(images)]
    if images > 6:
        require_program("chromium")
        command += ["--picture", picture]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line.split() for line in done.stdout.splitlines()]
    counts = {words[0]: words[1:] for words in said if words[1:2] == ["done"]}
    expected = ["done", str(images - 2), "failed", "2"]
    assert counts == dict.fromkeys(("ledger", "flower", "prometheus"), expected)
    assert picture.exists() == (images > 6)
