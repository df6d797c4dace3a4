"""The command lines of infra/docs/deploy.md, which want an engine, a cluster or root: their names are there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from ..docs.test_documents import lines
from ..support.source_tree import ROOT
from .code import command_problems
from .compose import ours, services
from .kustomize import build, pod_of

SERVICES = services((ROOT / "docker-compose.yml").read_text())


def compose_problems(words: list[str]) -> Iterator[str]:
    """Of `docker compose run|exec|stop SERVICE [COMMAND]`."""
    verb, *rest = [word for word in words if word != "--rm"]
    if verb not in {"run", "exec", "stop"}:
        return
    service, *command = rest
    if service not in SERVICES:
        yield f"no such service: {service}"
    elif verb == "run" and ours(SERVICES[service]):
        yield from command_problems(command)
    elif verb == "exec" and command[0] == "bgpipe":
        yield from command_problems(command[1:])


def unit_problems(words: list[str]) -> Iterator[str]:
    """Of `systemctl enable --now UNIT ...`."""
    for unit in words:
        name, at, instance = unit.partition("@")
        kind = ".timer" if instance.endswith(".timer") else ".service"
        if name.startswith("bgpipe-") and not (ROOT / f"infra/systemd/{name}{at}{kind}").is_file():
            yield f"no such unit: {unit}"


def commands() -> Iterator[str]:
    for line in lines(ROOT / "infra/docs/deploy.md"):
        yield from line.text.split(" && ")


def test_every_service_unit_and_file_in_the_page_is_there() -> None:
    found: list[str] = []
    for command in commands():
        words = shlex.split(command)
        if words[:2] == ["docker", "compose"]:
            found += compose_problems(words[2:])
        if words[0] == "systemctl":
            found += unit_problems(words)
        paths = re.findall(r"(?:infra/[\w./-]+\w|\.env\.example)", command)
        found += [f"no such file: {path}" for path in paths if not (ROOT / path).exists()]
    assert found == []


def test_the_page_makes_the_secrets_that_the_pods_read() -> None:
    made = set(re.findall(r"create secret generic (\S+)", "\n".join(commands())))
    pods = [pod for manifest in build(ROOT / "infra/k8s/single") if (pod := pod_of(manifest))]
    volumes = [volume for pod in pods for volume in pod["volumes"]]
    assert made == {volume["secret"]["secretName"] for volume in volumes if "secret" in volume}
