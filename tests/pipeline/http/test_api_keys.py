"""Authentication, and the separation of callers."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.http.api_keys import ApiKeys

from ...support.http_service import Service

Photo = Callable[..., Path]


def key_of(service: Service, name: str, *, everything: bool = False) -> str:
    with connect(service.redis_url) as redis:
        return ApiKeys(redis).add(name, everything=everything)


def revoke(service: Service, name: str) -> None:
    with connect(service.redis_url) as redis:
        assert ApiKeys(redis).revoke(name) == 1


def test_a_key_of_one_user_reaches_nothing_of_another(guarded: Service, photo: Photo) -> None:
    anna, ben = key_of(guarded, "anna"), key_of(guarded, "ben")
    every = key_of(guarded, "operator", everything=True)
    file = {"files": ("a.png", photo("a.png").read_bytes())}
    with guarded.client(anna) as one, guarded.client(ben) as two, guarded.client(every) as three:
        made = one.post("/v1/jobs/from-images", files=file)
        assert made.status_code == 201, made.text
        job = made.json()["job"]
        upload = made.json()["source"].removeprefix("upload:")
        paths = [
            ("GET", f"/v1/jobs/{job}{rest}")
            for rest in (
                "",
                "/items",
                "/items/0",
                "/items/0/result",
                "/items/0/preview",
                "/events",
                "/results.zip",
            )
        ]
        paths += [("POST", f"/v1/jobs/{job}/cancel"), ("POST", f"/v1/jobs/{job}/retry")]
        paths += [("DELETE", f"/v1/jobs/{job}")]
        for method, path in paths:
            answer = two.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (404, "unknown-job"), path
        stolen = two.post("/v1/jobs", json={"upload": upload})
        assert (stolen.status_code, stolen.json()["code"]) == (404, "unknown-upload")
        assert two.get("/v1/jobs").json()["jobs"] == []
        assert [known["job"] for known in one.get("/v1/jobs").json()["jobs"]] == [job]
        assert three.get(f"/v1/jobs/{job}").status_code == 200
        assert "bgpipe_redis_up 1.0" in three.get("/metrics").text
        assert two.get("/metrics").status_code == 403
        # The same key for idempotence, used by two, makes two jobs.
        once = {"Idempotency-Key": "same"}
        jobs = [
            client.post("/v1/jobs/from-images", files=file, headers=once).json()["job"]
            for client in (one, two)
        ]
        assert len(set(jobs)) == 2


def test_without_a_key_there_is_only_the_page_and_health(guarded: Service) -> None:
    key_of(guarded, "shop")
    with guarded.client() as anonymous, guarded.client("bgp_wrong") as wrong:
        for path in ("/", "/page/page.css", "/healthz", "/readyz", "/v1/openapi.json"):
            assert anonymous.get(path).status_code == 200, path
        for client in (anonymous, wrong):
            for path in ("/v1/jobs", "/v1/options", "/v1/jobs/any", "/nothing"):
                answer = client.get(path)
                assert (answer.status_code, answer.json()["code"]) == (401, "no-key")
                assert answer.headers["www-authenticate"] == "Bearer"


def test_a_key_is_shown_once_kept_as_a_digest_and_worthless_once_revoked(guarded: Service) -> None:
    made = guarded.run("keys", "add", "carol")
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    listed = guarded.run("--json", "keys", "list").stdout
    assert secret not in listed
    digest = next(
        entry["digest"]
        for entry in map(json.loads, listed.splitlines())
        if entry["name"] == "carol"
    )
    basic = base64.b64encode(f"carol:{secret}".encode()).decode()
    with guarded.client() as client:
        for headers in ({"X-API-Key": secret}, {"Authorization": f"Basic {basic}"}):
            assert client.get("/v1/jobs", headers=headers).status_code == 200
    assert guarded.run("keys", "revoke", digest).returncode == 0
    with guarded.client(secret) as client:
        assert client.get("/v1/jobs").status_code == 401
    with connect(guarded.redis_url) as redis:
        assert ApiKeys(redis).revoke(digest) == 0
        for name in ("local", "a/b", ""):
            with pytest.raises(UsageError, match="not a name"):
                ApiKeys(redis).add(name)


def test_a_browser_is_let_in_by_a_cookie_until_it_leaves_or_the_key_is_revoked(
    guarded: Service,
) -> None:
    secret = key_of(guarded, "dora")
    with guarded.client() as browser:
        assert browser.post("/v1/session", json={"key": "bgp_wrong"}).status_code == 401
        begun = browser.post("/v1/session", json={"key": secret})
        cookie = begun.headers["set-cookie"].lower()
        assert (begun.status_code, "httponly" in cookie, "samesite=strict" in cookie) == (
            204,
            True,
            True,
        )
        assert secret not in begun.headers["set-cookie"]
        assert browser.get("/v1/options").json()["caller"] == "dora"
        assert browser.delete("/v1/session").status_code == 204
        assert browser.get("/v1/options").status_code == 401
        browser.post("/v1/session", json={"key": secret})
        revoke(guarded, "dora")
        assert browser.get("/v1/options").status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 201),
        ({"Origin": "{url}"}, 201),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 401),
        ({"X-Forwarded-For": "203.0.113.7"}, 401),
    ],
    ids=["program", "own page", "foreign page", "sandboxed page", "rebound name", "proxy"],
)
def test_without_keys_only_this_machine_gets_in(
    service: Service, headers: dict[str, str], status: int
) -> None:
    filled = {name: text.format(url=service.url) for name, text in headers.items()}
    with service.client() as client:
        assert client.post("/v1/uploads", headers=filled).status_code == status


def test_a_server_for_a_network_does_not_start_without_a_key(service: Service) -> None:
    done = service.run("serve", "--host", "0.0.0.0", "--port", "0")
    assert (done.returncode, "bgpipe keys add" in done.stderr) == (2, True), done.stderr


def test_one_key_may_not_ask_too_often_nor_have_too_many_jobs_open(
    guarded: Service, photo: Photo
) -> None:
    limits = {"BGPIPE_SERVE__REQUESTS_PER_MINUTE": "6", "BGPIPE_SERVE__OPEN_JOBS": "2"}
    file = {"files": ("a.png", photo("a.png").read_bytes())}
    with guarded.another(**limits) as small:
        with small.client(key_of(guarded, "busy")) as client:
            answers = [client.post("/v1/jobs/from-images", files=file) for _ in range(3)]
            assert [answer.status_code for answer in answers] == [201, 201, 429]
            assert answers[2].json()["code"] == "too-many-jobs"
        with small.client(key_of(guarded, "eager")) as client:
            answers = [client.get("/v1/jobs") for _ in range(14)]  # in two minutes, if unlucky
            refused = [answer for answer in answers if answer.status_code == 429]
            assert refused[0].json()["code"] == "too-many-requests"
            assert 0 < int(refused[0].headers["retry-after"]) <= 60


def test_every_answer_tells_the_browser_to_take_nothing_from_elsewhere(
    service: Service, client: httpx2.Client
) -> None:
    for path in ("/", "/v1/jobs", "/nothing"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
