"""Every entry of the registry, pulled from a hub on the loopback and loaded; and the terms of some."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache as cached
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from safetensors.torch import save

from bgpipe.pipeline.errors import ModelUnavailable
from bgpipe.pipeline.models.hub import Hub
from bgpipe.pipeline.models.registry import (
    LicenceNotAccepted,
    ModelEntry,
    find_remote,
    pull,
    read_models,
    resolve,
)
from bgpipe.pipeline.networks import vitmatte
from bgpipe.pipeline.networks.birefnet import CONFIGS, BiRefNet
from bgpipe.pipeline.networks.birefnet.checkpoint import load, to_current_order
from bgpipe.pipeline.types import ModelTask, PatchOrder

from ...support.birefnet_weights import tiny_network, to_nobg_names
from ...support.hub import LoopbackHub, serving
from ...support.tiny_vitmatte import saved, tiny_vitmatte

COMMIT = "3" * 40
ENTRIES = {name: entry for name, entry in read_models().items() if entry.repo}
SUBJECTS = [name for name, entry in ENTRIES.items() if entry.task is ModelTask.SUBJECT]
KINDS = ("birefnet-general", "birefnet-lite", "birefnet-hr", "toonout", "feynobg", "rmbg-2.0")
"""One entry of each kind: old and new patch order, small, own file name, other key names, terms."""
GATED, TOKEN = "rmbg-2.0", "hf_example"


@cached
def network(backbone: str) -> BiRefNet:
    return tiny_network(backbone)


def hub_of(entry: ModelEntry, content: bytes, token: str = "") -> LoopbackHub:
    assert entry.repo
    return LoopbackHub(entry.repo, {COMMIT: content}, entry.revision, file=entry.file, token=token)


@pytest.mark.parametrize(
    "name",
    [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in SUBJECTS],
)
def test_an_entry_is_pulled_and_loads_as_the_network_that_it_names(
    name: str, tmp_path: Path
) -> None:
    entry = ENTRIES[name]
    tiny = network(entry.backbone)
    state = tiny.state_dict()
    released = to_nobg_names(state) if name == "feynobg" else state
    with serving(hub_of(entry, save({k: v.contiguous() for k, v in released.items()}))) as server:
        hub = Hub(timeout=5, endpoint=server.url, accepted=[name])
        model = pull(name, cache=tmp_path, hub=hub)
    assert (model.size, model.patch_order) == (entry.size, entry.patch_order)
    loaded = load(model)
    assert loaded.config.backbone.depths == CONFIGS[entry.backbone].backbone.depths
    expected = to_current_order(state) if entry.patch_order is PatchOrder.LEGACY else state
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in expected.items())


@pytest.mark.parametrize("name", sorted(ENTRIES.keys() - set(SUBJECTS)))
def test_an_entry_for_edges_is_pulled_and_loads(name: str, tmp_path: Path) -> None:
    with serving(hub_of(ENTRIES[name], saved(tiny_vitmatte()))) as server:
        model = pull(name, cache=tmp_path, hub=Hub(timeout=5, endpoint=server.url))
    assert model.task is ModelTask.EDGES
    vitmatte.load(model, torch.float32)


@pytest.mark.parametrize("name", read_models())
def test_an_entry_states_terms_and_who_says_so(name: str) -> None:
    entry = read_models()[name]
    assert entry.license
    assert entry.data
    assert entry.sources
    assert all(urlsplit(source).scheme == "https" for source in entry.sources)
    assert (entry.commercial == "no") == bool(entry.terms)


@pytest.fixture
def gated() -> Iterator[LoopbackHub]:
    with serving(hub_of(ENTRIES[GATED], b"weights", TOKEN)) as server:
        yield server


def test_nothing_is_asked_of_a_hub_before_the_terms_are_accepted(
    gated: LoopbackHub, tmp_path: Path
) -> None:
    hub = Hub(timeout=5, endpoint=gated.url, accepted=["birefnet-general"])
    for ask in (pull, find_remote):
        with pytest.raises(LicenceNotAccepted, match=r"CC BY-NC 4\.0.*--accept-licence rmbg-2\.0"):
            ask(GATED, cache=tmp_path, hub=hub)
    with pytest.raises(ModelUnavailable, match=r"non-commercial use only.*accept_licences"):
        resolve(GATED, cache=tmp_path)
    assert gated.asked == []


def test_terms_are_accepted_once(
    gated: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    model = pull(GATED, cache=tmp_path, hub=Hub(5, gated.url, accepted=[GATED]))
    assert resolve(GATED, cache=tmp_path) == model
    assert pull(GATED, cache=tmp_path, hub=Hub(5, gated.url)) == model


def test_a_gated_repository_is_not_pulled_without_a_token(
    gated: LoopbackHub, tmp_path: Path
) -> None:
    with pytest.raises(ModelUnavailable, match=r"RMBG-2\.0 is gated: .*HF_TOKEN"):
        pull(GATED, cache=tmp_path, hub=Hub(5, gated.url, accepted=[GATED]))
