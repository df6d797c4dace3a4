"""`bgpipe doctor --security`: what is open is named, and what is closed passes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.diagnostics.security import Exposed, inspect_encryption

from .conftest import guarded_redis

ELSEWHERE = "flower"
"""The check that inspects this machine, where another Flower may run."""


def findings(folder: Path, **environment: str) -> tuple[int, dict[str, dict[str, Any]]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BGPIPE_")}
    done = subprocess.run(
        [sys.executable, "-m", "bgpipe.pipeline.cli", "doctor", "--security", "--json"],
        env=kept | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in {0, 4}, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, {finding["what"]: finding for finding in found}


def test_what_is_open_is_named_with_what_closes_it(redis_url: str, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "redis_url").write_text(redis_url)
    (secrets / "redis_url").chmod(0o644)
    code, found = findings(
        tmp_path,
        BGPIPE_SECRETS_DIR=str(secrets),
        BGPIPE_METRICS__DISPATCH="0.0.0.0:9640",
        BGPIPE_S3__ENDPOINT_URL="http://192.0.2.1:9000",
    )
    assert code == 4
    advice = {
        "files": "chmod o=",
        "password": "infra/docker/redis/users.acl",
        "user": "infra/docker/redis/users.acl",
        "places": "restrict it with worker.places",
        "storage": "https://",
        "metrics": "0.0.0.0:9640",
    }
    for what, words in advice.items():
        assert (found[what]["ok"], words in found[what]["detail"]) == (False, True), found[what]
    assert found["encryption"]["ok"]


def test_what_is_deployed_is_closed(tmp_path: Path) -> None:
    with guarded_redis(tmp_path) as server:
        _, found = findings(
            tmp_path,
            BGPIPE_SECRETS_DIR=str(server.secrets / "bgpipe"),
            BGPIPE_WORKER__PLACES='["/photos"]',
        )
    assert {what for what, finding in found.items() if not finding["ok"]} <= {ELSEWHERE}, found


def test_a_settings_file_with_a_password_must_be_private(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "bgpipe.toml").write_text("[serve]\nwebhook_secret = 'signs'\n")
    (tmp_path / "bgpipe.toml").chmod(0o604)
    _, found = findings(tmp_path, BGPIPE_REDIS_URL=redis_url)
    assert not found["files"]["ok"]
    (tmp_path / "bgpipe.toml").chmod(0o600)
    assert findings(tmp_path, BGPIPE_REDIS_URL=redis_url)[1]["files"]["ok"]


@pytest.mark.parametrize(
    ("url", "closed"),
    [
        ("redis://127.0.0.1:6379/0", True),
        ("redis://[::1]:6379/0", True),
        ("unix:///run/redis.sock", True),
        ("rediss://192.0.2.1:6379/0", True),
        ("redis://192.0.2.1:6379/0", False),
        ("rediss://192.0.2.1:6379/0?ssl_cert_reqs=none", False),
    ],
)
def test_a_connection_that_others_may_read_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, closed: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BGPIPE_REDIS_URL", url)
    if closed:
        assert inspect_encryption(load_settings())
    else:
        with pytest.raises(Exposed):
            inspect_encryption(load_settings())
