"""ComfyUI's interface: prompts posted, waited for and fetched, over a real cluster."""

from __future__ import annotations

import copy
import json
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from websockets.sync.client import connect

from ....support.comfyui_client import API, UI, Comfy, cutout_of_v1, events
from ....support.http_service import SECONDS, Service

LABELLED = {
    "balanced": [1.15, 0.05, 0.05, 0, False, False],
    "products": [1.3, 0, 0, 0, False, False],
    "portraits": [1.0, 0.1, 0.1, 2, True, False],
    "raw": [1.0, 0, 0, 0, False, False],
}
CHANGES = {
    "preset_balanced_without_previews": ("3", {"sensitivity": 1.15}),
    "author_graph_with_sensitivity_added": ("3", {"sensitivity": 1.15}),
    "bad_model": ("2", {"model": "nope"}),
    "type_mismatch": ("3", {"mask": ["2", 0]}),
    "bad_int": ("3", {"mask_blur": "abc"}),
    "bad_link": ("3", {"mask": ["2"]}),
}
Photo = Callable[..., Path]


@pytest.fixture
def comfy(client: httpx2.Client) -> Comfy:
    return Comfy(client)


@pytest.fixture
def graph(comfy: Comfy, photo: Photo) -> dict[str, Any]:
    """The example in API format, about a photo that was uploaded for this test alone."""
    name = comfy.upload(photo(f"{uuid.uuid4().hex}.jpg"))["name"]
    graph: dict[str, Any] = copy.deepcopy(API)
    graph["1"]["inputs"]["image"] = name
    return graph


def test_the_authors_calls_give_a_cutout_that_differs_between_the_presets(
    comfy: Comfy, photo: Photo
) -> None:
    """The bare document, with only the photo's name and the values of the enhancer set."""
    name = comfy.upload(photo("author.jpg", (320, 240)))["name"]
    alphas = {}
    prompts = {}
    for preset, values in LABELLED.items():
        ui = copy.deepcopy(UI)
        ui["nodes"][0]["widgets_values"][0] = name
        ui["nodes"][2]["widgets_values"] = values
        answer = comfy.client.post("/prompt", json=ui)
        assert answer.status_code == 200, answer.text
        prompts[preset] = answer.json()["prompt_id"]
    for preset, prompt in prompts.items():
        entry = comfy.wait(prompt)
        assert entry["status"]["status_str"] == "success", entry["status"]
        image = comfy.image(entry)
        assert image.shape == (240, 320, 4)
        alphas[preset] = image[..., 3]
    soft = {preset: int(((alpha > 12) & (alpha < 243)).sum()) for preset, alpha in alphas.items()}
    assert 0 < soft["products"] < soft["balanced"] < soft["portraits"], soft
    assert soft["balanced"] < soft["raw"], soft
    solid = {preset: int((alpha == 255).sum()) for preset, alpha in alphas.items()}
    assert solid["products"] > solid["balanced"] > solid["raw"], solid
    assert min(int(alpha.min()) for alpha in alphas.values()) == 0


def test_previews_show_what_is_saved(comfy: Comfy, graph: dict[str, Any]) -> None:
    entry = comfy.wait(comfy.prompt(graph))
    kinds = {node: found["images"][0]["type"] for node, found in entry["outputs"].items()}
    assert kinds == {"5": "output", "6": "temp", "7": "temp"}
    cutout = comfy.image(entry)
    assert np.array_equal(comfy.image(entry, "6"), cutout)
    assert np.array_equal(comfy.image(entry, "7"), cutout[..., 3])
    assert np.array_equal(comfy.image(entry, channel="a")[..., 3], cutout[..., 3])
    assert comfy.image(entry, channel="rgb").shape[2] == 3
    assert comfy.image(entry, preview="webp;80").shape[:2] == cutout.shape[:2]
    assert comfy.image(entry, preview="jpeg").shape[2] == 3


def test_a_saved_mask_is_a_grey_picture(comfy: Comfy, graph: dict[str, Any]) -> None:
    graph["5"]["inputs"] = {"images": ["2", 2], "filename_prefix": "masks/cup"}
    graph["8"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["4", 0], "filename_prefix": "cutouts/cup"},
    }
    entry = comfy.wait(comfy.prompt(graph))
    (mask,) = entry["outputs"]["5"]["images"]
    assert (mask["subfolder"], mask["filename"]) == ("masks", "cup_00001_.png")
    assert comfy.image(entry).ndim == 2
    assert comfy.image(entry, "8").shape[2] == 4
    (cutout,) = entry["outputs"]["8"]["images"]
    by_path = comfy.client.get(f"/output/cutouts/{cutout['filename']}")
    assert by_path.content == comfy.client.get("/view", params=cutout).content
    assert comfy.client.get("/output/cutouts/cup_99999_.png").status_code == 404
    assert comfy.client.get("/output/..%2F..%2Fetc%2Fpasswd").status_code == 400


def test_the_websocket_tells_the_events_that_clients_wait_for(
    comfy: Comfy, graph: dict[str, Any], service: Service
) -> None:
    client = uuid.uuid4().hex
    with connect(f"{service.url.replace('http', 'ws')}/ws?clientId={client}") as socket:
        first = json.loads(socket.recv(SECONDS))
        assert first["type"] == "status"
        assert first["data"]["sid"] == client
        prompt = comfy.prompt(graph, client_id=client)
        reported = events(socket, prompt)
    names = [kind for kind, _ in reported]
    assert names[:2] == ["execution_start", "execution_cached"]
    assert names[-2:] == ["executing", "execution_success"]
    assert names.index("executing") < names.index("progress") < names.index("executed")
    executed = {
        data["node"]: data["output"]["images"] for kind, data in reported if kind == "executed"
    }
    assert executed["5"] == comfy.wait(prompt)["outputs"]["5"]["images"]


def test_a_small_image_runs_until_its_events_were_sent_and_the_queue_is_shorter_after_them(
    comfy: Comfy, graph: dict[str, Any], service: Service
) -> None:
    """Clients look at queue and history at the first event, and at every status."""
    client = uuid.uuid4().hex
    with connect(f"{service.url.replace('http', 'ws')}/ws?clientId={client}") as socket:
        before = json.loads(socket.recv(SECONDS))
        assert before["data"]["status"] == {"exec_info": {"queue_remaining": 0}}
        prompt = comfy.prompt(graph, client_id=client)
        names: list[str] = []
        while "execution_success" not in names:
            message = json.loads(socket.recv(2 * SECONDS))
            names.append(message["type"])
            if names[-1] == "status":
                assert message["data"]["status"]["exec_info"]["queue_remaining"] == 1
        message = json.loads(socket.recv(SECONDS))
        assert message["data"]["status"] == {"exec_info": {"queue_remaining": 0}}
        assert names.index("status") < names.index("execution_start")
    assert comfy.wait(prompt)["status"]["completed"]


def test_the_history_is_empty_at_the_first_event_and_complete_at_the_last(
    comfy: Comfy, graph: dict[str, Any], service: Service
) -> None:
    client = uuid.uuid4().hex
    with connect(f"{service.url.replace('http', 'ws')}/ws?clientId={client}") as socket:
        prompt = comfy.prompt(graph, client_id=client)
        for kind, is_empty in (("execution_start", True), ("executed", False)):
            while json.loads(socket.recv(2 * SECONDS))["type"] != kind:
                pass
            assert (comfy.client.get(f"/history/{prompt}").json() == {}) is is_empty
            queue = comfy.client.get("/queue").json()
            assert (prompt in [item[1] for item in queue["queue_running"]]) is is_empty


def test_comfyuis_own_nodes_give_the_alpha_of_v1(
    comfy: Comfy, photo: Photo, finished: Callable[[str], dict[str, Any]]
) -> None:
    path = photo("core.png", (320, 240))
    name = comfy.upload(path, overwrite="true")["name"]
    graph = core_graph(name)
    entry = comfy.wait(comfy.prompt(graph))
    mask, cutout = comfy.image(entry, "7"), comfy.image(entry, "6")
    reference = cutout_of_v1(comfy.client, path, finished)
    assert np.abs(cutout[..., 3].astype(int) - reference[..., 3]).max() <= 1
    assert np.array_equal(mask, cutout[..., 3])
    solid = cutout[..., 3] == 255
    assert solid.any()
    assert np.array_equal(cutout[solid], reference[solid])
    graph["3"]["inputs"]["resolution"] = 256  # the bundled model has 288
    smaller = comfy.image(comfy.wait(comfy.prompt(graph)), "6")
    assert not np.array_equal(smaller[..., 3], cutout[..., 3])
    for resolution in (320, 257):  # larger, and not a multiple of 32
        graph["3"]["inputs"]["resolution"] = resolution
        answer = comfy.post(graph)
        assert (answer.status_code, "288x288" in answer.text) == (400, True)


def core_graph(photo: str) -> dict[str, Any]:
    nodes: list[tuple[str, dict[str, Any]]] = [
        ("LoadImage", {"image": photo}),
        ("LoadBackgroundRemovalModel", {"bg_removal_name": "birefnet.safetensors"}),
        ("RemoveBackground", {"bg_removal_model": ["2", 0], "image": ["1", 0]}),
        ("InvertMask", {"mask": ["3", 0]}),
        ("JoinImageWithAlpha", {"image": ["1", 0], "alpha": ["4", 0]}),
        ("SaveImage", {"images": ["5", 0], "filename_prefix": "core"}),
        ("MaskPreview", {"mask": ["3", 0]}),
        ("MaskPreview", {"mask": ["4", 0]}),
    ]
    return {
        str(number): {"class_type": kind, "inputs": inputs}
        for number, (kind, inputs) in enumerate(nodes, 1)
    }


def test_a_preview_of_an_inverted_mask_is_not_the_saved_alpha(comfy: Comfy, photo: Photo) -> None:
    name = comfy.upload(photo(f"{uuid.uuid4().hex}.png", (64, 48)))["name"]
    entry = comfy.wait(comfy.prompt(core_graph(name)))
    alpha, inverted = comfy.image(entry, "7"), comfy.image(entry, "8")
    assert np.abs(255 - inverted.astype(int) - alpha).max() <= 1


def test_a_client_that_connects_late_gets_missed_events_once(
    comfy: Comfy, graph: dict[str, Any], service: Service
) -> None:
    client = uuid.uuid4().hex
    prompt = comfy.prompt(graph, client_id=client)
    comfy.wait(prompt)
    url = f"{service.url.replace('http', 'ws')}/api/ws?clientId={client}"
    with connect(url) as socket:
        assert [kind for kind, _ in events(socket, prompt)][-1] == "execution_success"
        socket.send(json.dumps({"type": "feature_flags", "data": {}}))
        second = comfy.prompt(graph, client_id=client)
        assert events(socket, second)
    with connect(url) as socket:
        third = comfy.prompt(graph, client_id=client)
        assert {data["prompt_id"] for _, data in events(socket, third)} == {third}


def test_two_prompts_at_once_are_two_files(comfy: Comfy, graph: dict[str, Any]) -> None:
    prompts: list[str] = []
    threads = [
        threading.Thread(target=lambda: prompts.append(comfy.prompt(graph))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = [comfy.wait(prompt) for prompt in prompts]
    assert len({entry["outputs"]["5"]["images"][0]["filename"] for entry in entries}) == 2
    assert np.array_equal(comfy.image(entries[0]), comfy.image(entries[1]))


def test_an_image_that_fails_is_an_error_and_names_its_reason(
    comfy: Comfy, graph: dict[str, Any], photo: Photo, tmp_path: Path
) -> None:
    data = bytearray(photo("whole.png", (640, 480)).read_bytes())
    data[len(data) // 2] ^= 0xFF  # what only decoding finds out
    broken = tmp_path / "broken.png"
    broken.write_bytes(data)
    graph["1"]["inputs"]["image"] = comfy.upload(broken)["name"]
    entry = comfy.wait(comfy.prompt(graph))
    assert entry["status"]["status_str"] == "error"
    assert not entry["status"]["completed"]
    assert entry["outputs"] == {}
    errors = [data for kind, data in entry["status"]["messages"] if kind == "execution_error"]
    assert errors[0]["exception_type"] == "E_TRUNCATED", errors


def test_the_golden_answers_are_met_over_http(comfy: Comfy, photo: Photo, shared: Path) -> None:
    """Where ComfyUI would save nothing and say 200, we say 400 with the same errors of the nodes."""
    golden = json.loads((shared / "golden/comfyui/http_shapes.json").read_text())
    cases = golden["cases"]
    comfy.upload(photo("photo.jpg"), overwrite="true")
    base = cases["preset_raw"]["request"]["prompt"]
    for name, case in cases.items():
        prompt = case["request"]["prompt"] if "request" in case else changed(base, name)
        if prompt is None:
            continue
        answer, theirs = comfy.post(prompt), case["answer"]
        body = answer.json()
        assert kinds(body["node_errors"]) == kinds(theirs["body"]["node_errors"]), name
        if theirs["http"] == 200 and not theirs["body"]["node_errors"]:
            assert (answer.status_code, sorted(body)) == (200, sorted(theirs["body"])), name
            continue
        assert (answer.status_code, sorted(body)) == (400, ["error", "node_errors"]), name
        partial = {"type": "prompt_outputs_failed_validation"}
        wanted = theirs["body"].get("error", partial)
        assert body["error"]["type"] == wanted["type"], name
        assert sorted(body["error"]) == ["details", "extra_info", "message", "type"]


def changed(base: dict[str, Any], case: str) -> dict[str, Any] | None:
    """The prompt of a golden case that is described by its name only; None: in UI format."""
    if case.startswith("ui_json"):
        return None
    if case in {"no_outputs", "empty_prompt"}:
        return {"1": base["1"]} if case == "no_outputs" else {}
    prompt = copy.deepcopy(base)
    if case == "missing_input":
        del prompt["3"]["inputs"]["mask"]
    elif case == "unknown_node":
        prompt["2"]["class_type"] = "NoSuchNode"
    else:
        node, change = CHANGES[case]
        prompt[node]["inputs"] |= change
    if case == "preset_balanced_without_previews":
        del prompt["6"], prompt["7"]
    return prompt


def kinds(errors: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on words."""
    return {
        node: (
            found["class_type"],
            sorted(found["dependent_outputs"]),
            [(entry["type"], sorted(entry["extra_info"])) for entry in found["errors"]],
        )
        for node, found in errors.items()
    }


def test_the_shapes_of_queue_and_history_are_comfyuis(
    comfy: Comfy, graph: dict[str, Any], shared: Path
) -> None:
    golden = json.loads((shared / "golden/comfyui/http_shapes.json").read_text())
    prompt = comfy.prompt(graph, client_id="c")
    entry = comfy.wait(prompt)
    (theirs,) = golden["history_shape"].values()
    assert sorted(entry) == sorted(theirs)
    assert [type(part) for part in entry["prompt"][1:]] == [
        type(part) for part in theirs["prompt"][1:]
    ]
    assert entry["prompt"][3]["client_id"] == "c"
    assert [kind for kind, _ in entry["status"]["messages"]] == [
        kind for kind, _ in theirs["status"]["messages"]
    ]
    assert sorted(entry["meta"]["5"]) == sorted(theirs["meta"]["5"])
    assert sorted(entry["outputs"]["5"]["images"][0]) == ["filename", "subfolder", "type"]
    assert sorted(comfy.client.get("/queue").json()) == ["queue_pending", "queue_running"]
    assert comfy.client.get(f"/history/{uuid.uuid4()}").json() == {}


def test_the_history_can_be_listed_and_removed(comfy: Comfy, graph: dict[str, Any]) -> None:
    first, second = comfy.prompt(graph), comfy.prompt(graph)
    comfy.wait(first)
    comfy.wait(second)
    listed = list(comfy.client.get("/history").json())
    assert [name for name in listed if name in {first, second}] == [first, second]
    assert list(comfy.client.get("/history", params={"max_items": 1}).json()) == [second]
    comfy.client.post("/history", json={"delete": [first]})
    assert comfy.client.get(f"/history/{first}").json() == {}
    assert comfy.client.get(f"/history/{second}").json()


def test_an_id_of_the_clients_own_is_taken_once(comfy: Comfy, graph: dict[str, Any]) -> None:
    name = str(uuid.uuid4())
    assert comfy.prompt(graph, prompt_id=name) == name
    again = comfy.post(graph, prompt_id=name)
    assert (again.status_code, "error" in again.json()) == (409, True)
    answer = comfy.post(graph, prompt_id="../x")
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_prompt_id")


def test_what_describes_the_server(comfy: Comfy) -> None:
    deadline = time.monotonic() + SECONDS
    while not (stats := comfy.client.get("/system_stats").json())["devices"]:
        assert time.monotonic() < deadline, "no worker came"
        time.sleep(0.1)
    assert {"os", "ram_total", "comfyui_version", "python_version"} <= set(stats["system"])
    assert stats["devices"][0]["type"] == "cpu"
    info = comfy.client.get("/api/object_info").json()
    assert "BiRefNet-general" in info["BiRefNetRMBG"]["input"]["required"]["model"][0]
    model = info["RMBG"]["input"]["required"]["model"][1]
    assert "RMBG-2.0 is birefnet-nano" in model["tooltip"]
    assert comfy.client.get("/object_info/SaveImage").json()["SaveImage"]["output_node"]
    assert comfy.client.get("/object_info/Nothing").json() == {}
    assert comfy.client.get("/prompt").json()["exec_info"]["queue_remaining"] >= 0


def test_an_upload_keeps_its_name_unless_another_photo_has_it(comfy: Comfy, photo: Photo) -> None:
    stem = uuid.uuid4().hex
    first = photo(f"{stem}.png")
    assert comfy.upload(first) == {"name": f"{stem}.png", "subfolder": "", "type": "input"}
    assert comfy.upload(first)["name"] == f"{stem}.png"
    other = photo(f"{stem}.png", (50, 40))
    assert comfy.upload(other)["name"] == f"{stem} (1).png"
    assert comfy.upload(other, overwrite="true")["name"] == f"{stem}.png"
    assert comfy.upload(other, subfolder="a/b")["subfolder"] == "a/b"
    found = comfy.client.get("/view", params={"filename": f"{stem}.png", "type": "input"})
    assert found.content == other.read_bytes()


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"filename": "../../secret.png"}, 400),
        ({"filename": "..\\secret.png"}, 400),
        ({"filename": "/etc/passwd"}, 400),
        ({"filename": "x.png", "subfolder": "../.."}, 400),
        ({"filename": "x.png", "type": "input", "subfolder": "/../.."}, 400),
        ({"filename": "a/x.png"}, 400),
        ({"filename": ""}, 400),
        ({"filename": "x.png", "type": "etc"}, 400),
        ({"filename": "never-made.png"}, 404),
        ({"filename": "never-made.png", "type": "input"}, 404),
        ({}, 400),
    ],
)
def test_a_view_of_anything_else_is_refused(
    comfy: Comfy, query: dict[str, str], status: int
) -> None:
    answer = comfy.client.get("/view", params=query)
    assert answer.status_code == status, answer.text
    assert "error" in answer.json()


@pytest.mark.parametrize(
    ("name", "content", "fields"),
    [
        ("x.jpg", b"no photo", {}),
        ("x.jpg", b"", {}),
        ("../x.png", None, {}),
        ("x.png", None, {"subfolder": "../../etc"}),
        ("x.png", None, {"subfolder": "a/../../b"}),
        ("x.png", None, {"type": "output"}),
        (".hidden.png", None, {}),
    ],
)
def test_an_upload_of_anything_else_is_refused(
    comfy: Comfy, photo: Photo, name: str, content: bytes | None, fields: dict[str, str]
) -> None:
    data = photo("x.png").read_bytes() if content is None else content
    answer = comfy.client.post("/upload/image", files={"image": (name, data)}, data=fields)
    assert 400 <= answer.status_code < 500, answer.text
    assert "error" in answer.json()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"prompts": 1}',
        b'"x"',
        b"\xff",
        b'{"prompt": NaN}',
        b'{"prompt": 1e999}',
        b'{"prompt": "\\ud800"}',
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_no_prompt_is_refused(comfy: Comfy, body: bytes) -> None:
    answer = comfy.client.post("/prompt", content=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "no_prompt")
