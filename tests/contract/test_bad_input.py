"""Input of every wrong kind: a refusal that names the place, never a 500, nothing changed."""

from __future__ import annotations

import base64
import copy
import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import numpy as np
import pytest

from gradwire.wire import safetensors
from tests.contract.test_error_codes import JSON, POINT, node
from tests.service.serving import Server, problem

RUN = {
    "inputs": POINT,
    "outputs": ["y", 5, {"id": 10, "shape": []}],
    "in_axes": {"inputs/x": 0},
    "reduce": {"outputs/y": "sum"},
    "nan_policy": "propagate",
    "deadline_ms": 10000,
    "tier": "auto",
    "transforms": [
        {"transform": "vjp", "outputs": ["total"], "wrt": ["x"]},
        {"transform": "vmap", "axis_size": 2, "in_axes": {"x": 0}},
        {"transform": "linearize", "inputs": {"x": [1.0, 2.0, 3.0]}, "wrt": ["x"]},
    ],
}
NODES = [
    {
        "op": "reduce_sum",
        "inputs": ["x"],
        "attrs": {"axis": 0, "keepdims": True},
        "name": "r",
        "source": "here",
    },
    {"op": "const", "inputs": [], "attrs": {"value": {"dtype": "float32", "data": [1.0]}}},
    {"op": "reshape", "inputs": [{"id": 0, "shape": [3]}], "attrs": {"shape": [3, 1]}},
    {"op": "dot_general", "inputs": ["w", "x"], "attrs": {"contract": [[1], [0]]}},
    {"op": "rand_uniform", "inputs": [], "attrs": {"shape": [2], "seed": 7, "dtype": "float64"}},
    {"op": "einsum", "inputs": ["w", "x"], "attrs": {"spec": "ij,j->i"}},
]
INPUTS = [{"name": "x", "shape": [3], "dtype": "float32", "differentiable": True}]

VALID: dict[str, tuple[str, str, dict[str, Any]]] = {
    "create": ("POST", "/v1/sessions", {"name": "fresh", "inputs": INPUTS}),
    "fork": ("POST", "/v1/sessions", {"name": "f", "from": {"session": "target", "version": 2}}),
    "append": ("POST", "/v1/sessions/target/nodes", {"nodes": NODES}),
    "outputs": ("PUT", "/v1/sessions/target/outputs", {"outputs": {"y": "y", "t": 10}}),
    "forward": ("POST", "/v1/sessions/target/forward", RUN),
    "vjp": (
        "POST",
        "/v1/sessions/target/vjp",
        {"inputs": POINT, "cotangents": {"y": [1.0, 0.0]}, "wrt": ["x", "w"]},
    ),
    "jvp": ("POST", "/v1/sessions/target/jvp", {"inputs": POINT, "tangents": {"x": [1, 0, 0]}}),
    "vmap": (
        "POST",
        "/v1/sessions/target/transforms",
        {"transform": "vmap", "axis_size": 2, "in_axes": {"x": 0}, "name": "d"},
    ),
    "linearize": (
        "POST",
        "/v1/sessions/target/transforms",
        {"transform": "linearize", "inputs": POINT, "outputs": ["y"], "wrt": ["x"]},
    ),
    "execute": (
        "POST",
        "/v1/execute",
        {
            "inputs": INPUTS,
            "nodes": [node("tanh", "x", name="y")],
            "outputs": {"y": "y"},
            "run": {
                "mode": "vjp",
                "inputs": {"x": [1.0, 2.0, 3.0]},
                "cotangents": {"y": [1, 1, 1]},
            },
        },
    ),
}

ODD: list[Any] = [
    *(None, True, 0, -1, 2, 1.5, 2**40, 2**70, -(10**30), 1e300, "", "x", "é\x00", "NaN"),
    *(
        [],
        [None],
        [[]],
        [1, "a"],
        [2**40, 2**40],
        [-1],
        {},
        {"x": None},
        {"id": 0},
        {"tensor": "t"},
    ),
    {"dtype": "float32", "shape": [2**40, 2**40], "data": []},
    {"dtype": "int64", "shape": [2], "base64": "AAAA"},
]

OPEN = ("inputs", "cotangents", "tangents", "outputs", "in_axes", "reduce", "attrs", "value")
"""Objects whose members are the caller's names, or a tensor's."""


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document but the whole."""
    members = document.items() if isinstance(document, dict) else enumerate(document)
    for step, item in members:
        yield (*path, step)
        if isinstance(item, dict | list):
            yield from places(item, (*path, step))


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(document)
    here = changed
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = value
    return changed


def removed(document: Any, path: tuple[Any, ...]) -> Any:
    changed = copy.deepcopy(document)
    here = changed
    for step in path[:-1]:
        here = here[step]
    del here[path[-1]]
    return changed


@pytest.fixture(autouse=True)
def restore(http: httpx.Client, target: str) -> Iterator[None]:
    """Forget the sessions, and the version of `target`, that odd but legal requests made."""
    yield
    for session in http.get("/v1/sessions").json()["sessions"]:
        if session["name"] != "target":
            http.delete(f"/v1/sessions/{session['id']}")
    # Appends cannot be undone: a fork at the old version takes the session's place.
    if http.get("/v1/sessions/target").json()["version"] > 6:
        kept = {"from": {"session": "target", "version": 6}, "name": "keeper"}
        assert http.post("/v1/sessions", json=kept).status_code == 201
        assert http.delete("/v1/sessions/target").status_code == 204
        again = {"from": {"session": "keeper"}, "name": "target"}
        assert http.post("/v1/sessions", json=again).status_code == 201
    http.put("/v1/sessions/target/outputs", json={"outputs": {}})


@pytest.mark.slow
@pytest.mark.parametrize("name", VALID)
def test_odd_values_anywhere(http: httpx.Client, name: str) -> None:
    """Each value of a valid request in turn is replaced by odd ones, or left out."""
    method, path, valid = VALID[name]
    for place in places(valid):
        mutants = [replaced(valid, place, odd) for odd in ODD]
        if not isinstance(place[-1], int):
            mutants.append(removed(valid, place))
        for mutant in mutants:
            answer = http.request(method, path, json=mutant)
            late = answer.status_code == 504 and place[-1] == "deadline_ms"  # of no milliseconds
            assert answer.status_code < 500 or late, (place, mutant, answer.text)
            if answer.status_code >= 400:
                problem(answer)


@pytest.mark.parametrize("name", VALID)
def test_unknown_fields(http: httpx.Client, name: str) -> None:
    """A field that the contract does not name is refused by its path, in whatever object it is."""
    method, path, valid = VALID[name]
    closed = [(), *places(valid)]
    for place in closed:
        here: Any = valid
        for step in place:
            here = here[step]
        if not isinstance(here, dict) or (place and place[-1] in OPEN):
            continue
        mutant = replaced(valid, (*place, "surplus"), 1)
        body = problem(http.request(method, path, json=mutant), None)
        assert body["code"] in ("malformed_body", "malformed_tensor"), body
        where = "/".join(map(str, place))
        assert body["path"] == (f"{where}/surplus" if where else "surplus") or (
            body["code"] == "malformed_tensor" and body["path"] == where
        )


WRONG_TYPES: dict[str, dict[str, list[Any]]] = {
    "create": {
        "name": [1],
        "inputs": [{}],
        "inputs/0": [[]],
        "inputs/0/name": [1],
        "inputs/0/shape": [3],
        "inputs/0/shape/0": ["3", None],
        "inputs/0/dtype": [4],
        "inputs/0/differentiable": [1],
    },
    "fork": {
        "from": [[]],
        "from/session": [1],
        "from/version": ["2", 2.0],
    },
    "append": {
        "nodes": [{}],
        "nodes/0": [1],
        "nodes/0/op": [1],
        "nodes/0/inputs": ["x"],
        "nodes/0/inputs/0": [[], None, 0.0, False],
        "nodes/0/attrs": [[]],
        "nodes/0/name": [1],
        "nodes/0/source": [1],
        "nodes/2/inputs/0/id": ["0", True],
        "nodes/2/inputs/0/shape": [3],
    },
    "outputs": {"outputs": [[]], "outputs/y": [None, 1.0]},
    "forward": {
        "inputs": [[]],
        "outputs": ["y"],
        "outputs/0": [None],
        "in_axes": [[]],
        "in_axes/inputs/x": ["0", 0.0],
        "reduce/outputs/y": [1],
        "nan_policy": [1],
        "deadline_ms": ["1"],
        "tier": [1],
        "transforms": [{}],
        "transforms/0": [1],
        "transforms/0/transform": [1],
        "transforms/0/outputs": [1],
        "transforms/0/wrt": ["x"],
        "transforms/0/wrt/0": [1],
        "transforms/1/axis_size": [2.0],
        "transforms/1/in_axes": [1],
        "transforms/2/inputs": [[]],
    },
    "vjp": {"cotangents": [[]], "wrt": ["x"], "wrt/0": [0]},
    "jvp": {"tangents": [1]},
    "vmap": {"transform": [1], "axis_size": ["2", True], "name": [1]},
    "execute": {
        "inputs": [1],
        "nodes": [1],
        "outputs": [1],
        "run": [1],
        "run/mode": [1],
        "run/inputs": [1],
        "run/cotangents": [1],
    },
}


@pytest.mark.parametrize(
    ("name", "where", "value"),
    [
        (name, where, value)
        for name, rows in WRONG_TYPES.items()
        for where, values in rows.items()
        for value in values
    ],
)
def test_wrong_types(http: httpx.Client, name: str, where: str, value: Any) -> None:
    """Every typed field with a value of another type: 400, and the path of the field."""
    method, path, valid = VALID[name]
    steps = where.split("/")
    if where.startswith(("in_axes/", "reduce/")):  # these keys hold slashes themselves
        steps = where.split("/", 1)
    place = tuple(int(step) if step.isdigit() else step for step in steps)
    body = problem(http.request(method, path, json=replaced(valid, place, value)), "malformed_body")
    assert body["path"] == where


# -- bytes -----------------------------------------------------------------------------------------

BODIES = [
    b"",
    b" ",
    b"{",
    b"[",
    b"null",
    b"[]",
    b'"text"',
    b"1",
    b'{"inputs": []',
    b'{"inputs": [],}',
    b"{'inputs': []}",
    b'{"inputs": [] "name": 1}',
    b'{"inputs": NaN}',
    b'{"inputs": [Infinity]}',
    b'{"inputs": [], "inputs": []}',
    b'{"inputs": [], "name": "\\ud800"}',
    b'{"inputs": [], "name": "\xff"}',
    b'\xff\xfe{"inputs": []}',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"inputs": ' + b"9" * 10_000 + b"}",
    b"\x00" * 100,
]


@pytest.mark.parametrize("raw", BODIES, ids=range(len(BODIES)))
def test_malformed_json(http: httpx.Client, raw: bytes) -> None:
    problem(http.post("/v1/sessions", content=raw, headers=JSON), "malformed_body")
    problem(http.post("/v1/execute", content=raw, headers=JSON), "malformed_body")


@pytest.mark.parametrize("depth", [50, 200, 500, 900, 960, 975, 985, 990, 1500])
def test_deep_nesting(http: httpx.Client, depth: int) -> None:
    """Whether the parser or what comes after it gives up first, the answer is a refusal."""
    deep = b"[" * depth + b"]" * depth
    for body in (
        b'{"nodes": [{"op": "reduce_sum", "inputs": ["x"], "attrs": {"axis": %s}}]}' % deep,
        b'{"nodes": [{"op": "const", "inputs": [], "attrs": {"value": %s}}]}' % deep,
        b'{"nodes": [{"op": "tanh", "inputs": %s}]}' % deep,
        b'{"nodes": %s}' % deep,
    ):
        answer = http.post("/v1/sessions/target/nodes", content=body, headers=JSON)
        assert answer.status_code in (400, 422)
        problem(answer)


BASE64 = [
    {"dtype": "float32", "shape": [3], "base64": "not base64!"},
    {"dtype": "float32", "shape": [3], "base64": "AAA"},
    {"dtype": "float32", "shape": [3], "base64": "AAAAAAAAAAA="},
    {"dtype": "float32", "shape": [3], "base64": base64.b64encode(bytes(13)).decode()},
    {"dtype": "float32", "shape": [3], "base64": 7},
    {"dtype": "float32", "shape": [3], "base64": "", "data": []},
    {"dtype": "float32", "shape": [-3], "base64": ""},
    {"dtype": "float32", "shape": [2**40, 2**40], "base64": ""},
    {"dtype": "bool", "shape": [3], "base64": base64.b64encode(b"\x01\x02\x03").decode()},
]


@pytest.mark.parametrize("tensor", BASE64, ids=range(len(BASE64)))
def test_malformed_base64(http: httpx.Client, tensor: dict[str, Any]) -> None:
    body = {"inputs": {"x": tensor}, "outputs": ["logx"]}
    answer = http.post("/v1/sessions/target/forward", json=body)
    assert problem(answer, "malformed_tensor")["path"].startswith("inputs/x")


def frame(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def file(data: bytes = b"", /, **entries: Any) -> bytes:
    return frame(json.dumps(entries).encode(), data)


X = entry("F32", [3], 0, 12)
FRAMES = [
    b"",
    b"\x00" * 7,
    struct.pack("<Q", 2**63),
    struct.pack("<Q", 100) + b"{}",
    frame(b""),
    frame(b"[]"),
    frame(b"{"),
    frame(b'{"a": NaN}'),
    frame(b"{}", b"surplus"),
    file(**{"inputs/x": X}),
    file(bytes(13), **{"inputs/x": X}),
    file(bytes(12), **{"inputs/x": entry("F32", [4], 0, 12)}),
    file(bytes(12), **{"inputs/x": entry("F32", [2**40, 2**40], 0, 12)}),
    file(bytes(12), **{"inputs/x": entry("F32", [3], 12, 0)}),
    file(bytes(12), **{"inputs/x": entry("F32", [3], -12, 0)}),
    file(bytes(12), **{"inputs/x": {"dtype": "F32", "shape": [3]}}),
    file(bytes(12), **{"inputs/x": []}),
    file(bytes(12), x=X),
    file(bytes(12), **{"inputs/": X}),
    file(bytes(12), **{"outputs/x": X}),
    file(bytes(12), **{"nodes/0/attrs/value": X}),
    file(bytes(12), **{"transforms/0/inputs/x": X}),
    file(bytes(12), **{"inputs/x": X, "__metadata__": []}),
    file(bytes(12), **{"inputs/x": X, "__metadata__": {"request": "{"}}),
    file(bytes(12), **{"inputs/x": X, "__metadata__": {"request": "[]"}}),
    file(bytes(12), **{"inputs/x": X, "__metadata__": {"request": 1}}),
    file(bytes(12), **{"inputs/x": X, "__metadata__": {"request": '{"inputs": {"x": 1}}'}}),
    file(bytes(12), **{"inputs/x": X, "__metadata__": {"request": '{"inputs": []}'}}),
]


@pytest.mark.parametrize("raw", FRAMES, ids=range(len(FRAMES)))
def test_malformed_safetensors(http: httpx.Client, raw: bytes) -> None:
    kind = {"Content-Type": safetensors.MEDIA_TYPE}
    answer = http.post("/v1/sessions/target/forward", content=raw, headers=kind)
    problem(answer, "malformed_body")
    answer = http.post("/v1/sessions/target/nodes", content=raw, headers=kind)
    assert answer.status_code == 400
    problem(answer)


def test_unknown_dtype_in_safetensors(http: httpx.Client) -> None:
    raw = file(bytes(6), **{"inputs/x": entry("F16", [3], 0, 6)})
    kind = {"Content-Type": safetensors.MEDIA_TYPE}
    answer = http.post("/v1/sessions/target/forward", content=raw, headers=kind)
    assert problem(answer, "unknown_dtype")["value"] == "F16"


def test_truncated_frames(http: httpx.Client) -> None:
    """Every prefix of a sound file, and one byte changed at a time, gets a refusal or an answer."""
    arrays = {"inputs/x": np.arange(3, dtype=np.float32)}
    whole = b"".join(safetensors.pack(arrays, {"outputs": ["logx"]}, "request"))
    kind = {"Content-Type": safetensors.MEDIA_TYPE}
    for cut in range(0, len(whole), 3):
        answer = http.post("/v1/sessions/target/forward", content=whole[:cut], headers=kind)
        problem(answer, "malformed_body")
    for at in range(0, len(whole), 3):
        flipped = whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]
        answer = http.post("/v1/sessions/target/forward", content=flipped, headers=kind)
        assert answer.status_code < 500
        if answer.status_code >= 400:
            problem(answer)


# -- HTTP ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"]
)
@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/sessions", "/v1/ops/tanh", "/healthz", "/v1/x%2Fy", "/%ff", "//", "/.."],
)
def test_methods_and_paths(http: httpx.Client, method: str, path: str) -> None:
    answer = http.request(method, path)
    assert answer.status_code < 500
    if answer.status_code >= 400 and method != "HEAD":
        body = problem(answer)
        if body["code"] == "method_not_allowed":
            assert set(body["allowed"]) == set(answer.headers["allow"].split(", "))
            assert method not in body["allowed"]


@pytest.mark.parametrize("given", ["a b", "x" * 200, "é", "<script>", ""])
def test_odd_request_ids_are_replaced(http: httpx.Client, given: str) -> None:
    answer = http.get("/healthz", headers=[(b"X-Request-Id", given.encode())])
    assert len(answer.headers["x-request-id"]) == 32


def test_a_client_that_leaves_halfway(server: Server) -> None:
    """A body that ends early is nobody's fault worth a log line, and the server lives on."""
    before = server.log()
    host, port = server.url.removeprefix("http://").split(":")
    for request in (
        b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
        b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"GET /healthz HTTP/1.1\r\nHost",
    ):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(request)
    assert server.http.get("/healthz").status_code == 200
    assert server.log() == before


def test_a_huge_declared_body_is_refused_unread(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100000000000\r\n\r\n"
        )
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"actual": 100000000000' in answer


@pytest.mark.parametrize("pause", [0.0, 0.2], ids=["at once", "after the answer"])
def test_what_follows_a_huge_declared_body_is_no_request(server: Server, pause: float) -> None:
    """It is body, up to a length that nobody reads: the connection ends with the refusal."""
    host, port = server.url.removeprefix("http://").split(":")
    smuggled = (
        b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b'Content-Length: 34\r\n\r\n{"name": "smuggled", "inputs": []}'
    )
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000000000000\r\n\r\n"
        )
        time.sleep(pause)
        answer = b""
        with suppress(ConnectionError):  # it may be closed before all of this is sent
            connection.sendall(3 * smuggled)
            while chunk := connection.recv(65536):
                answer += chunk
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"actual": 1000000000000' in answer
    assert b"\r\nconnection: close\r\n" in answer.lower()
    assert server.http.get("/v1/sessions/smuggled").status_code == 404
