from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from bgpipe.pipeline.errors import ModelUnavailable, UsageError
from bgpipe.pipeline.models.hub import Hub
from bgpipe.pipeline.models.lockfile import LockFile, Pin
from bgpipe.pipeline.models.registry import (
    EDGES_KEY,
    TRIAL,
    WeightsDiffer,
    locate,
    pull,
    read_models,
    resolve,
    resolve_auto,
    verify,
)
from bgpipe.pipeline.networks.birefnet import CONFIGS, ModelConfig, SwinConfig, build
from bgpipe.pipeline.networks.birefnet.checkpoint import load
from bgpipe.pipeline.types import ModelTask, PatchOrder

from ...support.hub import LoopbackHub, serving

NAME, REPO = "birefnet-hr", "ZhengPeng7/BiRefNet_HR"
FIRST, SECOND = "1" * 40, "2" * 40
TINY = ModelConfig(
    backbone=SwinConfig(embed=8, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1), window=4),
    inner=4,
    branch=4,
    kernels=(3,),
    image_inner=2,
    gate=2,
)


def weights(seed: int) -> bytes:
    torch.manual_seed(seed)
    return save(build(TINY).state_dict(), {"format": "pt"})


@pytest.fixture
def server() -> Iterator[LoopbackHub]:
    with serving(LoopbackHub(REPO, {FIRST: weights(1), SECOND: weights(2)})) as server:
        yield server


@pytest.fixture
def hub(server: LoopbackHub) -> Hub:
    return Hub(timeout=5, endpoint=server.url)


@pytest.fixture
def nowhere() -> Hub:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return Hub(timeout=5, endpoint=f"http://127.0.0.1:{port}")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "models"


def test_the_registry_knows_the_promised_names_and_nothing_impossible() -> None:
    promised = [
        "general",
        "lite",
        "portrait",
        "matting",
        "hr",
        "hr-matting",
        "dynamic",
        "512",
        "nano",
    ]
    assert read_models().keys() >= {f"birefnet-{name}" for name in promised}
    subjects = [entry for entry in read_models().values() if entry.task is ModelTask.SUBJECT]
    assert {entry.backbone for entry in subjects} <= CONFIGS.keys()
    assert [name for name, entry in read_models().items() if entry.task is ModelTask.EDGES] == [
        "vitmatte",
        "vitmatte-base",
    ]
    assert [name for name, entry in read_models().items() if entry.repo is None] == [TRIAL]


def test_a_pulled_model_loads_and_needs_no_hub_again(cache: Path, hub: Hub, nowhere: Hub) -> None:
    pulled = resolve(NAME, cache=cache, hub=hub)
    assert pulled.sha256 == sha256(weights(1)).hexdigest()
    assert (pulled.name, pulled.size) == (NAME, (2048, 2048))
    assert load(pulled).config == TINY
    assert resolve(NAME, cache=cache) == resolve(NAME, cache=cache, hub=nowhere) == pulled
    assert locate(NAME, cache=cache) == pulled.path


def test_only_the_weights_are_ever_asked_for(cache: Path, server: LoopbackHub, hub: Hub) -> None:
    pull(NAME, cache=cache, hub=hub)
    assert {path.rsplit("/", 1)[1] for path in server.asked} == {"model.safetensors", FIRST}


def test_the_first_pull_pins_commit_and_hash(cache: Path, hub: Hub) -> None:
    pull(NAME, cache=cache, hub=hub)
    pins = json.loads((cache / "models.lock.json").read_text())["pins"]
    digest = sha256(weights(1)).hexdigest()
    assert pins == {NAME: {"repo": REPO, "commit": FIRST, "sha256": digest}}


def test_a_newer_commit_upstream_changes_nothing(
    cache: Path, server: LoopbackHub, hub: Hub, tmp_path: Path
) -> None:
    first = pull(NAME, cache=cache, hub=hub)
    server.newest = SECOND
    assert pull(NAME, cache=cache, hub=hub) == resolve(NAME, cache=cache, hub=hub) == first
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "models.lock.json").write_bytes((cache / "models.lock.json").read_bytes())
    assert pull(NAME, cache=elsewhere, hub=hub).sha256 == first.sha256


def test_weights_that_change_on_disk_are_refused(cache: Path, hub: Hub) -> None:
    path = pull(NAME, cache=cache, hub=hub).path.resolve()
    path.write_bytes(weights(3))
    with pytest.raises(WeightsDiffer, match=r"models\.lock\.json says"):
        resolve(NAME, cache=cache, hub=hub)
    path.unlink()
    assert resolve(NAME, cache=cache, hub=hub).sha256 == sha256(weights(1)).hexdigest()


def test_verify_sees_a_change_that_hides_its_traces(cache: Path, hub: Hub) -> None:
    path = pull(NAME, cache=cache, hub=hub).path
    verify(NAME, cache=cache)
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(WeightsDiffer, match="weights have changed"):
        verify(NAME, cache=cache)


def test_a_damaged_download_is_not_pinned(cache: Path, server: LoopbackHub, hub: Hub) -> None:
    server.damaged = True
    with pytest.raises(WeightsDiffer, match="download damaged"):
        pull(NAME, cache=cache, hub=hub)
    assert LockFile(cache).pin(NAME) is None


def test_a_hub_without_the_model_says_so_and_what_to_do(cache: Path, hub: Hub) -> None:
    with pytest.raises(
        ModelUnavailable, match=r"404.*bgpipe models pull birefnet-lite.*HF_ENDPOINT"
    ):
        resolve("birefnet-lite", cache=cache, hub=hub)


def test_a_hub_that_is_down_is_given_up_soon(cache: Path, nowhere: Hub) -> None:
    start = time.monotonic()
    with pytest.raises(ModelUnavailable, match=r"refused.*--model birefnet-nano"):
        resolve(NAME, cache=cache, hub=nowhere)
    assert time.monotonic() - start < 5


def test_a_hub_that_never_answers_is_given_up_after_the_timeout(cache: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        start = time.monotonic()
        with pytest.raises(ModelUnavailable, match="timed out"):
            resolve(NAME, cache=cache, hub=Hub(timeout=0.5, endpoint=f"http://127.0.0.1:{port}"))
        assert time.monotonic() - start < 5


def test_without_a_hub_nothing_is_pulled(cache: Path) -> None:
    with pytest.raises(ModelUnavailable, match="not pulled yet"):
        resolve(NAME, cache=cache)
    assert not cache.exists()


def test_hf_endpoint_names_the_hub_and_torch_is_not_needed(
    cache: Path, server: LoopbackHub
) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from bgpipe.pipeline.models.hub import Hub; from bgpipe.pipeline.models.registry import pull, read_models\n"
        "read_models(); assert 'huggingface_hub' not in sys.modules\n"
        f"pull({NAME!r}, cache=Path({str(cache)!r}), hub=Hub(timeout=5))\n"
        "assert 'torch' not in sys.modules"
    )
    environment = os.environ | {"HF_ENDPOINT": server.url}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=60)
    assert resolve(NAME, cache=cache).sha256 == sha256(weights(1)).hexdigest()


def test_auto_is_the_general_model_where_it_can_be_had(cache: Path, hub: Hub) -> None:
    with pytest.raises(ModelUnavailable, match="birefnet-general"):
        resolve_auto(embedded=False, cache=cache, hub=hub)


def test_auto_degrades_to_the_bundled_model_only_when_embedded(cache: Path, nowhere: Hub) -> None:
    model, degraded = resolve_auto(embedded=True, cache=cache, hub=nowhere)
    assert degraded
    assert (model.name, model.size) == (TRIAL, (288, 288))


def test_the_bundled_model_is_small_and_loads(cache: Path) -> None:
    model = resolve(TRIAL, cache=cache)
    assert model.path.stat().st_size < 12_000_000
    assert load(model).config == CONFIGS["birefnet_nano"]


def test_auto_never_hides_weights_that_differ(cache: Path, hub: Hub) -> None:
    general = "birefnet-general"
    file = cache / "models--ZhengPeng7--BiRefNet" / "snapshots" / FIRST / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(weights(1))
    LockFile(cache).record(general, Pin("ZhengPeng7/BiRefNet", FIRST, "0" * 64))
    with pytest.raises(WeightsDiffer):
        resolve_auto(embedded=True, cache=cache, hub=hub)


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_path_is_a_model_of_its_own(as_folder: bool, cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(weights(1))
    model = resolve(str(tmp_path if as_folder else file), cache=cache)
    assert (model.name, model.path) == (str(file), file)
    assert (model.size, model.patch_order) == ((1024, 1024), PatchOrder.CURRENT)
    assert model.sha256 == sha256(weights(1)).hexdigest()


def test_weights_are_pulled_from_the_revision_that_the_registry_names(
    cache: Path, tmp_path: Path
) -> None:
    repo = "hustvl/vitmatte-base-composition-1k"
    with serving(LoopbackHub(repo, {FIRST: weights(1)}, "refs/pr/3")) as server:
        hub = Hub(timeout=5, endpoint=server.url)
        assert resolve("vitmatte-base", cache=cache, hub=hub).sha256 == (
            sha256(weights(1)).hexdigest()
        )
    assert LockFile(cache).pin("vitmatte-base").commit == FIRST


def test_a_model_for_edges_finds_no_subject_and_the_other_way_round(
    cache: Path, tmp_path: Path
) -> None:
    edges, subject = tmp_path / "edges.safetensors", tmp_path / "subject.safetensors"
    edges.write_bytes(save({EDGES_KEY: torch.zeros(1)}))
    subject.write_bytes(weights(1))
    for reference in ("vitmatte", str(edges)):
        with pytest.raises(UsageError, match="is for --matting, not for --model"):
            resolve(reference, cache=cache, task=ModelTask.SUBJECT)
    for reference in (TRIAL, str(subject)):
        with pytest.raises(UsageError, match="is for --model, not for --matting"):
            resolve(reference, cache=cache, task=ModelTask.EDGES)
    assert resolve(str(edges), cache=cache, task=ModelTask.EDGES).size == (512, 512)


def described(**header: str) -> bytes:
    metadata = {f"bgpipe.{key}": value for key, value in header.items()}
    return save({"weight": torch.zeros(1)}, metadata)


def test_a_file_may_describe_itself(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"
    file.write_bytes(described(size="256x320", patch_order="legacy"))
    model = resolve(str(file), cache=cache)
    assert (model.size, model.patch_order) == ((256, 320), PatchOrder.LEGACY)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (described(size="250x250"), "multiple of 32"),
        (described(size="0x32"), "greater than 0"),
        (described(size="99968x32"), "less than or equal to 8192"),
        (described(size="wide"), "HEIGHTxWIDTH: wide"),
        (described(patch_order="odd"), "odd"),
        (b"\x80\x04K\x01.", "not a safetensors file"),
        (b"", "not a safetensors file"),
    ],
)
def test_a_file_that_cannot_be_a_model_is_refused(
    content: bytes, message: str, cache: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(content)
    with pytest.raises(ModelUnavailable, match=message):
        resolve(str(file), cache=cache)


@pytest.mark.parametrize("name", ["birefnet-huge", "nowhere/model.safetensors", "."])
def test_an_unknown_model_is_a_mistake_of_the_user(name: str, cache: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown model: .*one of birefnet-general"):
        resolve(name, cache=cache)


def test_a_damaged_lock_file_stops_everything(cache: Path, hub: Hub) -> None:
    cache.mkdir()
    (cache / "models.lock.json").write_text('{"pins": {"birefnet-hr": {"commit": 1}}}')
    with pytest.raises(ModelUnavailable, match=r"lock file unreadable: .*models\.lock\.json"):
        resolve(NAME, cache=cache, hub=hub)


def test_the_first_pin_wins(cache: Path) -> None:
    first, second = Pin(REPO, FIRST, "a" * 64), Pin(REPO, SECOND, "b" * 64)
    assert LockFile(cache).record(NAME, first) == first
    assert LockFile(cache).record(NAME, second) == first


def test_an_unchanged_file_is_hashed_once(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"old")
    digest, before = LockFile(cache).sha256(file), file.stat()
    file.write_bytes(b"new")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert LockFile(cache).sha256(file) == digest
    os.utime(file)
    assert LockFile(cache).sha256(file) == sha256(b"new").hexdigest()
