"""docker-compose.yml as a text to be judged: what in it fits neither the code nor itself."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..support.source_tree import ROOT
from .code import command_problems, drain_seconds, variable_problems

ONCE = {"init", "bgpipe"}
"""Services that end by themselves."""
FOLDERS = {"PHOTOS", "CUTOUTS"}
"""Of the user; they need not exist."""
_VARIABLE = re.compile(r"\$\{(\w+):-(.*?)\}")


def example() -> dict[str, str]:
    """.env.example: what is set in it."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return dict(pairs)


def services(text: str) -> dict[str, dict[str, Any]]:
    """The services, with the values of .env.example in the place of its variables."""
    values = example()
    filled = _VARIABLE.sub(lambda found: values.get(found[1], found[2]), text)
    found: dict[str, dict[str, Any]] = parsed(filled)["services"]
    return found


def parsed(text: str) -> dict[str, Any]:
    """YAML, by the parser that is written in C where there is one."""
    found: dict[str, Any] = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return found


def problems(text: str) -> list[str]:
    """All that is wrong with the text of a docker-compose.yml, in words."""
    found, whole = services(text), parsed(text)
    return [
        *_variables(text),
        *(
            f"{name}: {reported}"
            for name, service in found.items()
            for reported in (*_of_service(name, service, whole), *_commands(service))
        ),
        *_states(found),
        *_profiles(found),
        *_gpus(found),
        *_ports(found),
    ]


def commands(service: Mapping[str, Any]) -> Iterator[list[str]]:
    """What a service runs: itself and its health check, without a shell."""
    if ours(service) and "entrypoint" not in service:
        yield ["bgpipe", *service.get("command", [])]
    kind, *words = service.get("healthcheck", {}).get("test", [""])
    if kind == "CMD":
        yield words


def ours(service: Mapping[str, Any]) -> bool:
    return service["image"].startswith("bgpipe-")


def environment(service: Mapping[str, Any]) -> dict[str, str]:
    """What is set; names without a value are passed on by Compose."""
    given = service.get("environment", {})
    return {name: str(value) for name, value in given.items() if value is not None}


def mounts(service: Mapping[str, Any]) -> dict[str, str]:
    """Path in the container -> volume, or path beside docker-compose.yml."""
    pairs = (entry.split(":") for entry in service.get("volumes", []))
    return {parts[1]: parts[0] for parts in pairs}


def _variables(text: str) -> Iterator[str]:
    given, used = example(), dict(_VARIABLE.findall(text))
    for name, default in used.items():
        if name not in given and name not in FOLDERS:
            yield f"not in .env.example: {name}"
        elif name in given and given[name] != default:
            yield f".env.example has another default: {name}: {given[name]}, not {default}"
    for name in sorted(given.keys() - used.keys() - {"COMPOSE_PROFILES"}):
        yield f"not used: {name} of .env.example"


def _of_service(name: str, service: Mapping[str, Any], whole: Mapping[str, Any]) -> Iterator[str]:
    yield from variable_problems(service.get("environment", {}))
    yield from _files(service, whole)
    yield from _unknown("service", service.get("depends_on", {}), whole["services"])
    yield from _unknown("network", service.get("networks", []), whole["networks"])
    if not ours(service) and not re.search(r":\D*\d+[.-]\d+", service["image"]):
        yield f"image is not pinned: {service['image']}"
    if "limits" not in service.get("deploy", {}).get("resources", {}):
        yield "has no limits"
    if name in ONCE:
        return
    for wanted in ("healthcheck", "restart", "stop_signal", "logging"):
        if wanted not in service:
            yield f"has no {wanted}"
    if name.startswith("worker") and _seconds(service["stop_grace_period"]) <= drain_seconds():
        yield f"is killed before it has drained: {service['stop_grace_period']}"


def _unknown(kind: str, named: Iterable[str], known: Container[str]) -> Iterator[str]:
    return (f"no such {kind}: {name}" for name in named if name not in known)


def _files(service: Mapping[str, Any], whole: Mapping[str, Any]) -> Iterator[str]:
    for inside, outside in mounts(service).items():
        if outside.startswith("."):
            mine = outside in {example()[name] for name in FOLDERS}
            if not mine and not (ROOT / outside).exists():
                yield f"no such file: {outside}"
        elif outside not in whole["volumes"]:
            yield f"no such volume: {outside} at {inside}"
    build = service.get("build")
    if build:
        path = ROOT / build["context"] / build["dockerfile"]
        known = set(re.findall(r"^ARG (\w+)", path.read_text(), re.M)) if path.is_file() else set()
        if not path.is_file():
            yield f"no such file: {build['dockerfile']}"
        for argument in build.get("args", {}):
            if argument not in known:
                yield f"no such argument of {build['dockerfile']}: {argument}"


def _states(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The init service makes RUN_AS the owner of each volume at /state."""
    inside = {volume: path for path, volume in mounts(found["init"]).items()}
    for name, service in found.items():
        if ours(service):
            volume = mounts(service).get("/state", "")
            if inside.get(volume) not in found["init"]["command"]:
                yield f"{name}: its state folder is not one of RUN_AS: {volume}"


def _commands(service: Mapping[str, Any]) -> Iterator[str]:
    for words in commands(service):
        if words[0] == "bgpipe":
            yield from command_problems(words[1:])


def _profiles(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    known = {profile for service in found.values() for profile in service.get("profiles", [])}
    named = set(re.findall(r"\b(gpus?(?:-\d)?|cpu|monitoring|s3)\b", _list_profiles()))
    for profile in sorted(named ^ (known - {"cli"})):
        yield f"profile is only in one of docker-compose.yml and .env.example: {profile}"


def _list_profiles() -> str:
    (line,) = [
        line for line in (ROOT / ".env.example").read_text().splitlines() if "workers run" in line
    ]
    return line.split(":", 1)[1]


def _gpus(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    ids = []
    for name, service in found.items():
        devices = service.get("deploy", {}).get("resources", {}).get("reservations", {})
        for device in devices.get("devices", []):
            ids += device["device_ids"]
            if name != f"worker-gpu{device['device_ids'][0]}":
                yield f"{name}: has another GPU than its name says: {device['device_ids']}"
    if len(ids) != len(set(ids)):
        yield f"a GPU is given twice: {ids}"


def _ports(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A published port, a health check's and a scraped one are those of the command."""
    for name, service in found.items():
        words = " ".join(map(str, service.get("command", [])))
        for published in service.get("ports", []):
            address, _, port = str(published).rsplit(":", 2)
            if address != "127.0.0.1":
                yield f"{name}: published beyond the loopback: {published}"
            if ours(service) and not re.search(rf"\b{port}\b", words):
                yield f"{name}: publishes a port that it does not listen at: {port}"
        for port in re.findall(r"127\.0\.0\.1:(\d+)", str(service.get("healthcheck", {}))):
            if ours(service) and not re.search(rf"\b{port}\b", words):
                yield f"{name}: is checked at a port that it does not listen at: {port}"
    if "ports" in found["redis"]:
        yield "redis: has a published port"
    scraped = parsed((ROOT / "infra/docker/prometheus.yml").read_text())["scrape_configs"]
    for target in scraped[0]["static_configs"][0]["targets"]:
        host, _, port = target.partition(":")
        if f"0.0.0.0:{port}" not in found.get(host, {}).get("command", []):
            yield f"Prometheus scrapes an address without a listener: {target}"


def _seconds(period: str) -> int:
    return int(period.removesuffix("s"))


def docker_environment(dockerfile: Path) -> dict[str, str]:
    """The ENV of a Dockerfile."""
    text = dockerfile.read_text().replace("\\\n", " ")
    lines = re.findall(r"^ENV (.*)$", text, re.M)
    return dict(pair.split("=", 1) for line in lines for pair in line.split())
