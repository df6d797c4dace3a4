"""Metrics end to end: a real job, the endpoints of dispatcher and worker, a real Prometheus, and the
queries of the dashboard and the alerts.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from bgpipe.pipeline.broker.embedded import find_server
from bgpipe.pipeline.errors import RedisUnavailable

from ..support.ports import await_listening, free_port
from ..support.programs import require_program
from ..support.redis_server import RedisServer
from ..support.source_tree import ROOT
from .conftest import Bgpipe

PROMETHEUS = ROOT / "infra/prometheus"
DASHBOARD = ROOT / "infra/grafana/dashboards/bgpipe.json"
NAME = re.compile(r"\bbgpipe_\w+")
SECONDS = 120.0


def until(done: Callable[[], Any], seconds: float = SECONDS) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)
    return found


def expressions() -> dict[str, str]:
    """Every query of the dashboard and the rules, by where it stands."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels
        for target in panel["targets"]
    }
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    for rule in groups[0]["rules"]:
        found[rule.get("alert") or rule["record"]] = rule["expr"]
    return found


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        text: str = answer.read().decode()
        return text


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        process.communicate(timeout=SECONDS)


@dataclass(frozen=True, slots=True)
class Watched:
    """A cluster that has done a job of four images and one that fails, and still runs."""

    dispatcher: str
    worker: str
    summary: dict[str, Any]

    def samples(self) -> set[str]:
        """The names of all series that both endpoints tell."""
        lines = (get(self.dispatcher) + get(self.worker)).splitlines()
        return {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    try:
        find_server()
    except RedisUnavailable:
        require_program("redis-server")
    home = tmp_path_factory.mktemp("watched")
    photos = home / "photos"
    photos.mkdir()
    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 256, (24, 32, 3), np.uint8)
        Image.fromarray(noise).resize((96, 72)).save(photos / f"{number}.png")
    (photos / "empty.png").touch()
    bgpipe, server = Bgpipe(home), RedisServer(home)
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    environment = {
        "BGPIPE_REDIS_URL": server.url,
        "BGPIPE_WORKER__CPU_THREADS": "1",
        "BGPIPE_METRICS__WORKER": addresses[1],
        "BGPIPE_ESTIMATE__PRICE_PER_HOUR": "2.5",
    }
    with ExitStack() as stack:
        server.start()
        stack.callback(server.kill)
        dispatch = ("dispatch", "--metrics", addresses[0])
        for arguments in (dispatch, ("worker", "--device", "cpu")):
            stack.enter_context(ended(bgpipe.start(*arguments, **environment)))
        for address in addresses:
            await_listening(int(address.rpartition(":")[2]))
        submit = ("--json", "submit", photos, "--model", "birefnet-nano", "--wait")
        done = bgpipe(*submit, **environment)
        assert done.returncode == 1, done.stderr
        summary = json.loads(done.stdout.splitlines()[-1])
        assert (summary["done"], summary["failed"]) == (4, 1)
        dispatcher, worker = (f"http://{address}/metrics" for address in addresses)
        yield Watched(dispatcher, worker, summary)


def test_a_real_cluster_exports_every_metric_of_dashboard_and_alerts(watched: Watched) -> None:
    used = {name for query in expressions().values() for name in NAME.findall(query)}
    # The price of a thousand images is exported while a job runs.
    assert used - {"bgpipe_cost_per_thousand_images"} <= watched.samples()
    assert len(used) > 20


def test_every_exported_metric_is_in_the_document(watched: Watched) -> None:
    text = (ROOT / "infra/docs/operations.md").read_text()
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in watched.samples()}
    ours = {name for name in families if name.startswith("bgpipe_")}
    assert {name for name in ours if f"`{name}`" not in text} == set()


def test_the_counters_agree_with_the_books(watched: Watched) -> None:
    text = get(watched.dispatcher)
    assert 'bgpipe_images_total{code="",outcome="done"} 4.0' in text
    assert 'bgpipe_images_total{code="E_EMPTY",outcome="failed"} 1.0' in text
    assert 'bgpipe_jobs{state="finished"} 1.0' in text
    assert "bgpipe_images_unsettled 0.0" in text


@pytest.fixture(scope="module")
def prometheus(watched: Watched, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real one that scrapes both endpoints, with our configuration."""
    program = require_program("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "1s"}
    config["rule_files"] = [str(PROMETHEUS / "rules.yml")]
    hosts = [urllib.parse.urlsplit(url).netloc for url in (watched.dispatcher, watched.worker)]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = hosts
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log, text=True)
    with ended(process):
        await_listening(port)
        address = f"http://127.0.0.1:{port}"
        until(lambda: is_ready(address))
        yield address


def is_ready(prometheus: str) -> bool:
    """Whether it answers queries: it listens before it has opened its storage."""
    try:
        get(f"{prometheus}/-/ready")
    except urllib.error.HTTPError:
        return False
    return True


def ask(prometheus: str, query: str) -> list[Any]:
    """The result of an instant query; fails where Prometheus refuses it."""
    url = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    answer = json.loads(get(url))
    assert answer["status"] == "success"
    found: list[Any] = answer["data"]["result"]
    return found


def test_a_real_prometheus_scrapes_both_and_answers_every_panel(prometheus: str) -> None:
    until(lambda: len(ask(prometheus, "up{job='bgpipe'} == 1")) == 2)
    silent = {"Cost of 1,000 images A"}  # exported while a job runs
    for where, query in expressions().items():
        spelled = query.replace("$__rate_interval", "1m")
        found = ask(prometheus, spelled)
        if where.startswith("Bgpipe") or where in silent:
            continue  # an alert that does not fire has no result
        assert found or until(lambda q=spelled: ask(prometheus, q)), where
    state = json.loads(get(f"{prometheus}/api/v1/rules"))["data"]["groups"][0]["rules"]
    until(lambda: ask(prometheus, "bgpipe:images:rate5m"))
    assert {rule["health"] for rule in state} <= {"ok", "unknown"}


def test_the_rules_are_sound_and_each_alert_fires_on_its_trouble() -> None:
    promtool = require_program("promtool")
    tests = Path(__file__).parent.parent / "infra/alerts_test.yml"
    for command in (
        ("check", "config", PROMETHEUS / "prometheus.yml"),
        ("test", "rules", tests),
    ):
        done = subprocess.run(
            [promtool, *map(str, command)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_names_a_chapter_of_the_runbook() -> None:
    text = (ROOT / "infra/docs/operations.md").read_text()
    chapters = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^##+ (.+)$", text, re.MULTILINE)
    }
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    alerts = [rule for rule in groups[0]["rules"] if "alert" in rule]
    for alert in alerts:
        path, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert path == "infra/docs/operations.md"
        assert anchor in chapters, alert["alert"]
