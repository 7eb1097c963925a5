"""Every error code of the contract, provoked over real HTTP, with its facts."""

from __future__ import annotations

import dataclasses
import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from gradwire.errors import BY_CODE
from gradwire.wire.errors import STATUS
from gradwire_engine.errors import catalogue
from gradwire_engine.ops import base
from gradwire_engine.ops.base import Op
from gradwire_service import errors as service_errors
from gradwire_service.local import LocalTransport
from gradwire_service.settings import Settings
from tests.service.serving import Server, problem

X = [1.0, 2.0, 3.0]
W = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]
B = [0.0, 1.0]
POINT = {"x": X, "w": W, "b": B}
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Case:
    """A request that is refused with `code` and at least these facts."""

    code: str
    method: str
    path: str
    body: Any = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None


def get(code: str, path: str, /, **facts: Any) -> Case:
    return Case(code, "GET", path, facts=facts)


def create(code: str, body: Any, /, **facts: Any) -> Case:
    return Case(code, "POST", "/v1/sessions", body, facts)


def add(code: str, /, *nodes: Any, **facts: Any) -> Case:
    return Case(code, "POST", "/v1/sessions/target/nodes", {"nodes": list(nodes)}, facts)


def node(op: str, *inputs: Any, **more: Any) -> dict[str, Any]:
    return {"op": op, "inputs": list(inputs), **more}


def run(code: str, mode: str, body: Any, /, **facts: Any) -> Case:
    return Case(code, "POST", f"/v1/sessions/target/{mode}", body, facts)


def put(code: str, body: Any, /, **facts: Any) -> Case:
    return Case(code, "PUT", "/v1/tensors/t", body, facts)


def derive(code: str, body: Any, /, **facts: Any) -> Case:
    return Case(code, "POST", "/v1/sessions/target/transforms", body, facts)


GOOD = node("tanh", "x")

CASES = [
    # -- what is not there
    get("session_not_found", "/v1/sessions/targt", session="targt", suggestions=["target"]),
    get("session_not_found", "/v1/sessions/ses_0", session="ses_0", suggestions=[]),
    Case("session_not_found", "DELETE", "/v1/sessions/nobody", facts={"session": "nobody"}),
    Case("session_not_found", "POST", "/v1/sessions/nobody/nodes", {"nodes": []}),
    create("session_not_found", {"from": {"session": "nobody"}}, session="nobody"),
    get("value_not_found", "/v1/sessions/target/values/yy", ref="yy", ctx_len=11),
    get("value_not_found", "/v1/sessions/target/values/totl", suggestions=["total"]),
    get("value_not_found", "/v1/sessions/target/values/11", ref="11", ctx_len=11),
    get("value_not_found", "/v1/sessions/target/values/-1", ref="-1"),
    get("value_not_found", "/v1/sessions/target/values/" + "9" * 300, ctx_len=11),
    get("value_not_found", "/v1/sessions/target/values/d/data", ref="d"),
    get("tensor_not_found", "/v1/tensors/layer1/w", tensor="layer1/w", suggestions=[]),
    get("tensor_not_found", "/v1/tensors/%20?data=false", tensor=" "),
    Case("tensor_not_found", "DELETE", "/v1/tensors/w", facts={"tensor": "w"}),
    get("op_not_found", "/v1/ops/sigmod", op="sigmod", suggestions=["sigmoid"]),
    get("route_not_found", "/v1/nothing", path="/v1/nothing"),
    get("route_not_found", "/v1/sessions/"),
    Case("method_not_allowed", "PUT", "/v1/sessions", facts={"allowed": ["GET", "HEAD", "POST"]}),
    Case("method_not_allowed", "DELETE", "/v1/ops"),
    Case("method_not_allowed", "PATCH", "/v1/sessions/target"),
    # -- references
    add("unknown_op", GOOD, node("softmx", "x"), node_index=1, suggestions=["softmax"]),
    add("var_out_of_bounds", node("tanh", 11), node_index=0, operand="x", id=11, ctx_len=11),
    add("var_out_of_bounds", GOOD, node("tanh", 12), node_index=1, id=12, ctx_len=12),
    add("var_out_of_bounds", node("add", "x", -1), operand="b", id=-1, ctx_len=11),
    add("var_out_of_bounds", node("tanh", 2**70), id=2**70),
    add(
        "var_shape_mismatch",
        node("tanh", {"id": 0, "shape": [4]}),
        node_index=0,
        id=0,
        expected=[4],
        actual=[3],
    ),
    get("var_shape_mismatch", "/v1/sessions/target/values/h?shape=3", expected=[3], actual=[2]),
    get("var_shape_mismatch", "/v1/sessions/target/values/h?shape=", expected=[], actual=[2]),
    add("unknown_name", node("tanh", "totl"), node_index=0, name="totl", suggestions=["total"]),
    run("unknown_name", "forward", {"inputs": POINT, "outputs": ["zz"]}, name="zz"),
    run("unknown_name", "vjp", {"inputs": POINT, "cotangents": {"zz": 1.0}}, name="zz"),
    run("var_out_of_bounds", "forward", {"inputs": POINT, "outputs": [99]}, id=99, ctx_len=11),
    Case(
        "unknown_name",
        "PUT",
        "/v1/sessions/target/outputs",
        {"outputs": {"y": "zz"}},
        {"name": "zz"},
    ),
    create("invalid_name", {"name": "a/b", "inputs": []}, name="a/b"),
    Case(
        "invalid_name",
        "POST",
        "/v1/execute",
        {
            "inputs": [{"name": "x", "shape": []}],
            "nodes": [GOOD],
            "outputs": {"y z": 1},
            "run": {"mode": "forward", "inputs": {"x": 1.0}},
        },
        {"name": "y z"},
    ),
    create("invalid_name", {"name": "ses_1", "inputs": []}, name="ses_1"),
    create("invalid_name", {"name": "m.vjp", "inputs": []}, name="m.vjp"),
    create("invalid_name", {"name": "", "inputs": []}, name=""),
    create("invalid_name", {"inputs": [{"name": "1x", "shape": []}]}, name="1x"),
    add("invalid_name", node("tanh", "x", name="é"), node_index=0, name="é"),
    add("invalid_name", node("tanh", "x", name="n" * 201)),
    Case("invalid_name", "PUT", "/v1/sessions/target/outputs", {"outputs": {" ": "y"}}),
    derive("invalid_name", {"transform": "vjp", "name": "a:b"}, name="a:b"),
    run("unknown_tensor", "forward", {"inputs": {**POINT, "w": {"tensor": "w0"}}}, name="w0"),
    add("unknown_tensor", node("const", attrs={"value": {"tensor": "w0"}}), name="w0"),
    derive("unknown_tensor", {"transform": "linearize", "inputs": {"x": {"tensor": "w0"}}}),
    Case("unknown_tensor", "PUT", "/v1/tensors/w", {"tensor": "w0"}, {"name": "w0", "path": ""}),
    Case("invalid_name", "PUT", "/v1/tensors/1w", 1.0, {"name": "1w"}),
    Case("invalid_name", "PUT", "/v1/tensors/" + "n" * 201, 1.0),
    run("invalid_name", "forward", {"inputs": POINT, "store": {"outputs/total": " "}}, name=" "),
    create("name_conflict", {"name": "target", "inputs": []}, name="target"),
    create(
        "name_conflict",
        {"inputs": [{"name": "x", "shape": []}, {"name": "x", "shape": []}]},
        name="x",
    ),
    add("name_conflict", node("tanh", "x", name="h"), node_index=0, name="h"),
    add("name_conflict", node("tanh", "x", name="n"), node("tanh", "x", name="n"), node_index=1),
    derive("name_conflict", {"transform": "vjp", "outputs": ["total"], "name": "target"}),
    # -- calls
    add("wrong_arity", node("add", "x"), op="add", expected=2, actual=1, node_index=0),
    add("wrong_arity", node("concat", attrs={"axis": 0}), expected=[1, None], actual=0),
    add("missing_attribute", node("scale", "x"), op="scale", attribute="c", node_index=0),
    add("missing_attribute", node("scale", "x", attrs={"c": None}), attribute="c"),
    add(
        "unknown_attribute",
        node("tanh", "x", attrs={"slope": 2}),
        op="tanh",
        attribute="slope",
        value=2,
    ),
    add(
        "invalid_attribute",
        node("reduce_sum", "x", attrs={"axis": 1}),
        op="reduce_sum",
        attribute="axis",
        value=1,
    ),
    add("invalid_attribute", node("scale", "x", attrs={"c": "big"}), value="big"),
    # -- options
    run("invalid_option", "forward", {"nan_policy": "abort"}, path="nan_policy", value="abort"),
    run("invalid_option", "forward", {"inputs": POINT, "tier": "fast"}, path="tier"),
    run("invalid_option", "forward", {"deadline_ms": -1}, path="deadline_ms", value=-1),
    run("invalid_option", "vjp", {"inputs": POINT, "in_axes": {"w": 0}}, value="w"),
    derive("invalid_option", {"transform": "grad"}, path="transform", value="grad"),
    derive("invalid_option", {"transform": "vmap", "axis_size": -1, "in_axes": {"x": 0}}),
    run("invalid_option", "forward", {"transforms": [{"transform": "?"}]}),
    create(
        "invalid_option",
        {"inputs": [{"name": "i", "shape": [], "dtype": "int64", "differentiable": True}]},
        path="inputs/0/differentiable",
        value=True,
    ),
    get("invalid_option", "/v1/sessions/target/values/h?shape=2,x", path="shape", value="2,x"),
    get("invalid_option", "/v1/sessions/target/values/h/data", value="h"),
    get("invalid_option", "/v1/sessions?limit=0", path="limit", value="0"),
    get("invalid_option", "/v1/sessions?limit=ten", path="limit"),
    get("invalid_option", "/v1/sessions?cursor=!", path="cursor"),
    get("invalid_option", "/v1/sessions?page=2", path="page"),
    get("invalid_option", "/v1/tensors?limit=1001", path="limit"),
    get("invalid_option", "/v1/tensors?cursor=ICA=", path="cursor", value="ICA="),
    get("invalid_option", "/v1/tensors/w?data=no", path="data", value="no"),
    run("invalid_option", "forward", {"inputs": POINT, "store": {"y": "y"}}, path="store/y"),
    run(
        "invalid_option",
        "forward",
        {"inputs": POINT, "outputs": ["y", "h"], "store": {"outputs/y": "k", "outputs/h": "k"}},
        path="store/outputs/h",
        value="k",
    ),
    run("invalid_option", "forward", {"inputs": POINT, "store": {"gradients/x": "k"}}),
    get("invalid_option", "/v1/sessions/target?since=-1", path="since"),
    create("invalid_option", {"from": {"session": "target", "version": 7}}, path="from/version"),
    Case(
        "invalid_option",
        "POST",
        "/v1/sessions",
        {"inputs": []},
        {"path": "Idempotency-Key"},
        {"Idempotency-Key": "a b"},
    ),
    Case(
        "invalid_option",
        "POST",
        "/v1/execute",
        {"inputs": [], "nodes": [], "run": {"mode": "backward"}},
        {"path": "run/mode", "value": "backward"},
    ),
    Case(
        "invalid_option",
        "POST",
        "/v1/execute",
        {
            "inputs": [{"name": "x", "shape": [2]}],
            "nodes": [node("tanh", "x")],
            "run": {"mode": "forward", "inputs": {"x": [1, 2]}, "nan_policy": "abort"},
        },
        {"path": "run/nan_policy", "value": "abort"},
    ),
    run(
        "invalid_option",
        "forward",
        {
            "inputs": {**POINT, "x": [X, X]},
            "outputs": ["top"],
            "in_axes": {"inputs/x": 0},
            "reduce": {"outputs/top": "mean"},
        },
        path="reduce/outputs/top",
        value="mean",
    ),
    run(
        "invalid_option",
        "vjp",
        {
            "inputs": {**POINT, "x": {"shape": [0, 3], "data": []}},
            "in_axes": {"inputs/x": 0},
            "reduce": {"gradients/w": "mean"},
        },
        path="reduce/gradients/w",
        value="mean",
    ),
    create("invalid_shape", {"inputs": [{"name": "x", "shape": [-1]}]}, path="inputs/0/shape"),
    create("invalid_shape", {"inputs": [{"name": "x", "shape": [1] * 33}]}),
    create("unknown_dtype", {"inputs": [{"name": "x", "shape": [], "dtype": "float16"}]}),
    run(
        "unknown_dtype",
        "forward",
        {"inputs": {**POINT, "x": {"dtype": "f4", "data": X}}},
        path="inputs/x/dtype",
        value="f4",
    ),
    # -- typing
    add(
        "shape_mismatch",
        node("matmul", "w", "w", source="me.py:1"),
        node_index=0,
        op="matmul",
        source="me.py:1",
        actual=[2, 3],
    ),
    add("dtype_mismatch", node("tanh", "k"), op="tanh", operand="x", actual="int64", node_index=0),
    add(
        "index_out_of_bounds",
        node("gather_scalar", "x", attrs={"index": 3}),
        op="gather_scalar",
        attribute="index",
        index=3,
        low=0,
        high=2,
        node_index=0,
    ),
    # -- versions and keys
    Case(
        "version_conflict",
        "POST",
        "/v1/sessions/target/nodes",
        {"nodes": [GOOD]},
        {"expected": 5, "actual": 6},
        {"If-Match": '"5"'},
    ),
    Case(
        "version_conflict",
        "POST",
        "/v1/sessions/target/nodes",
        {"nodes": [GOOD]},
        {"expected": '"six"', "actual": 6},
        {"If-Match": '"six"'},
    ),
    Case("version_conflict", "DELETE", "/v1/sessions/target", headers={"If-Match": '"0"'}),
    Case("version_conflict", "PUT", "/v1/tensors/w", 1.0, {"actual": 0}, {"If-Match": '"1"'}),
    Case("version_conflict", "PUT", "/v1/tensors/w", 1.0, {"expected": "*"}, {"If-Match": "*"}),
    Case(
        "version_conflict",
        "PUT",
        "/v1/sessions/target/outputs",
        {"outputs": {}},
        headers={"If-Match": 'W/"6"'},
    ),
    # -- runs
    run("missing_input", "forward", {"inputs": {"x": X, "w": W}}, input="b"),
    run("missing_input", "forward", {}, input="x", missing=["x", "w", "b"]),
    derive("missing_input", {"transform": "linearize", "outputs": ["y"]}, input="x"),
    run("unknown_input", "forward", {"inputs": {**POINT, "z": 1.0}}, input="z"),
    run("unknown_input", "vjp", {"inputs": POINT, "wrt": ["z"]}, input="z"),
    run("unknown_input", "jvp", {"inputs": POINT, "tangents": {"z": 1.0}}, input="z"),
    run("unknown_input", "forward", {"inputs": POINT, "in_axes": {"inputs/z": 0}}, input="z"),
    run("unknown_input", "forward", {"inputs": POINT, "in_axes": {"inputs/z": None}}, input="z"),
    run(
        "input_shape_mismatch",
        "forward",
        {"inputs": {**POINT, "x": {"shape": [2], "data": [1, 2]}}},
        input="x",
        expected=[3],
        actual=[2],
    ),
    run(
        "input_shape_mismatch",
        "forward",
        {"inputs": {**POINT, "w": {"data": [1, 2, 3, 4]}}},
        input="w",
        expected=[2, 3],
        actual=[4],
    ),
    run(
        "input_shape_mismatch",
        "forward",
        {"inputs": {**POINT, "x": [X, [1.0, 2.0, 3.0, 4.0]][1]}, "in_axes": {"inputs/w": 0}},
        input="x",
    ),
    run(
        "input_dtype_mismatch",
        "forward",
        {"inputs": {**POINT, "x": {"dtype": "float64", "data": X}}},
        input="x",
        expected="float32",
        actual="float64",
    ),
    run(
        "cotangent_shape_mismatch",
        "vjp",
        {"inputs": POINT, "cotangents": {"y": X}},
        output="y",
        expected=[2],
        actual=[3],
    ),
    run(
        "cotangent_dtype_mismatch",
        "vjp",
        {"inputs": POINT, "cotangents": {"y": {"dtype": "float64", "data": B}}},
        output="y",
        expected="float32",
        actual="float64",
    ),
    run(
        "tangent_shape_mismatch",
        "jvp",
        {"inputs": POINT, "tangents": {"x": [1.0]}},
        input="x",
        expected=[3],
        actual=[1],
    ),
    run(
        "tangent_dtype_mismatch",
        "jvp",
        {"inputs": POINT, "tangents": {"x": {"dtype": "int64", "data": [1, 2, 3]}}},
        input="x",
        expected="float32",
        actual="int64",
    ),
    run("missing_cotangent", "vjp", {"inputs": POINT, "outputs": ["y"]}, outputs=["y"]),
    run("missing_cotangent", "vjp", {"inputs": POINT, "outputs": ["total", "y"]}),
    run("not_differentiable", "vjp", {"inputs": POINT, "wrt": ["frozen"]}, input="frozen"),
    run("not_differentiable", "jvp", {"inputs": POINT, "tangents": {"k": 1}}, dtype="int64"),
    run("not_differentiable", "vjp", {"inputs": POINT, "cotangents": {"top": 1}}, output="top"),
    run(
        "non_finite",
        "forward",
        {"inputs": {"x": [1.0, -1.0, 2.0]}, "outputs": ["logx"], "nan_policy": "error"},
        stage="forward",
        node=8,
        name="logx",
        op="log",
        index=1,
        value="NaN",
        source="model.py:6",
    ),
    run(
        "non_finite",
        "forward",
        {"inputs": {"x": [1.0, "Infinity", 2.0]}, "outputs": ["logx"], "nan_policy": "error"},
        stage="input",
        node=0,
        index=1,
        value="Infinity",
    ),
    run("compile_failed", "forward", {"inputs": POINT, "tier": "compiled"}),
    Case(
        "no_output",
        "POST",
        "/v1/execute",
        {"inputs": [{"name": "x", "shape": []}], "nodes": [], "run": {"mode": "forward"}},
    ),
    # -- bodies
    create("malformed_body", {}, path="inputs"),
    create("malformed_body", {"inputs": None}, path="inputs"),
    create("malformed_body", {"inputs": [], "extra": 1}, path="extra"),
    create("malformed_body", {"inputs": [{"name": "x", "shape": [2.0]}]}, path="inputs/0/shape/0"),
    create("malformed_body", {"inputs": [{"name": "x", "shape": [True]}]}, path="inputs/0/shape/0"),
    create("malformed_body", {"from": {"session": "target"}, "inputs": []}, path="inputs"),
    add("malformed_body", node("tanh", None), path="nodes/0/inputs/0"),
    add("malformed_body", node("tanh", 1.0), path="nodes/0/inputs/0"),
    add("malformed_body", node("tanh", True), path="nodes/0/inputs/0"),
    add("malformed_body", node("tanh", {"id": 0}), path="nodes/0/inputs/0/shape"),
    add("malformed_body", GOOD, {"op": "tanh"}, path="nodes/1/inputs"),
    add("malformed_body", node("tanh", "x", source="s" * 301), path="nodes/0/source"),
    add("malformed_body", node("tanh", "x", color="red"), path="nodes/0/color"),
    run("malformed_body", "forward", {"cotangents": {}}, path="cotangents"),
    run("malformed_body", "forward", {"inputs": [1]}, path="inputs"),
    run("malformed_body", "forward", {"deadline_ms": True}, path="deadline_ms"),
    derive("malformed_body", {"transform": "vmap"}, path="axis_size"),
    derive("malformed_body", {"transform": "vjp", "axis_size": 2}, path="axis_size"),
    Case("malformed_body", "POST", "/v1/sessions", headers=JSON, raw=b"", facts={"path": ""}),
    Case("malformed_body", "POST", "/v1/sessions", headers=JSON, raw=b'{"inputs": [', facts={}),
    Case("malformed_body", "POST", "/v1/sessions", headers=JSON, raw=b'{"inputs": NaN}'),
    Case(
        "malformed_body",
        "POST",
        "/v1/sessions/target/nodes",
        raw=b'{"nodes": [{"op": "scale", "inputs": ["x"], "attrs": {"c": 1e400}}]}',
        facts={"path": "nodes/0/attrs/c"},
        headers=JSON,
    ),
    run(
        "malformed_tensor",
        "forward",
        {"inputs": {**POINT, "x": [[1.0], [2.0, 3.0]]}},
        path="inputs/x",
    ),
    run(
        "malformed_tensor",
        "forward",
        {"inputs": {**POINT, "x": {"dtype": "float32", "shape": [3], "base64": "####"}}},
        path="inputs/x/base64",
    ),
    run("malformed_tensor", "forward", {"inputs": {**POINT, "k": 1.5}}, path="inputs/k"),
    put(
        "malformed_tensor",
        {"data": "x"},
        path="",
        detail="the tensor: it is 'x', which float32 cannot hold.",
    ),
    put(
        "malformed_tensor",
        {"shape": [-1], "data": []},
        path="shape",
        detail="shape: -1 is no size of an axis.",
    ),
    put("malformed_tensor", {"dtype": "bool", "shape": [1], "base64": "#"}, path="base64"),
    put("unknown_dtype", {"dtype": "float16", "data": 1}, path="dtype", value="float16"),
    run("malformed_tensor", "forward", {"inputs": {**POINT, "x": [1, 2, 1e39]}}, path="inputs/x"),
    add(
        "malformed_tensor",
        node("const", attrs={"value": {"shape": [3], "data": [1.0]}}),
        path="nodes/0/attrs/value",
    ),
    Case(
        "malformed_tensor",
        "POST",
        "/v1/execute",
        {
            "inputs": [{"name": "x", "shape": [2]}],
            "nodes": [node("tanh", "x")],
            "run": {"mode": "forward", "inputs": {"x": [1.0, True]}},
        },
        {"path": "run/inputs/x"},
    ),
    Case(
        "unsupported_media_type",
        "POST",
        "/v1/sessions",
        raw=b"inputs=[]",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        facts={"expected": ["application/json", "application/x-safetensors"]},
    ),
    Case(
        "unsupported_media_type",
        "POST",
        "/v1/sessions",
        raw=b"\x1f\x8b",
        headers={**JSON, "Content-Encoding": "br"},
        facts={"actual": "br", "expected": ["gzip", "zstd", "identity"]},
    ),
    Case(
        "unsupported_media_type",
        "POST",
        "/v1/sessions",
        raw=b"{}",
        headers={"Content-Type": "application/json; charset=utf-16"},
    ),
    # -- sizes
    create(
        "memory_limit",
        {"inputs": [{"name": "x", "shape": [2**40, 2**40]}]},
        actual=2**82,
        limit=2**32,
    ),
    create("memory_limit", {"inputs": [{"name": "x", "shape": [2**62], "dtype": "float64"}]}),
    create(
        "memory_limit",
        {"inputs": [{"name": "x", "shape": [2**62, 0]}]},
        actual=2**64,
    ),
    derive("memory_limit", {"transform": "vmap", "axis_size": 2**62, "in_axes": {"x": 0}}),
    derive("memory_limit", {"transform": "vmap", "axis_size": 2**70, "in_axes": {}}),
    run(
        "memory_limit",
        "forward",
        {"inputs": POINT, "transforms": [{"transform": "vmap", "axis_size": 2**40}]},
    ),
    run(
        "quota_exceeded",
        "forward",
        {"inputs": POINT, "transforms": [{"transform": "jvp", "wrt": []}] * 30},
        quota="nodes",
    ),
    run(
        "invalid_shape",
        "forward",
        {"inputs": POINT, "transforms": [{"transform": "vmap", "axis_size": 1}] * 70},
        path="transforms/32/transform",
    ),
    add(
        "memory_limit",
        node("broadcast_to", "x", attrs={"shape": [2**40, 3]}),
        node_index=0,
        limit=2**32,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.code)
def test_code(http: httpx.Client, target: str, case: Case) -> None:
    before = http.get("/v1/sessions/target").json()
    if case.raw is not None:
        answer = http.request(case.method, case.path, content=case.raw, headers=case.headers)
    else:
        answer = http.request(case.method, case.path, json=case.body, headers=case.headers)
    body = problem(answer, case.code)
    for name, value in case.facts.items():
        if name == "suggestions":
            assert body[name][: len(value)] == value, body
        else:
            assert body[name] == value, body
    assert http.get("/v1/sessions/target").json() == before


# -- codes that need a state of affairs ------------------------------------------------------------

PROVOKED: set[str] = set()
Test = TypeVar("Test", bound=Callable[..., None])


def provokes(code: str) -> Callable[[Test], Test]:
    """Note that a test provokes a code, for the completeness test below."""
    PROVOKED.add(code)
    return lambda test: test


@provokes("idempotency_conflict")
def test_idempotency_conflict(http: httpx.Client, target: str) -> None:
    headers = {"Idempotency-Key": "conflict-1"}
    first = http.post("/v1/sessions", json={"inputs": []}, headers=headers)
    assert first.status_code == 201
    other = {"inputs": [{"name": "x", "shape": []}]}
    problem(http.post("/v1/sessions", json=other, headers=headers), "idempotency_conflict")


@provokes("payload_too_large")
def test_payload_too_large_by_declared_length(small: Server) -> None:
    body = b"[" + b" " * 300_000 + b"]"
    answer = small.http.post("/v1/sessions", content=body, headers=JSON)
    facts = problem(answer, "payload_too_large")
    assert (facts["limit"], facts["actual"]) == (200_000, len(body))


@provokes("payload_too_large")
def test_payload_too_large_by_counting(small: Server) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 10_000

    answer = small.http.post("/v1/sessions", content=chunks(), headers=JSON)
    facts = problem(answer, "payload_too_large")
    assert facts["limit"] < facts["actual"] <= 400_000


@provokes("quota_exceeded")
def test_quota_of_nodes(small: Server) -> None:
    http = small.http
    made = http.post("/v1/sessions", json={"name": "many", "inputs": [{"name": "x", "shape": []}]})
    assert made.status_code == 201
    nodes = [node("tanh", k) for k in range(60)]
    assert http.post("/v1/sessions/many/nodes", json={"nodes": nodes}).status_code == 201
    refused = http.post("/v1/sessions/many/nodes", json={"nodes": [node("tanh", "x")]})
    facts = problem(refused, "quota_exceeded")
    assert (facts["quota"], facts["limit"]) == ("nodes", 60)
    assert (facts["held"], facts["wanted"]) == (60, 1)
    assert "GRADWIRE_MAX_NODES" in facts["detail"]
    # A derived graph may not be larger either.
    batch = {"transform": "jvp"}
    refused = http.post("/v1/sessions/many/transforms", json=batch)
    facts = problem(refused, "quota_exceeded")
    assert (facts["quota"], facts["limit"]) == ("nodes", 60)
    assert facts["wanted"] > 60
    assert "held" not in facts
    assert http.delete("/v1/sessions/many").status_code == 204


@provokes("quota_exceeded")
def test_quota_of_sessions(small: Server) -> None:
    http = small.http
    made = []
    while (answer := http.post("/v1/sessions", json={"inputs": []})).status_code == 201:
        made.append(answer.json()["id"])
    facts = problem(answer, "quota_exceeded")
    assert (facts["quota"], facts["limit"]) == ("sessions", 12)
    assert (facts["held"], facts["wanted"]) == (12, 1)
    assert "GRADWIRE_MAX_SESSIONS" in facts["detail"]
    for id in made:
        assert http.delete(f"/v1/sessions/{id}").status_code == 204


@provokes("storage_full")
def test_storage_full(small: Server) -> None:
    http = small.http
    nodes = [node("tanh", "x", source="s" * 300)] * 20
    made = []
    answer = None
    while answer is None:
        created = http.post("/v1/sessions", json={"inputs": [{"name": "x", "shape": []}]})
        if created.status_code != 201:
            answer = created
            break
        made.append(created.json()["id"])
        for before in (0, 20, 40):
            added = http.post(f"/v1/sessions/{made[-1]}/nodes", json={"nodes": nodes})
            if added.status_code != 201:
                answer = added
                assert http.get(f"/v1/sessions/{made[-1]}").json()["version"] == before
                break
    problem(answer, "storage_full")
    for id in made:
        assert http.get(f"/v1/sessions/{id}").status_code == 200
        assert http.delete(f"/v1/sessions/{id}").status_code == 204
    again = http.post("/v1/sessions", json={"inputs": []})
    assert again.status_code == 201, "deleting makes room"
    http.delete(again.headers["location"])


def slow_graph(products: int) -> dict[str, Any]:
    """A run of some seconds that needs no input."""
    shape = {"shape": [1000, 1000], "seed": 1, "dtype": "float64"}
    nodes = [node("rand_uniform", attrs=shape, name="a")]
    nodes += [node("matmul", "a", k) for k in range(products)]
    nodes += [node("sum", products)]
    return {"inputs": [], "nodes": nodes, "run": {"mode": "forward"}}


@provokes("overloaded")
def test_overloaded(small: Server) -> None:
    """Slow runs keep the one thread busy until a quick one is refused; health always answers."""
    seen = threading.Event()
    statuses: list[int] = []

    def keep_busy() -> None:
        while not seen.is_set():
            url = f"{small.url}/v1/execute"
            statuses.append(httpx.post(url, json=slow_graph(20), timeout=60).status_code)

    busy = [threading.Thread(target=keep_busy) for _ in range(2)]
    for thread in busy:
        thread.start()
    quick = {
        "inputs": [],
        "nodes": [node("const", attrs={"value": 1.0})],
        "run": {"mode": "forward"},
    }
    try:
        for _ in range(1000):
            answer = small.http.post("/v1/execute", json=quick)
            assert small.http.get("/healthz").status_code == 200
            if answer.status_code == 503:
                break
    finally:
        seen.set()
        for thread in busy:
            thread.join()
    assert problem(answer, "overloaded")["reason"]
    assert set(statuses) <= {200, 503}
    assert small.http.post("/v1/execute", json=quick).status_code == 200


@provokes("deadline_exceeded")
def test_deadline_exceeded(http: httpx.Client) -> None:
    body = slow_graph(20)
    body["run"]["deadline_ms"] = 1
    facts = problem(http.post("/v1/execute", json=body), "deadline_exceeded")
    assert facts["deadline_ms"] == 1


@provokes("draining")
def test_draining(tmp_path: Path) -> None:
    with Server(tmp_path / "data", drain_seconds=3) as server:
        server.process.send_signal(signal.SIGTERM)
        for _ in range(100):
            answer = server.http.get("/v1/limits")
            if answer.status_code == 503:
                break
            time.sleep(0.02)
        assert problem(answer, "draining")["reason"]
        problem(server.http.get("/readyz"), "draining")
        assert server.http.get("/healthz").status_code == 200
        assert server.process.wait(30) == 0


@pytest.fixture
def local() -> Iterator[tuple[httpx.Client, LocalTransport]]:
    transport = LocalTransport(Settings())
    with httpx.Client(transport=transport, base_url="http://local") as client:
        yield client, transport


@provokes("jvp_unavailable")
def test_jvp_unavailable(
    local: tuple[httpx.Client, LocalTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    http, _ = local

    class OneWay(Op, inputs=("x",), reverse_only=True, private=True):
        """An op with a VJP only; there is none in the catalogue."""

        def typing(self, x: Any) -> Any:
            return x

        def numpy(self, x: Any) -> Any:
            return x

    monkeypatch.setitem(base._REGISTRY, "one_way", OneWay)
    http.post("/v1/sessions", json={"name": "s", "inputs": [{"name": "x", "shape": []}]})
    added = http.post("/v1/sessions/s/nodes", json={"nodes": [node("one_way", "x")]})
    assert added.status_code == 201, added.text
    available = http.get("/v1/sessions/s/jvp-availability").json()
    assert available == {"available": False, "reverse_only": ["one_way"]}
    facts = problem(
        http.post("/v1/sessions/s/jvp", json={"inputs": {"x": 1.0}, "tangents": {"x": 1.0}}),
        "jvp_unavailable",
    )
    assert (facts["ops"], facts["nodes"]) == (["one_way"], [1])


@provokes("internal")
def test_internal_says_nothing_but_the_request_id(
    local: tuple[httpx.Client, LocalTransport],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    http, transport = local

    def fail(*_: object) -> None:
        raise KeyError("a secret")

    monkeypatch.setattr(transport.app.state.service.store, "find", fail)
    with caplog.at_level(logging.ERROR, "gradwire.requests"):
        answer = http.get("/v1/sessions/s", headers={"X-Request-Id": "trace-7"})
    body = problem(answer, "internal")
    assert body["request_id"] == "trace-7"
    assert set(body) == {"type", "title", "status", "detail", "code", "request_id"}
    assert "secret" not in answer.text
    assert "trace-7" in caplog.text
    assert "a secret" in caplog.text


# -- the guards, of which `test_guards` and `test_owners` say more ---------------------------------


@provokes("forbidden")
def test_forbidden(http: httpx.Client) -> None:
    facts = problem(http.get("/v1/ops", headers={"Host": "evil.example"}), "forbidden")
    assert (facts["header"], facts["value"]) == ("Host", "evil.example")
    assert facts["reason"]


@provokes("unauthenticated")
def test_unauthenticated() -> None:
    transport = LocalTransport(Settings(keys="required"))
    with httpx.Client(transport=transport, base_url="http://local") as client:
        assert problem(client.get("/v1/ops"), "unauthenticated")["reason"]
    transport.close()


@provokes("rate_limited")
def test_rate_limited() -> None:
    transport = LocalTransport(Settings(requests_per_second=0.01))
    with httpx.Client(transport=transport, base_url="http://local") as client:
        assert client.get("/v1/ops").status_code == 200
        answer = client.get("/v1/ops")
        facts = problem(answer, "rate_limited")
        assert (facts["limit"], facts["reason"]) == (0.01, "0.01 requests a second are yours")
        assert facts["retry_after"] == int(answer.headers["retry-after"]) > 10
    transport.close()


@provokes("request_timeout")
@provokes("headers_too_large")
def test_requests_that_come_slowly_or_with_too_much(tmp_path: Path) -> None:
    with Server(tmp_path / "data", header_bytes=2000, body_seconds=0.5) as server:
        large = server.http.get("/v1/ops", headers={"X-Padding": "x" * 3000})
        facts = problem(large, "headers_too_large")
        assert facts["limit"] == 2000 < facts["actual"]

        def half() -> Iterator[bytes]:
            yield b"{"
            time.sleep(5)
            yield b"}"

        slow = server.http.post("/v1/sessions", content=half(), headers=JSON)
        facts = problem(slow, "request_timeout")
        assert facts["received"] == 1
        assert facts["seconds"] >= 0.5


def test_a_session_expires(tmp_path: Path) -> None:
    """Its owner is told when; the name is free again; one that is in use stays."""
    with Server(tmp_path / "data", session_seconds=3) as server:
        http = server.http
        for name in ("old", "used"):
            body = {"name": name, "inputs": [{"name": "x", "shape": []}]}
            assert http.post("/v1/sessions", json=body).status_code == 201
            entry = {"nodes": [node("tanh", "x")]}
            assert http.post(f"/v1/sessions/{name}/nodes", json=entry).status_code == 201
        ends = time.monotonic() + 3.6
        while time.monotonic() < ends:
            assert http.post("/v1/sessions/used/forward", json={"inputs": {"x": 1.0}}).is_success
            time.sleep(0.1)
        facts = problem(http.get("/v1/sessions/old"), "session_not_found")
        assert facts["expired_at"].endswith("Z")
        assert [s["name"] for s in http.get("/v1/sessions").json()["sessions"]] == ["used"]
        assert http.post("/v1/sessions", json={"name": "old", "inputs": []}).status_code == 201


# -- completeness ----------------------------------------------------------------------------------


def test_every_code_is_provoked() -> None:
    assert service_errors.Internal.code == "internal"
    codes = {code for code, kind in catalogue().items() if kind.__module__.startswith("gradwire")}
    assert {case.code for case in CASES} | PROVOKED == codes
    assert codes == set(STATUS)


@pytest.mark.parametrize("code", STATUS)
def test_every_fact_is_an_attribute_in_python(code: str) -> None:
    """`docs/errors.md` lists the facts of the server's classes and calls them attributes."""
    facts = {member.name for member in dataclasses.fields(catalogue()[code])}  # type: ignore[arg-type] # made so by EngineError
    assert facts <= set(BY_CODE[code].fact_names)


def test_what_was_meant_is_in_the_sentence(http: httpx.Client, target: str) -> None:
    http.put("/v1/tensors/weights", json=[1.0])
    for method, path, meant in [
        ("GET", "/v1/sessions/targt", "Did you mean 'target'?"),
        ("GET", "/v1/tensors/wieghts", "Did you mean 'weights'?"),
        ("GET", "/v1/session", "Did you mean '/v1/sessions'"),
        ("PATCH", "/v1/sessions", "takes GET and HEAD and POST, not PATCH"),
    ]:
        assert meant in http.request(method, path).json()["detail"]
    body = {"inputs": {**POINT, "w": {"tensor": "weihgts"}}}
    answer = http.post("/v1/sessions/target/forward", json=body)
    assert "Did you mean 'weights'?" in problem(answer, "unknown_tensor")["detail"]


def test_a_refusal_quotes_anything_safely(http: httpx.Client, target: str) -> None:
    """Facts quote the request: huge integers, deep lists and odd text must still make JSON."""
    values: list[Any] = [10**400, -(10**400), [[[[[[[[[[[[1]]]]]]]]]]]], {"a": {}}]
    for value in [*values, "\x00\u2028é" * 2000]:
        body = {"nodes": [node("reduce_sum", "x", attrs={"axis": value})]}
        answer = http.post("/v1/sessions/target/nodes", json=body)
        assert problem(answer, "invalid_attribute")["attribute"] == "axis"
        assert len(answer.content) < 20_000
        json.loads(answer.content)


# -- what an error means ---------------------------------------------------------------------------


def test_the_type_of_a_problem_leads_somewhere(http: httpx.Client) -> None:
    refused = problem(http.get("/v1/ops/sigmod"), "op_not_found")
    told = http.get(refused["type"]).json()
    assert {name: told[name] for name in ("type", "code", "title", "status")} == {
        name: refused[name] for name in ("type", "code", "title", "status")
    }
    assert set(told["facts"]) <= set(refused)
    assert told["meaning"]
    assert "(ops/" not in told["advice"], "its links are those of the documentation"


@pytest.mark.parametrize("code", STATUS)
def test_every_error_can_be_looked_up(http: httpx.Client, code: str) -> None:
    told = http.get(f"/errors/{code.replace('_', '-')}").json()
    assert (told["code"], told["status"]) == (code, STATUS[code])
    assert told == http.get(f"/errors/{code}").json()


def test_an_error_that_is_none(http: httpx.Client) -> None:
    facts = problem(http.get("/errors/shape-mismath"), "route_not_found")
    assert "/errors/shape-mismatch" in facts["suggestions"]
