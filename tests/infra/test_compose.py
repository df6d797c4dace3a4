"""docker-compose.yml and the Dockerfiles fit the code, and what they run does run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.source_tree import ROOT
from .code import command_problems, variable_problems
from .compose import docker_environment, problems

TEXT = (ROOT / "docker-compose.yml").read_text()
DOCKERFILES = sorted((ROOT / "infra/docker").glob("*.Dockerfile"))


def test_every_name_in_the_compose_file_is_the_codes_or_its_own() -> None:
    assert problems(TEXT) == []


@pytest.mark.parametrize(
    ("schema", "path"),
    [("compose-spec", "docker-compose.yml"), ("github-workflows", ".github/workflows/ci.yml")],
)
def test_the_file_is_valid_by_its_schema(schema: str, path: str) -> None:
    command = ["-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", ROOT / path]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("old", "new", "reported"),
    [
        ("[worker, --device, cpu]", "[worker, --devices, cpu]", "No such option: --devices"),
        ("command: [dispatch, ", "command: [despatch, ", "No such command 'despatch'"),
        ("doctor, --worker]", "doctor, --alive]", "No such option: --alive"),
        ("BGPIPE_SERVE__UPLOADS:", "BGPIPE_SERVE__UPLOAD:", "no such setting"),
        ("infra/docker/init:", "infra/docker/initial:", "no such file"),
        ("control.Dockerfile", "kontrol.Dockerfile", "no such file"),
        ("TORCH_INDEX: ${", "TORCH_WHEELS: ${", "no such argument"),
        ('--port, "8000"', '--port, "8001"', "does not listen"),
        ("0.0.0.0:9640", "0.0.0.0:9641", "Prometheus scrapes an address without a listener"),
        ('"127.0.0.1:${API_PORT:-8000}', '"0.0.0.0:${API_PORT:-8000}', "beyond the loopback"),
        ("${API_PORT:-8000}", "${API_PORT:-8080}", "another default"),
        ("${RUN_AS:-1000:1000}", "${RUN_ME:-1000:1000}", "not in .env.example: RUN_ME"),
        ("stop_grace_period: 45s", "stop_grace_period: 30s", "killed before it has drained"),
        ("profiles: [monitoring]", "profiles: [metrics]", "profile is only in one"),
        ('device_ids: ["1"]', 'device_ids: ["0"]', "a GPU is given twice"),
        ("redis:7.2.11-alpine", "redis:latest", "not pinned"),
        (
            "networks: [inside]\n",
            'networks: [inside]\n    ports: ["127.0.0.1:6379:6379"]\n',
            "redis",
        ),
        ("- models:/models", "- weights:/models", "no such volume"),
        ("  - state:/state\n  - uploads", "  - uploads", "state folder is not one of RUN_AS"),
        ("/uploads, /state, /flower]", "/uploads, /flower]", "state folder is not one of RUN_AS"),
        ('    restart: unless-stopped\n    user: "999', '    user: "999', "has no restart"),
    ],
)
def test_a_name_that_is_changed_is_found_out(old: str, new: str, reported: str) -> None:
    assert old in TEXT
    found = problems(TEXT.replace(old, new))
    assert any(reported in problem for problem in found), found


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_every_name_in_a_dockerfile_is_the_codes(path: Path) -> None:
    text = path.read_text()
    assert list(variable_problems(docker_environment(path))) == []
    for words in re.findall(r'^(?:CMD|\s+CMD) (\[".*"\])$', text, re.M):
        command = json.loads(words)
        command = command[1:] if command[0] == "bgpipe" else command
        assert list(command_problems(command)) == []
    assert 'ENTRYPOINT ["bgpipe"]' in text
    assert re.search(r"^USER 1000:1000$", text, re.M)
    assert re.search(r"^STOPSIGNAL SIGTERM$", text, re.M)
    assert len(re.findall(r"^FROM ", text, re.M)) == 2
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )?(.*) \S+$", text, re.M)
    for name in " ".join(copied).split():
        assert (ROOT / name).exists(), name
    allowed = (ROOT / ".dockerignore").read_text()
    for name in " ".join(copied).split():
        assert any(name.startswith(kept) for kept in re.findall(r"^!(.*)$", allowed, re.M)), name


def test_the_packages_of_the_project_are_all_in_the_images() -> None:
    for path in DOCKERFILES:
        for folder in ("config", "pipeline", "workers", "infra/package"):
            assert f"COPY {folder} {folder}\n" in path.read_text()


def test_the_worker_gets_a_compiler_and_cuda_from_torch_alone() -> None:
    text = (ROOT / "infra/docker/worker.Dockerfile").read_text()
    _, of_image = text.split("\nFROM ${BASE}\n")
    assert re.search(r"apt-get install .*\bg\+\+", of_image)
    assert "nvidia/cuda" not in text
    assert (
        docker_environment(ROOT / "infra/docker/worker.Dockerfile")["NVIDIA_DRIVER_CAPABILITIES"]
        == "compute,utility"
    )


def test_a_base_is_pinned_by_its_version() -> None:
    for path in DOCKERFILES:
        for base in re.findall(r"^ARG BASE=(.*)$", path.read_text(), re.M):
            assert re.search(r":\d+\.\d+\.\d+-", base), base
