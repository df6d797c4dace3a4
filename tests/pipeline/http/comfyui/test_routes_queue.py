"""Prompts that wait, are interrupted, or belong to another caller: a cluster without workers."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_api_simplified import ComfyApiWrapper
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as dial

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.http.api_keys import ApiKeys
from bgpipe.pipeline.http.comfyui.prompt_service import digest_of
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.types import JobId

from ....support.comfyui_client import API, Comfy, events
from ....support.http_service import SECONDS, Service

Photo = Callable[..., Path]


@pytest.fixture
def key(guarded: Service) -> str:
    """Of a caller whom no other test knows."""
    with connect(guarded.redis_url) as redis:
        return ApiKeys(redis).add(f"u{uuid.uuid4().hex[:12]}")


@pytest.fixture
def comfy(guarded: Service, key: str) -> Iterator[Comfy]:
    with guarded.client(key) as client:
        yield Comfy(client)


@pytest.fixture
def graph(comfy: Comfy, photo: Photo) -> dict[str, Any]:
    graph: dict[str, Any] = copy.deepcopy(API)
    graph["1"]["inputs"]["image"] = comfy.upload(photo("photo.jpg"))["name"]
    return graph


def claim(guarded: Service, prompt: str) -> None:
    """Begin the prompt's image, as a worker does that then is slow."""
    with connect(guarded.redis_url) as redis:
        assert JobStore(redis).items.claim(JobId(prompt), 0, "cpu0@slow/1")


def stages(comfy: Comfy) -> dict[str, list[str]]:
    found = comfy.client.get("/queue").json()
    return {name: [item[1] for item in items] for name, items in found.items()}


def test_what_waits_is_listed_and_can_be_taken_off(comfy: Comfy, graph: dict[str, Any]) -> None:
    first, second, third = (comfy.prompt(graph, client_id="c") for _ in range(3))
    assert stages(comfy) == {"queue_running": [], "queue_pending": [first, second, third]}
    assert comfy.client.get("/prompt").json() == {"exec_info": {"queue_remaining": 3}}
    assert comfy.client.get(f"/history/{first}").json() == {}
    assert comfy.client.post("/queue", json={"delete": [second, "unknown"]}).content == b""
    assert stages(comfy)["queue_pending"] == [first, third]
    comfy.client.post("/queue", json={"clear": True})
    assert stages(comfy) == {"queue_running": [], "queue_pending": []}
    assert comfy.client.get("/api/prompt").json() == {"exec_info": {"queue_remaining": 0}}
    assert comfy.client.get("/history").json() == {}


def test_an_interrupt_ends_what_runs_and_nothing_else(
    guarded: Service, comfy: Comfy, key: str, graph: dict[str, Any]
) -> None:
    client = uuid.uuid4().hex
    running, waiting = (comfy.prompt(graph, client_id=client) for _ in range(2))
    claim(guarded, running)
    assert stages(comfy) == {"queue_running": [running], "queue_pending": [waiting]}
    comfy.client.post("/interrupt", json={"prompt_id": waiting})
    comfy.client.post("/queue", json={"delete": [running]})
    assert stages(comfy) == {"queue_running": [running], "queue_pending": [waiting]}
    comfy.client.post("/interrupt", json={"prompt_id": running})
    entry = comfy.wait(running)
    assert (entry["status"]["status_str"], entry["status"]["completed"]) == ("error", False)
    assert entry["status"]["messages"][-1][0] == "execution_interrupted"
    assert entry["outputs"] == {}
    assert stages(comfy) == {"queue_running": [], "queue_pending": [waiting]}
    with listening(guarded, client, key) as socket:
        reported = events(socket, running)
        assert [kind for kind, _ in reported][-2:] == ["execution_interrupted", "executing"]
        claim(guarded, waiting)
        comfy.client.post("/interrupt")
        assert events(socket, waiting)


def test_what_ends_at_once_is_shown_as_running_until_the_client_got_its_first_event(
    guarded: Service, comfy: Comfy, key: str, graph: dict[str, Any]
) -> None:
    """Else a client takes it for a cached result, and waits for no outputs."""
    client = uuid.uuid4().hex
    with listening(guarded, client, key) as socket:
        socket.recv(SECONDS)
        prompt = comfy.prompt(graph, client_id=client)
        claim(guarded, prompt)
        comfy.client.post("/interrupt")
        assert comfy.client.get(f"/history/{prompt}").json() == {}
        assert stages(comfy)["queue_running"] == [prompt]
        assert comfy.client.get("/prompt").json() == {"exec_info": {"queue_remaining": 1}}
        kinds = [kind for kind, _ in events(socket, prompt)]
        assert (kinds[0], kinds[-2:]) == (
            "execution_start",
            ["execution_interrupted", "executing"],
        )
        assert prompt in comfy.client.get(f"/history/{prompt}").json()
        assert stages(comfy)["queue_running"] == []


def test_a_prompt_of_a_client_that_left_ends_without_it(
    guarded: Service, comfy: Comfy, key: str, graph: dict[str, Any]
) -> None:
    client = uuid.uuid4().hex
    with listening(guarded, client, key) as socket:
        socket.recv(SECONDS)
    prompt = comfy.prompt(graph, client_id=client)
    claim(guarded, prompt)
    comfy.client.post("/interrupt")
    assert comfy.wait(prompt)["status"]["messages"][-1][0] == "execution_interrupted"


def test_a_prompt_whose_events_were_dropped_for_newer_ones_ends_without_them(
    guarded: Service, comfy: Comfy, key: str, graph: dict[str, Any]
) -> None:
    client = uuid.uuid4().hex
    with listening(guarded, client, key) as socket:
        socket.recv(SECONDS)
        first = comfy.prompt(graph, client_id=client)
        with connect(guarded.redis_url) as redis:  # as a hundred newer ones do
            (pending,) = redis.keys(keys.unreported_prompts_of("*", digest_of(client)))
            assert redis.zrem(pending, first)
        claim(guarded, first)
        comfy.client.post("/interrupt")
        assert first in comfy.client.get(f"/history/{first}").json()


def test_nothing_of_one_caller_is_anothers(
    guarded: Service, comfy: Comfy, graph: dict[str, Any]
) -> None:
    prompt = comfy.prompt(graph, client_id="shared")
    with connect(guarded.redis_url) as redis:
        other = ApiKeys(redis).add(f"u{uuid.uuid4().hex[:12]}")
    with guarded.client(other) as client:
        theirs = Comfy(client)
        assert stages(theirs)["queue_pending"] == []
        assert client.get(f"/history/{prompt}").json() == {}
        assert client.post("/queue", json={"delete": [prompt]}).status_code == 200
        assert client.post("/interrupt", json={"prompt_id": prompt}).status_code == 200
        photo = {"filename": "photo.jpg", "type": "input"}
        assert client.get("/view", params=photo).status_code == 404
        assert theirs.post(graph).status_code == 400
        assert theirs.post(graph, prompt_id=prompt).status_code in {400, 409}
    assert stages(comfy)["queue_pending"] == [prompt]
    assert comfy.client.get("/view", params=photo).status_code == 200


def test_requests_without_a_key_are_refused(guarded: Service, comfy: Comfy) -> None:
    assert comfy.client.get("/prompt").status_code == 200
    with guarded.client() as anonymous:
        for path in ("/prompt", "/api/queue", "/history", "/object_info", "/view?filename=x.png"):
            assert anonymous.get(path).status_code == 401, path
        assert anonymous.post("/prompt", json={}).status_code == 401
    with pytest.raises(InvalidStatus):
        dial(socket_url(guarded, "c")).__enter__()


def test_a_page_of_another_site_gets_nothing_done(comfy: Comfy, graph: dict[str, Any]) -> None:
    foreign = {"Origin": "https://elsewhere.example"}
    answer = comfy.client.post("/prompt", json={"prompt": graph}, headers=foreign)
    assert answer.status_code == 403


def test_a_client_with_user_and_password_shows_its_key(
    guarded: Service, comfy: Comfy, key: str, graph: dict[str, Any]
) -> None:
    """The Python client comfy-api-simplified, a third-party client."""
    api = ComfyApiWrapper(guarded.url, user="me", password=key)
    prompt = api.queue_prompt(graph)["prompt_id"]
    assert api.get_queue_size_before(prompt) == 1
    assert api.get_history(prompt) == {}
    assert "BiRefNetRMBG" in api.get_object_info()
    claim(guarded, prompt)
    assert api.get_queue_size_before(prompt) == 0
    api.interrupt()
    assert prompt in api.get_history(prompt)


def listening(service: Service, client: str, key: str) -> ClientConnection:
    """Return the websocket of a caller's client."""
    return dial(socket_url(service, client), additional_headers={"Authorization": f"Bearer {key}"})


def socket_url(service: Service, client: str) -> str:
    return f"{service.url.replace('http', 'ws')}/ws?clientId={client}"
