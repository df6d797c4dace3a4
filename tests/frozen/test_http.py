"""The HTTP service as its OpenAPI document describes it."""

from __future__ import annotations

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
    security = document["components"]["securitySchemes"]
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
