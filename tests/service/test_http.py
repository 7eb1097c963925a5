"""Forms, headers and threads: what every route has in common."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import MutableMapping
from typing import Any

import httpx
import numpy as np
import pytest

from gradwire.wire import safetensors
from gradwire.wire.errors import STATUS, WireError
from gradwire.wire.tensors import decode_tensor
from gradwire_engine.errors import catalogue
from gradwire_service.dispatch import declared_length, read_body
from gradwire_service.errors import PayloadTooLarge, from_wire, problem_of
from gradwire_service.http import encode, prefers_binary

BINARY = safetensors.MEDIA_TYPE
X = np.array([0.0, 0.5, -0.5], np.float32)


@pytest.fixture
def model(http: httpx.Client) -> httpx.Client:
    http.post("/v1/sessions", json={"name": "m", "inputs": [{"name": "a/x", "shape": [3]}]})
    http.post("/v1/sessions/m/nodes", json={"nodes": [{"op": "tanh", "inputs": [0], "name": "y"}]})
    return http


def binary(tensors: dict[str, np.ndarray[Any, Any]], document: object = None) -> bytes:
    return b"".join(safetensors.pack(tensors, document, "request"))


def unpacked(answer: httpx.Response) -> tuple[dict[str, np.ndarray[Any, Any]], Any]:
    assert answer.headers["content-type"] == BINARY, answer.text
    return safetensors.unpack(answer.content, "response")


def test_lists_get_lists(model: httpx.Client) -> None:
    body = {"inputs": {"a/x": X.tolist()}}
    answer = model.post("/v1/sessions/m/forward", json=body)
    y = answer.json()["outputs"]["y"]
    assert np.array_equal(np.float32(y["data"]), np.tanh(X))


def test_base64_gets_base64(model: httpx.Client) -> None:
    tensor = {"dtype": "float32", "shape": [3], "base64": base64.b64encode(X.tobytes()).decode()}
    answer = model.post("/v1/sessions/m/forward", json={"inputs": {"a/x": tensor}})
    y = answer.json()["outputs"]["y"]
    assert np.array_equal(np.frombuffer(base64.b64decode(y["base64"]), "<f4"), np.tanh(X))


def test_binary_gets_binary(model: httpx.Client) -> None:
    answer = model.post(
        "/v1/sessions/m/vjp",
        content=binary({"inputs/a/x": X, "cotangents/y": np.ones(3, np.float32)}),
        headers={"Content-Type": BINARY},
    )
    tensors, document = unpacked(answer)
    assert document is None
    assert list(tensors) == ["outputs/y", "gradients/a/x"]
    assert np.allclose(tensors["gradients/a/x"], 1 - np.tanh(X) ** 2)
    assert answer.headers["gradwire-tier"] == "interpreted"


@pytest.mark.parametrize(
    "accept", [BINARY, f"{BINARY}, */*;q=0.1", f"application/json;q=0.2, {BINARY}"]
)
def test_accept_picks_the_form(model: httpx.Client, accept: str) -> None:
    body = {"inputs": {"a/x": X.tolist()}}
    answer = model.post("/v1/sessions/m/forward", json=body, headers={"Accept": accept})
    assert np.array_equal(unpacked(answer)[0]["outputs/y"], np.tanh(X))
    assert answer.headers["vary"] == "Accept"
    kind = {"Content-Type": BINARY, "Accept": "application/json"}
    answer = model.post("/v1/sessions/m/forward", content=binary({"inputs/a/x": X}), headers=kind)
    assert answer.json()["outputs"]["y"]["shape"] == [3]


@pytest.mark.parametrize(
    ("accept", "default", "wanted"),
    [
        (None, False, False),
        (None, True, True),
        ("", True, True),
        ("*/*", True, True),
        ("*/*", False, False),
        ("application/*", True, True),
        ("text/html", True, True),
        ("application/json", True, False),
        (BINARY, False, True),
        (f"application/json, {BINARY}", True, True),
        (f"{BINARY};q=0.5, application/json;q=0.4", False, True),
        (f"{BINARY};q=0, */*", True, False),
        (f"{BINARY};q=zero", False, True),
        (f"  {BINARY.upper()} ; q=1.0", False, True),
    ],
)
def test_preferences(accept: str | None, default: bool, wanted: bool) -> None:
    assert prefers_binary(accept, default=default) is wanted


def test_a_session_in_binary(model: httpx.Client) -> None:
    nodes = [{"op": "const", "inputs": [], "name": "c"}, {"op": "tanh", "inputs": ["c"]}]
    content = binary({"nodes/0/attrs/value": X}, {"nodes": nodes})
    added = model.post("/v1/sessions/m/nodes", content=content, headers={"Content-Type": BINARY})
    assert added.status_code == 201, added.text
    tensors, document = unpacked(added)
    assert np.array_equal(tensors["nodes/0/attrs/value"], X)
    assert document["version"] == 3
    assert [node["op"] for node in document["nodes"]] == ["const", "tanh"]
    read = model.get("/v1/sessions/m", headers={"Accept": BINARY})
    tensors, document = unpacked(read)
    assert np.array_equal(tensors["nodes/1/attrs/value"], X)
    assert document["nodes"][1]["attrs"] == {}


def test_a_binary_body_may_hold_lists_of_numbers(model: httpx.Client) -> None:
    nodes = [{"op": "reshape", "inputs": [0], "attrs": None}]
    content = binary({"nodes/0/attrs/shape": np.array([3, 1])}, {"nodes": nodes})
    kind = {"Content-Type": BINARY, "Accept": "application/json"}
    added = model.post("/v1/sessions/m/nodes", content=content, headers=kind)
    assert added.json()["nodes"][0]["attrs"] == {"shape": [3, 1]}


def test_non_finite_numbers_travel(model: httpx.Client) -> None:
    body = {"inputs": {"a/x": ["NaN", "Infinity", "-Infinity"]}, "outputs": ["a/x"]}
    answer = model.post("/v1/sessions/m/forward", json=body)
    assert answer.json()["outputs"]["a/x"]["data"] == ["NaN", "Infinity", "-Infinity"]


def test_linearize_inside_a_run_takes_its_point_in_binary(model: httpx.Client) -> None:
    document = {"transforms": [{"transform": "linearize"}], "outputs": ["tangent.y"]}
    tensors = {"transforms/0/inputs/a/x": X, "inputs/tangent.a/x": np.ones(3, np.float32)}
    answer = model.post(
        "/v1/sessions/m/forward",
        content=binary(tensors, document),
        headers={"Content-Type": BINARY},
    )
    assert answer.status_code == 200, answer.text
    assert np.allclose(unpacked(answer)[0]["outputs/tangent.y"], 1 - np.tanh(X) ** 2)


def test_every_answer_has_a_request_id_and_runs_are_timed(model: httpx.Client) -> None:
    answer = model.post(
        "/v1/sessions/m/forward",
        json={"inputs": {"a/x": [0, 0, 0]}},
        headers={"X-Request-Id": "my-trace:1"},
    )
    assert answer.headers["x-request-id"] == "my-trace:1"
    steps = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    assert list(steps) == ["queue", "decode", "compile", "execute", "encode"]
    assert all(float(ms) >= 0 for ms in steps.values())
    others = {model.get("/healthz").headers["x-request-id"] for _ in range(3)}
    assert len(others) == 3


def test_head_is_get_without_a_body(model: httpx.Client) -> None:
    answer = model.head("/v1/sessions/m")
    assert answer.status_code == 200
    assert answer.headers["etag"] == '"1"'
    assert answer.content == b""


def test_encoding_takes_arrays_out_of_a_document() -> None:
    document = {
        "outputs": {"y": X},
        "gradients": {},
        "nodes": [{"attrs": {"value": X}, "inputs": []}],
    }
    _, chunks = encode(document, "binary")
    tensors, rest = safetensors.unpack(b"".join(chunks), "response")
    assert set(tensors) == {"outputs/y", "nodes/0/attrs/value"}
    assert rest == {"gradients": {}, "nodes": [{"attrs": {}, "inputs": []}]}


def test_words_among_numbers_are_encoded_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradwire.wire.tensors._PART", 3)
    inf, nan = float("inf"), float("nan")
    floats = np.array([0.1, nan, 2.0, 3.5, -inf, inf, inf, -0.0], np.float32)
    ints = np.array([1, -(2**63), 2**53 - 1, 2**53, 0], np.int64)
    for array in (floats, floats[:1], floats[1:2], floats[:0], ints, floats.reshape(2, 4)):
        _, chunks = encode({"y": array}, "data")
        data = json.loads(b"".join(chunks))["y"]["data"]
        assert len(data) == array.size
        again = decode_tensor({"data": data}, "y", dtype=array.dtype.name, shape=array.shape)
        np.testing.assert_array_equal(again, array)
    assert json.loads(b"".join(encode([ints], "data")[1]))[0]["data"] == [
        *(1, "-9223372036854775808", 2**53 - 1, "9007199254740992", 0)
    ]
    assert json.loads(b"".join(encode([floats], "data")[1]))[0]["data"] == [
        *(0.1, "NaN", 2.0, 3.5, "-Infinity", "Infinity", "Infinity", 0.0)
    ]


# -- bodies ----------------------------------------------------------------------------------------


def received(*chunks: bytes, gone: bool = False) -> Any:
    messages: list[MutableMapping[str, Any]] = [
        {"type": "http.request", "body": chunk, "more_body": gone or k < len(chunks) - 1}
        for k, chunk in enumerate(chunks)
    ]
    if gone:
        messages.append({"type": "http.disconnect"})
    source = iter(messages)

    async def receive() -> MutableMapping[str, Any]:
        return next(source)

    return receive


def body_of(receive: Any, declared: int | None = None, limit: int = 10) -> bytes:
    return bytes(asyncio.run(read_body(declared, receive, limit)))


def test_bodies_are_joined_and_counted() -> None:
    assert body_of(received(b"")) == b""
    assert body_of(received(b"abc")) == b"abc"
    assert body_of(received(b"abc", b"", b"defg")) == b"abcdefg"
    assert body_of(received(b"abc", b"defg"), 7) == b"abcdefg"
    for chunks in ([b"a" * 11], [b"a" * 6, b"b" * 5]):
        with pytest.raises(PayloadTooLarge) as refused:
            body_of(received(*chunks))
        assert (refused.value.limit, refused.value.actual) == (10, 11)


def test_a_declared_length_is_refused_before_reading() -> None:
    assert declared_length({"content-length": "10"}, 10) == 10
    assert declared_length({}, 10) is None
    with pytest.raises(PayloadTooLarge) as refused:
        declared_length({"content-length": "11"}, 10)
    assert refused.value.actual == 11


# -- problems --------------------------------------------------------------------------------------


def test_every_code_has_a_status() -> None:
    codes = {code for code, kind in catalogue().items() if kind.__module__.startswith("gradwire")}
    assert codes <= set(STATUS)


@pytest.mark.parametrize("code", ["malformed_body", "malformed_tensor", "unknown_dtype"])
def test_faults_of_the_wire_become_refusals(code: Any) -> None:
    error = from_wire(WireError(code, "inputs/x", "it is wrong", "f4"))
    assert error.code == code
    assert error.facts()["path"] == "inputs/x"


def test_an_exhausted_memory_is_no_internal_fault() -> None:
    status, _, body, headers = problem_of(MemoryError(), "id")
    assert (status, headers) == (503, {"Retry-After": "1"})
    assert b"overloaded" in body


def test_the_root_leads_to_the_documentation(http: httpx.Client) -> None:
    answer = http.get("/")
    assert (answer.status_code, answer.headers["location"]) == (307, "/docs")
