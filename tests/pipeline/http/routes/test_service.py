"""Swagger UI, on request only."""

from __future__ import annotations

import re

import httpx2

from ....support.http_service import Service


def test_the_documentation_page_is_off_unless_the_settings_ask_for_it(
    client: httpx2.Client,
) -> None:
    assert client.get("/docs").status_code == 404


def test_the_policy_of_the_documentation_page_allows_what_it_loads(service: Service) -> None:
    with service.another(BGPIPE_SERVE__DOCS="true") as server, server.client() as client:
        page = client.get("/docs")
        policy = page.headers["content-security-policy"]
        loaded = re.findall(r"(?:src|href)=\"(https://[^/\"]+)", page.text)
        assert loaded
        assert all(origin in policy for origin in loaded)
        assert "/v1/openapi.json" in page.text
        assert "unsafe" not in client.get("/").headers["content-security-policy"]
