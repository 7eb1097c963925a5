"""What fuzzing starts from: valid requests for every operation, and what to put in their place."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradwire.wire import safetensors
from gradwire_engine.ops import CATALOGUE
from gradwire_service.openapi import openapi_document
from gradwire_service.openapi_examples import STORY

JSON = "application/json"


@dataclass(frozen=True)
class Request:
    """A request as a client means it."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def binary(self) -> bool:
        return self.headers.get("Content-Type") == safetensors.MEDIA_TYPE


SETTING = [
    Request("DELETE", "/v1/sessions/example"),
    Request(
        "POST",
        "/v1/sessions",
        {"Content-Type": JSON},
        json.dumps(STORY["createSession", "new"]).encode(),
    ),
    Request(
        "POST",
        "/v1/sessions/example/nodes",
        {"Content-Type": JSON},
        json.dumps(STORY["appendNodes", "layer"]).encode(),
    ),
]
"""Makes the session that the others are about, anew."""

_NAMES = {
    "sid": "example",
    "ref": "target",
    "op": "tanh",
    "name": "tensor",
    "error": "shape-mismatch",
}


def requests() -> list[Request]:
    """Valid requests: every operation of the document, with each of its examples, in each form."""
    found = []
    for template, operations in openapi_document()["paths"].items():
        path = template.format_map(_NAMES)
        for method, operation in operations.items():
            if method not in ("get", "put", "post", "delete"):
                continue
            examples = [b for (id, _), b in STORY.items() if id == operation["operationId"]]
            if method in ("get", "delete") or not examples:
                found.append(Request(method.upper(), path))
            for body in examples:
                content = json.dumps(body).encode()
                found.append(Request(method.upper(), path, {"Content-Type": JSON}, content))
                if "inputs" in body and isinstance(body["inputs"], dict):
                    found.append(binary(method.upper(), path, body))
    return found


def binary(method: str, path: str, body: Mapping[str, Any]) -> Request:
    """A run whose tensors travel as safetensors; those that the server keeps stay named in JSON."""
    groups = ("inputs", "cotangents", "tangents")
    kept = {
        group: {
            n: v for n, v in body.get(group, {}).items() if isinstance(v, dict) and "tensor" in v
        }
        for group in groups
    }
    tensors = {
        f"{group}/{name}": np.asarray(
            value["data"] if isinstance(value, dict) else value, np.float32
        ).reshape(value["shape"] if isinstance(value, dict) else np.shape(value))
        for group in groups
        for name, value in body.get(group, {}).items()
        if name not in kept[group]
    }
    rest = {n: v for n, v in body.items() if n not in groups} | {g: v for g, v in kept.items() if v}
    chunks = safetensors.pack(tensors, rest, "request")
    kind = {"Content-Type": safetensors.MEDIA_TYPE}
    return Request(method, path, kind, b"".join(bytes(chunk) for chunk in chunks))


_SHAPES: tuple[list[int], ...] = (
    [],
    [1],
    [3],
    [2, 3],
    [3, 3],
    [2, 3, 4],
    [1, 2, 5, 5],
    [0],
    [2, 0],
)
_DTYPES = ("float32", "float32", "float64", "int64", "bool")
_ATTRIBUTES: list[Any] = [
    *(0, 1, 2, -1, 3, [0], [1, 0], [-1], [2, 3], [[0, 1]], [], True, False, 0.5, -1.5, None),
    *("float32", "int64", "sum", "mean", "same", "valid", [1.0, 2.0], [True, False], 2**31, 10**20),
]


def program(random: random.Random) -> Request:
    """`execute` with an op of the catalogue, on operands and attributes that may even suit it."""
    op = random.choice(list(CATALOGUE.values()))
    shape = random.choice(_SHAPES)
    inputs: list[dict[str, Any]] = []
    for k in range(random.randrange(1, 4)):
        here = shape if random.random() < 0.7 else random.choice(_SHAPES)
        inputs.append({"name": f"x{k}", "shape": here, "dtype": random.choice(_DTYPES)})
    attrs = {
        name: random.choice(_ATTRIBUTES)
        for name, attribute in op.attributes.items()
        if attribute.required or random.random() < 0.5
    }
    operands = [random.choice(inputs)["name"] for _ in op.operands]
    nodes = [{"op": op.name, "inputs": operands, "attrs": attrs, "name": "y"}]
    if random.random() < 0.5:
        nodes.append({"op": "sum", "inputs": ["y"], "attrs": {}, "name": "total"})
    values = {
        i["name"]: np.full(i["shape"], random.choice([0, 1, 2]), dtype=np.int64).tolist()
        for i in inputs
        if i["dtype"] != "bool"
    }
    run: dict[str, Any] = {
        "mode": random.choice(["forward", "vjp", "jvp"]),
        "inputs": values,
        "nan_policy": random.choice(["propagate", "error", None]),
    }
    if random.random() < 0.3:
        run["transforms"] = [{"transform": random.choice(["vjp", "jvp", "vmap", "linearize"])}]
    body = {"inputs": inputs, "nodes": nodes, "run": run}
    return Request("POST", "/v1/execute", {"Content-Type": JSON}, json.dumps(body).encode())
