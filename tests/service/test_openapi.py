"""The OpenAPI document: golden, sound, complete, and its examples work.

After a change that is meant: `GRADWIRE_UPDATE_GOLDEN=1 pytest tests/service/test_openapi.py`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest

from gradwire_engine import ops
from gradwire_service.dispatch import Resource
from gradwire_service.openapi import openapi_document
from gradwire_service.openapi_examples import STORY
from gradwire_service.routes import ROUTES

DRAFT = "https://json-schema.org/draft/2020-12/schema"
GOLDEN = Path(__file__).with_name("openapi.json")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(openapi_document()))
    return made


def test_golden(document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if os.environ.get("GRADWIRE_UPDATE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8"), "the document changed: see this file's text"


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    for reference in references(document):
        here: Any = document
        for step in reference.removeprefix("#/").split("/"):
            here = here[step]


def test_every_schema_is_a_schema(document: dict[str, Any]) -> None:
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": DRAFT, **schema})


def test_every_route_is_documented(document: dict[str, Any]) -> None:
    documented = {
        (re.sub(r"{\w+}", "{}", path), verb.upper())
        for path, item in document["paths"].items()
        for verb in item
    }
    served = {
        (re.sub(r"{\w+(:path)?}", "{}", route.path), method)
        for route in ROUTES
        if isinstance(route.endpoint, Resource)
        for method in route.endpoint.handlers
        if route.path not in ("/", "/docs", "/openapi.json")
    }
    data = ("/v1/sessions/{}/values/{}/data", "GET")  # served by the route of values
    assert documented == served | {data}


def test_every_op_is_documented(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name, op in ops.CATALOGUE.items():
        schema = schemas[f"op.{name}"]
        assert schema["properties"]["op"] == {"const": name}
        assert set(schema["properties"]["attrs"]["properties"]) == set(op.attributes)
        for operand in op.operands:
            assert f"`{operand.name}`" in schema["description"]
    mapping = schemas["Entry"]["discriminator"]["mapping"]
    assert set(mapping) == {
        *ops.CATALOGUE,
        *(a for op in ops.CATALOGUE.values() for a in op.aliases),
    }
    assert len(schemas["Entry"]["oneOf"]) == len(ops.CATALOGUE)


def test_every_body_has_examples(document: dict[str, Any]) -> None:
    told = {operation for operation, _ in STORY}
    for item in document["paths"].values():
        for operation in item.values():
            if "requestBody" in operation:
                assert operation["operationId"] in told
                content = operation["requestBody"]["content"]["application/json"]
                assert content["examples"]


def validate(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    whole = {"$schema": DRAFT, **schema, "components": document["components"]}
    jsonschema_rs.validate(whole, value)


def test_the_examples_work_in_order(document: dict[str, Any], http: httpx.Client) -> None:
    """Every example is valid by its own schema, succeeds, and its answer is as documented."""
    routes = {
        operation["operationId"]: (verb.upper(), path, operation)
        for path, item in document["paths"].items()
        for verb, operation in item.items()
    }
    for (name, _), body in STORY.items():
        verb, path, operation = routes[name]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        validate(document, schema, body)
        path = path.replace("{sid}", "example").replace("{name}", "w")
        answer = http.request(verb, path, json=body)
        check(document, operation, answer)
    for verb, path, operation in routes.values():
        if "requestBody" in operation or verb == "DELETE":
            continue
        names = [r.rpartition("/")[2] for r in references(operation.get("parameters", []))]
        query = {}
        for parameter in (document["components"]["parameters"][name] for name in names):
            if parameter["in"] == "path":
                path = path.replace("{" + parameter["name"] + "}", parameter["example"])
            elif "example" in parameter:
                query[parameter["name"]] = parameter["example"]
        check(document, operation, http.get(path, params=query))
    gone = {"deleteSession": "/v1/sessions/example", "deleteTensor": "/v1/tensors/w"}
    for name, path in gone.items():
        check(document, routes[name][2], http.delete(path))


def check(document: dict[str, Any], operation: dict[str, Any], answer: httpx.Response) -> None:
    assert answer.is_success, answer.text
    documented = operation["responses"][str(answer.status_code)]
    for header in documented.get("headers", {}):
        assert header in answer.headers
    if "application/json" in documented.get("content", {}):
        schema = documented["content"]["application/json"]["schema"]
        validate(document, schema, answer.json())


def test_the_docs_page_stands_alone(http: httpx.Client) -> None:
    page = http.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"https?://", page.text), "nothing is loaded from elsewhere"
    assert http.get("/openapi.json").json() == openapi_document()
