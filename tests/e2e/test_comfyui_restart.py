"""A prompt outlives every process that knows of it."""

from __future__ import annotations

import copy
import uuid
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.sync.client import connect as dial

from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.types import JobId

from ..support.comfyui_client import API, Comfy, events
from ..support.http_service import BGPIPE, environment_of, running, server
from ..support.redis_server import RedisServer


@pytest.mark.slow
def test_a_prompt_survives_a_restart_of_everything_in_its_middle(
    redis_server_process: RedisServer, tmp_path: Path, photos: Path
) -> None:
    pytest.importorskip("uvicorn")
    redis = redis_server_process
    environment = environment_of(redis.url, tmp_path)
    client = uuid.uuid4().hex
    with server(redis.url, tmp_path, environment) as first, first.client() as http:
        comfy = Comfy(http)
        graph = copy.deepcopy(API)
        graph["1"]["inputs"]["image"] = comfy.upload(photos / "chelsea.png")["name"]
        prompt = comfy.prompt(graph, client_id=client)
        with connect(redis.url) as job_store:  # a worker began it, and died with the rest
            assert JobStore(job_store).items.claim(JobId(prompt), 0, "cpu0@gone/1")
        assert len(http.get("/queue").json()["queue_running"]) == 1
    redis.kill()
    redis.start()
    with ExitStack() as stack:
        second = stack.enter_context(server(redis.url, tmp_path, environment))
        comfy = Comfy(stack.enter_context(second.client()))
        assert len(comfy.client.get("/queue").json()["queue_running"]) == 1
        socket = stack.enter_context(
            dial(f"{second.url.replace('http', 'ws')}/ws?clientId={client}")
        )
        for command in ([BGPIPE, "dispatch"], [BGPIPE, "worker", "--device", "cpu"]):
            stack.enter_context(running(command, tmp_path, environment))
        assert [kind for kind, _ in events(socket, prompt)][-2:] == [
            "executing",
            "execution_success",
        ]
        assert comfy.image(comfy.wait(prompt)).shape == (300, 451, 4)
