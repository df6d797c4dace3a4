"""The Kubernetes manifests: valid by its schemas, and fitting the code and each other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.http.routes.service import router

from ..support.source_tree import ROOT
from .code import command_problems, drain_seconds, variable_problems
from .conftest import make_secrets
from .kustomize import Manifest, build, pod_of

K8S = ROOT / "infra/k8s"
OVERLAYS = ("single", "fleet")
VERSION = "1.31"
OF_OTHERS = {"keda.sh/v1alpha1"}
"""What the packaged schemas do not know."""
SECRETS = {"bgpipe": "bgpipe", "bgpipe-flower": "flower", "bgpipe-redis": "redis"}
"""Each secret and the folder of infra/docker/init that it is made from (infra/docs/deploy.md)."""


def problems(manifests: list[Manifest], secrets: Path) -> Iterator[str]:
    """What in `manifests` fits neither the code nor the others, in words."""
    labels = [_labels(one) for one in manifests if pod_of(one)]
    for one in manifests:
        name = f"{one['kind']} {one['metadata']['name']}"
        for selector in _selectors(one):
            if not any(selector.items() <= label.items() for label in labels):
                yield f"{name}: selects no pod: {selector}"
        if one["kind"] == "ConfigMap":
            yield from variable_problems(one["data"])
        if pod := pod_of(one):
            for reported in _of_pod(pod, manifests, secrets):
                yield f"{name}: {reported}"
    yield from _scaling(manifests)


def _of_pod(pod: Manifest, manifests: list[Manifest], secrets: Path) -> Iterator[str]:
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    maps = {one["metadata"]["name"] for one in manifests if one["kind"] == "ConfigMap"}
    for volume in volumes.values():
        if "configMap" in volume and volume["configMap"]["name"] not in maps:
            yield f"no such ConfigMap: {volume['configMap']['name']}"
        if "secret" in volume and volume["secret"]["secretName"] not in SECRETS:
            yield f"no such secret: {volume['secret']['secretName']}"
    for container in pod["containers"]:
        yield from _of_container(container, volumes, secrets)
        for source in container.get("envFrom", []):
            if source["configMapRef"]["name"] not in maps:
                yield f"no such ConfigMap: {source['configMapRef']['name']}"
        if container["args"][0] == "worker":
            if pod["terminationGracePeriodSeconds"] <= drain_seconds():
                yield "is killed before it has drained"
            if container["resources"]["limits"].get("nvidia.com/gpu") != "1":
                yield "has no GPU"


def _of_container(
    container: Manifest, volumes: dict[str, Manifest], secrets: Path
) -> Iterator[str]:
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    named = {entry["name"]: entry["value"] for entry in container.get("env", [])}
    yield from variable_problems(named)
    if "bgpipe" in container["image"] and {"/state", "/tmp"} - mounts.keys():
        yield "cannot write to its state folder, or to /tmp"
    if "bgpipe" in container["image"] and "command" not in container:
        yield from command_problems(container["args"])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        yield from _of_probe(container.get(probe, {}), container)
    templates = {"data"}  # the claim template of Redis
    for path, volume in mounts.items():
        if volume not in volumes and volume not in templates:
            yield f"no such volume: {volume} at {path}"
    for path in re.findall(r"/run/secrets/[\w/.]+", str(container)):
        if path in mounts:
            continue
        folder, _, file = path.rpartition("/")
        secret = volumes[mounts[folder]]["secret"]["secretName"]
        if not (secrets / SECRETS.get(secret, secret) / file).is_file():
            yield f"no such file in the secret {secret}: {file}"


def _of_probe(probe: Manifest, container: Manifest) -> Iterator[str]:
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    if "exec" in probe and probe["exec"]["command"][0] == "bgpipe":
        yield from command_problems(probe["exec"]["command"][1:])
    for kind in ("httpGet", "tcpSocket"):
        if kind in probe and probe[kind]["port"] not in ports:
            yield f"no such port: {probe[kind]['port']}"
    for name, port in ports.items():
        if "bgpipe" in container["image"] and not re.search(rf"\b{port}\b", str(container["args"])):
            yield f"does not listen at its port: {name} {port}"
    if "httpGet" in probe and container["args"][0] == "serve":
        paths = {getattr(route, "path", "") for route in router.routes}
        if probe["httpGet"]["path"] not in paths:
            yield f"no such path: {probe['httpGet']['path']}"


def _scaling(manifests: list[Manifest]) -> Iterator[str]:
    workloads = {one["metadata"]["name"] for one in manifests if pod_of(one)}
    for one in manifests:
        if one["kind"] != "ScaledObject":
            continue
        if one["spec"]["scaleTargetRef"]["name"] not in workloads:
            yield f"scales nothing: {one['spec']['scaleTargetRef']['name']}"
        for trigger in one["spec"]["triggers"]:
            if trigger["metadata"]["listName"] != load_settings().queue.name:
                yield f"scales by another queue: {trigger['metadata']['listName']}"


def _labels(workload: Manifest) -> dict[str, str]:
    spec = workload["spec"]
    if workload["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    found: dict[str, str] = spec["template"]["metadata"]["labels"]
    return found


def _selectors(one: Manifest) -> Iterator[dict[str, str]]:
    spec = one.get("spec", {})
    selector = spec.get("selector", {}) if one["kind"] != "Service" else {}
    yield selector.get("matchLabels", {})
    yield spec.get("podSelector", {}).get("matchLabels", {})
    if one["kind"] == "Service":
        yield spec["selector"]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secrets")
    make_secrets(folder, "redis:6379")
    return folder


def everything(overlay: str) -> list[Manifest]:
    examples = (K8S / "examples").glob("*.yaml")
    return [
        *build(K8S / overlay),
        *(one for path in examples for one in yaml.safe_load_all(path.read_text())),
    ]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_manifest_is_valid_by_the_schemas(overlay: str) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    for manifest in everything(overlay):
        if manifest["apiVersion"] not in OF_OTHERS:
            validator.validate(manifest, VERSION, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_name_in_a_manifest_is_the_codes_or_anothers(overlay: str, secrets: Path) -> None:
    assert list(problems(everything(overlay), secrets)) == []


@pytest.mark.parametrize(
    ("old", "new", "reported"),
    [
        ("--device", "--gpu", "No such option: --gpu"),
        ("- --dispatcher", "- --leader", "No such option: --leader"),
        ("- dispatch\n", "- despatch\n", "No such command 'despatch'"),
        ("BGPIPE_WORKER__PLACES", "BGPIPE_WORKER__ROOTS", "no such setting: BGPIPE_WORKER__ROOTS"),
        ("listName: bgpipe", "listName: celery", "scales by another queue"),
        ("/readyz", "/ready", "no such path: /ready"),
        ("mountPath: /state", "mountPath: /status", "cannot write to its state folder"),
        ("containerPort: 9640", "containerPort: 9641", "does not listen at its port"),
        ("flower/password", "flower/secret", "no such file in the secret bgpipe-flower"),
        ("terminationGracePeriodSeconds: 60", "terminationGracePeriodSeconds: 20", "drained"),
        ("secretName: bgpipe-flower", "secretName: flower", "no such secret: flower"),
        (
            "minAvailable: 1\n  selector:\n    matchLabels:\n      app.kubernetes.io/name: api",
            "minAvailable: 1\n  selector:\n    matchLabels:\n      app.kubernetes.io/name: http",
            "selects no pod",
        ),
    ],
)
def test_a_name_that_is_changed_is_found_out(
    old: str, new: str, reported: str, secrets: Path
) -> None:
    text = yaml.safe_dump_all(everything("fleet"))
    assert old in text
    found = list(problems(list(yaml.safe_load_all(text.replace(old, new))), secrets))
    assert any(reported in problem for problem in found), found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_run_unprivileged_and_write_only_into_their_volumes(overlay: str) -> None:
    pods = [pod for manifest in everything(overlay) if (pod := pod_of(manifest))]
    assert len(pods) >= 5
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]
            assert re.search(r":\d+\.\d+\.\d+", container["image"])


def test_redis_keeps_what_it_is_given_here_too() -> None:
    (redis,) = [one for one in build(K8S / "single") if one["kind"] == "StatefulSet"]
    words: list[Any] = redis["spec"]["template"]["spec"]["containers"][0]["args"][1:]
    given = {words[i].removeprefix("--"): words[i + 1] for i in range(0, len(words), 2)}
    lines = (ROOT / "infra/docker/redis/redis.conf").read_text().splitlines()
    conf = dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))
    conf["save"] = ""
    assert {name: given[name] for name in conf} == conf


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_makes_the_same_of_an_overlay(overlay: str) -> None:
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("no kubectl on the PATH")
    done = subprocess.run(
        [program, "kustomize", K8S / overlay],
        env=os.environ | {"KUBECONFIG": "/dev/null"},
        capture_output=True,
        text=True,
        check=True,
    )
    made = [one for one in yaml.safe_load_all(done.stdout) if one]
    names = {(one["kind"], one["metadata"]["name"]): one for one in made}
    ours = {(one["kind"], one["metadata"]["name"]): one for one in build(K8S / overlay)}
    assert ours == names
