"""The HTTP service as its OpenAPI document describes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi")

from bgpipe.config.settings import Settings
from bgpipe.pipeline.http.app import create_app

from .snapshot import assert_frozen

WORDS = {"description", "summary", "title"}
"""Texts for people, which may be put better; FastAPI makes titles of Python's names."""
REFERENCE = "#/components/schemas/"


@pytest.fixture
def document(settings: Settings) -> dict[str, Any]:
    document: dict[str, Any] = create_app(settings).openapi()
    return document


def test_paths_methods_parameters_and_schemas(document: dict[str, Any]) -> None:
    """With the schemas in the places that refer to them: what they are called is frozen below."""
    problem = document["paths"]["/v1/jobs"]["post"]["responses"]["400"]["content"]
    whole = {
        path: {method: operation(each, problem, document) for method, each in methods.items()}
        for path, methods in document["paths"].items()
    }
    security = plain(document["components"]["securitySchemes"], document)
    assert_frozen("openapi", {"problem": plain(problem, document), "security": security, "paths": whole})  # fmt: skip


def operation(each: dict[str, Any], problem: Any, document: dict[str, Any]) -> Any:
    responses = {
        status: "problem" if answer.get("content") == problem else plain(answer, document)
        for status, answer in each["responses"].items()
    }
    rest = {name: plain(value, document) for name, value in each.items() if name in KEPT}
    return rest | {"responses": responses}


KEPT = {"parameters", "requestBody", "security", "tags"}


def plain(node: Any, document: dict[str, Any], *, names: bool = False) -> Any:
    """`node` without words, and with schemas in place of references; `names`: its keys are fields."""
    if isinstance(node, list):
        return [plain(each, document) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        name = node["$ref"].removeprefix(REFERENCE)
        return plain(document["components"]["schemas"][name], document)
    return {
        key: plain(value, document, names=key == "properties" and not names)
        for key, value in node.items()
        if names or key not in WORDS
    }


def test_names_that_generated_clients_have(document: dict[str, Any]) -> None:
    operations = {
        f"{method.upper()} {path}": each["operationId"]
        for path, methods in document["paths"].items()
        for method, each in methods.items()
    }
    schemas = sorted(document["components"]["schemas"])
    assert_frozen("openapi_names", {"operations": operations, "schemas": schemas})


def test_every_route_also_those_that_the_document_leaves_out(settings: Settings) -> None:
    """ComfyUI's are there with and without /api in front, of which one is enough here."""
    found = {
        f"{method} {path}" for path, methods in routes(create_app(settings)) for method in methods
    }
    assert {"GET /object_info", "GET /v1/jobs"} <= found
    assert_frozen("routes", sorted(found))


def routes(app: Any) -> Iterator[tuple[str, set[str]]]:
    """Paths and methods; a route without methods is a socket or a folder of files."""
    for route in app.routes:
        inner = getattr(route, "original_router", None)  # FastAPI keeps routers that are included
        if inner:
            yield from routes(inner)
        else:
            yield route.path.removeprefix("/api"), getattr(route, "methods", None) or {"-"}
