"""What kustomize makes of our overlays: of its language we use resources, namespace, replicas and images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

KNOWN = {"apiVersion", "kind", "namespace", "resources", "replicas", "images"}
CLUSTER_WIDE = {"Namespace"}

Manifest = dict[str, Any]


def build(folder: Path) -> list[Manifest]:
    """The manifests of an overlay.

    Raises:
        ValueError: it says what is not understood here.
    """
    overlay = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := overlay.keys() - KNOWN:
        raise ValueError(f"not understood: {unknown} of {folder}")
    found = [one for name in overlay["resources"] for one in _resource(folder / name)]
    for manifest in found:
        if manifest["kind"] not in CLUSTER_WIDE:
            manifest["metadata"]["namespace"] = overlay["namespace"]
    _count(found, overlay.get("replicas", []))
    _name_images(found, overlay.get("images", []))
    return found


def pod_of(manifest: Manifest) -> Manifest | None:
    """The pod's specification in a workload."""
    spec = manifest.get("spec", {})
    if manifest["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    pod: Manifest | None = spec.get("template", {}).get("spec")
    return pod


def _resource(path: Path) -> Iterator[Manifest]:
    if path.is_dir():
        yield from build(path)
    else:
        yield from filter(None, yaml.safe_load_all(path.read_text()))


def _count(found: list[Manifest], replicas: list[Manifest]) -> None:
    for wanted in replicas:
        named = [one for one in found if one["metadata"]["name"] == wanted["name"]]
        scaled = [one for one in named if "replicas" in one.get("spec", {})]
        if not scaled:
            raise ValueError(f"no such workload: {wanted['name']}")
        for one in scaled:
            one["spec"]["replicas"] = wanted["count"]


def _name_images(found: list[Manifest], images: list[Manifest]) -> None:
    names = {image["name"]: f"{image['newName']}:{image['newTag']}" for image in images}
    for manifest in found:
        for container in (pod_of(manifest) or {}).get("containers", []):
            container["image"] = names.get(container["image"], container["image"])
