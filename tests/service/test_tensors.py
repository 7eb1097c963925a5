"""Resident tensors: forms, versions, use in runs, results that are stored, quotas, crashes."""

from __future__ import annotations

import json
import mmap
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from gradwire.wire import safetensors
from gradwire.wire.messages import BINARY, JSON
from gradwire_engine.errors import InvalidName, QuotaExceeded
from gradwire_service.errors import StorageFull, TensorNotFound, UnknownTensor, VersionConflict
from gradwire_service.local import LocalTransport
from gradwire_service.settings import Settings
from gradwire_service.tensors import Tensors
from tests.service.serving import Server, problem

W = np.arange(6, dtype=np.float32).reshape(2, 3)


def packed(tensors: dict[str, np.ndarray[Any, Any]], document: Any = None) -> bytes:
    return b"".join(safetensors.pack(tensors, document, "request"))


def put(http: httpx.Client, name: str, value: Any, **headers: str) -> httpx.Response:
    return http.put(
        f"/v1/tensors/{name}",
        json=value,
        headers={k.replace("_", "-"): v for k, v in headers.items()},
    )


# -- over HTTP -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        1.5,
        [[1.0, 2.0], [3.0, 4.0]],
        {"dtype": "float64", "shape": [2], "data": ["NaN", "-Infinity"]},
        {"dtype": "int64", "shape": [1], "data": ["9007199254740993"]},
        {"dtype": "bool", "shape": [2, 1], "data": [True, False]},
        {"dtype": "float32", "shape": [0, 3], "data": []},
        {"dtype": "float32", "shape": [1], "base64": "AACAPw=="},
    ],
)
def test_every_json_form(http: httpx.Client, value: Any) -> None:
    made = put(http, "w", value)
    assert made.status_code == 201, made.text
    assert made.headers["location"] == "/v1/tensors/w"
    read = http.get("/v1/tensors/w")
    assert read.headers["content-type"] == JSON
    wanted = value if isinstance(value, dict) else {"dtype": "float32", "shape": np.shape(value)}
    assert read.json()["dtype"] == made.json()["dtype"] == wanted["dtype"]
    assert read.json()["shape"] == made.json()["shape"] == list(wanted["shape"])
    if "data" in wanted:
        assert read.json()["data"] == wanted["data"]
    again = put(http, "w", read.json())
    assert again.status_code == 200
    assert http.get("/v1/tensors/w").json() == read.json()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
def test_safetensors(http: httpx.Client, dtype: str) -> None:
    array = np.array([[0, 1], [1, 0], [1, 1]], dtype)
    made = http.put(
        "/v1/tensors/a/b.c:d-e", content=packed({"value": array}), headers={"Content-Type": BINARY}
    )
    assert made.status_code == 201, made.text
    assert made.json()["name"] == "a/b.c:d-e"
    assert made.json()["bytes"] == array.nbytes
    read = http.get("/v1/tensors/a%2Fb.c:d-e", headers={"Accept": BINARY})
    tensors, document = safetensors.unpack(read.content, "response")
    assert document is None
    assert list(tensors) == ["value"]
    np.testing.assert_array_equal(tensors["value"], array)
    assert tensors["value"].dtype == array.dtype


@pytest.mark.parametrize(
    ("tensors", "document"),
    [({}, None), ({"w": W}, None), ({"value": W, "w": W}, None), ({"value": W}, {"name": "w"})],
)
def test_a_file_of_anything_else(http: httpx.Client, tensors: Any, document: Any) -> None:
    body = packed(tensors, document)
    answer = http.put("/v1/tensors/w", content=body, headers={"Content-Type": BINARY})
    assert "named value" in problem(answer, "malformed_body")["reason"]
    problem(http.get("/v1/tensors/w"), "tensor_not_found")


@pytest.mark.parametrize("value", [None, "w", {}, {"data": [1, [2]]}, {"tensor": 1}, {"name": "w"}])
def test_what_is_no_tensor(http: httpx.Client, value: Any) -> None:
    answer = put(http, "w", value)
    assert answer.status_code == 400, answer.text
    problem(answer)
    problem(http.get("/v1/tensors/w"), "tensor_not_found")


def test_versions(http: httpx.Client) -> None:
    first = put(http, "w", 1.0)
    tag = first.headers["etag"]
    assert tag == f'"{first.json()["version"]}"'
    read = http.get("/v1/tensors/w", headers={"If-None-Match": f'"0", W/{tag}'})
    assert (read.status_code, read.content, read.headers["etag"]) == (304, b"", tag)
    assert http.get("/v1/tensors/w", headers={"If-None-Match": '"0"'}).status_code == 200
    assert http.head("/v1/tensors/w").headers["etag"] == tag

    refused = problem(put(http, "w", 2.0, If_None_Match="*"), "version_conflict")
    assert (refused["expected"], refused["actual"]) == (0, first.json()["version"])
    problem(put(http, "w", 2.0, If_Match='"999"'), "version_conflict")
    problem(put(http, "w", 2.0, If_Match=f"W/{tag}"), "version_conflict")
    assert http.get("/v1/tensors/w").json()["data"] == [1.0]
    second = put(http, "w", 2.0, If_Match=tag)
    assert second.json()["version"] > first.json()["version"]
    problem(http.delete("/v1/tensors/w", headers={"If-Match": tag}), "version_conflict")
    assert http.delete("/v1/tensors/w", headers={"If-Match": "*"}).status_code == 204
    problem(http.delete("/v1/tensors/w"), "tensor_not_found")
    third = put(http, "w", 3.0, If_None_Match="*")
    assert third.status_code == 201
    assert third.json()["version"] > second.json()["version"], "a version never comes back"


@pytest.mark.parametrize("name", ["a%0ab", "%2E%2E", "a%2F..%2Fb", "%0a", "a%2F", ""])
def test_what_can_be_no_name(http: httpx.Client, name: str) -> None:
    rule = problem(put(http, name, 1.0), "invalid_name")["reason"]
    for method in ("GET", "DELETE"):
        missing = problem(http.request(method, f"/v1/tensors/{name}"), "tensor_not_found")
        assert missing["reason"] == rule
        assert rule in missing["detail"]


@pytest.mark.parametrize("given", ["", "3.5", "abc", 'W/"1"', '""'])
def test_a_condition_that_names_no_version(http: httpx.Client, given: str) -> None:
    for _ in range(2):
        refused = problem(put(http, "w", 2.0, If_Match=given), "version_conflict")
        assert refused["expected"] == given
        assert "ETag" in refused["reason"]
        assert f"asked for {given!r} ({refused['reason']})" in refused["detail"]
        put(http, "w", 1.0)


def test_a_copy_stays_as_it_is(http: httpx.Client) -> None:
    put(http, "w", [1.0, 2.0])
    assert put(http, "backup/w", {"tensor": "w"}).status_code == 201
    put(http, "w", [3.0, 4.0])
    assert http.get("/v1/tensors/backup/w").json()["data"] == [1.0, 2.0]
    missing = problem(put(http, "w", {"tensor": "backups/w"}), "unknown_tensor")
    assert missing["suggestions"] == ["backup/w"]


def test_the_list(http: httpx.Client) -> None:
    assert http.get("/v1/tensors").json() == {"tensors": [], "next_cursor": None}
    names = sorted(f"layer{k}/{part}" for k in range(3) for part in "Wb")
    made = {name: put(http, name, [0.5] * 3).json() for name in reversed(names)}
    listed: list[Any] = []
    query: dict[str, Any] = {"limit": 4}
    while query:
        page = http.get("/v1/tensors", params=query).json()
        listed += page["tensors"]
        query = {"limit": 4, "cursor": page["next_cursor"]} if page["next_cursor"] else {}
    assert listed == [made[name] for name in names]
    about = http.get("/v1/tensors/layer1/W", params={"data": "false"}).json()
    assert about == made["layer1/W"]
    assert (about["dtype"], about["shape"], about["bytes"]) == ("float32", [3], 12)


@pytest.fixture
def model(http: httpx.Client) -> str:
    """A session with `h = w x`, `w2 = w - w` and `loss = sum(h)`, and its weight as a tensor."""
    inputs = [{"name": "x", "shape": [3]}, {"name": "w", "shape": [2, 3]}]
    id: str = http.post("/v1/sessions", json={"inputs": inputs}).json()["id"]
    nodes = [
        {"op": "einsum", "inputs": ["w", "x"], "attrs": {"spec": "ij,j->i"}, "name": "h"},
        {"op": "sub", "inputs": ["w", "w"], "name": "w2"},
        {"op": "sum", "inputs": ["h"], "name": "loss"},
    ]
    assert http.post(f"/v1/sessions/{id}/nodes", json={"nodes": nodes}).status_code == 201
    put(http, "w", W.tolist())
    put(http, "x", [1.0, 2.0, 3.0])
    return f"/v1/sessions/{id}"


REF = {"tensor": "w"}


def test_runs_use_them_everywhere(http: httpx.Client, model: str) -> None:
    put(http, "ct", [1.0, 0.0])
    put(http, "xs", np.eye(3).tolist())
    inputs = {"x": {"tensor": "x"}, "w": REF}
    h = (W @ [1, 2, 3]).tolist()
    run = http.post(f"{model}/forward", json={"inputs": inputs, "outputs": ["h"]}).json()
    assert run["outputs"]["h"]["data"] == h
    body: dict[str, Any] = {
        "inputs": inputs,
        "outputs": ["h"],
        "cotangents": {"h": {"tensor": "ct"}},
    }
    assert http.post(f"{model}/vjp", json=body).json()["gradients"]["x"]["data"] == W[0].tolist()
    body = {"inputs": inputs, "outputs": ["h"], "tangents": {"x": {"tensor": "x"}}}
    assert http.post(f"{model}/jvp", json=body).json()["tangents"]["h"]["data"] == h
    body = {
        "inputs": {"w": REF, "x": {"tensor": "xs"}},
        "outputs": ["h"],
        "in_axes": {"inputs/x": 0},
    }
    run = http.post(f"{model}/forward", json=body).json()
    assert run["outputs"]["h"]["data"] == W.T.reshape(-1).tolist()
    point = {"transform": "linearize", "inputs": inputs, "outputs": ["h"], "wrt": ["x"]}
    body = {"inputs": {"tangent.x": {"tensor": "x"}}, "transforms": [point]}
    assert http.post(f"{model}/forward", json=body).json()["outputs"]["tangent.h"]["data"] == h
    made = http.post(f"{model}/transforms", json=point)
    assert made.status_code == 201, made.text
    path = f"/v1/sessions/{made.json()['id']}/forward"
    pushed = http.post(path, json={"inputs": {"tangent.x": {"tensor": "x"}}}).json()
    assert pushed["outputs"]["tangent.h"]["data"] == h

    graph = {
        "inputs": [{"name": "x", "shape": [3]}],
        "nodes": [
            {"op": "const", "inputs": [], "attrs": {"value": REF}, "name": "c"},
            {"op": "einsum", "inputs": ["c", "x"], "attrs": {"spec": "ij,j->i"}, "name": "h"},
        ],
        "run": {"mode": "forward", "inputs": {"x": {"tensor": "x"}}, "store": {"outputs/h": "h"}},
    }
    run = http.post("/v1/execute", json=graph).json()
    assert run["outputs"] == {}
    assert run["stored"]["outputs/h"]["name"] == "h"
    assert http.get("/v1/tensors/h").json()["data"] == h


def test_safetensors_and_references_in_one_run(http: httpx.Client, model: str) -> None:
    document = {"inputs": {"w": REF}, "outputs": ["h", "w2"], "store": {"outputs/w2": "w"}}
    body = packed({"inputs/x": np.array([1, 2, 3], np.float32)}, document)
    run = http.post(f"{model}/forward", content=body, headers={"Content-Type": BINARY})
    tensors, rest = safetensors.unpack(run.content, "response")
    assert list(tensors) == ["outputs/h"]
    about = http.get("/v1/tensors/w?data=false").json()
    assert rest == {"stored": {"outputs/w2": about}}


def test_an_append_copies(http: httpx.Client, model: str) -> None:
    node = {"op": "const", "inputs": [], "attrs": {"value": REF}, "name": "c"}
    for name in ("c", "d"):  # the first finds the session in memory, if anywhere
        added = http.post(f"{model}/nodes", json={"nodes": [{**node, "name": name}]})
        assert added.status_code == 201, added.text
        assert added.json()["nodes"][0]["attrs"]["value"]["data"] == W.reshape(-1).tolist()
    http.delete("/v1/tensors/w")
    read = http.get(f"{model}/values/c/data").json()
    assert read["data"] == W.reshape(-1).tolist()
    answer = http.post(f"{model}/nodes", json={"nodes": [{**node, "name": "e"}]})
    assert problem(answer, "unknown_tensor")["path"] == "nodes/0/attrs/value"


def test_the_engine_refuses_what_does_not_fit(http: httpx.Client, model: str) -> None:
    put(http, "i", {"dtype": "int64", "shape": [3], "data": [1, 2, 3]})
    for name, code in (("w", "input_shape_mismatch"), ("i", "input_dtype_mismatch")):
        body = {"inputs": {"x": {"tensor": name}, "w": REF}}
        assert problem(http.post(f"{model}/forward", json=body), code)["input"] == "x"
    body = {"inputs": {"x": {"tensor": "v"}, "w": {"tensor": "nothing"}}}
    assert problem(http.post(f"{model}/forward", json=body), "unknown_tensor")["path"] in (
        "inputs/x",
        "inputs/w",
    )
    run = {"mode": "forward", "inputs": {"x": {"tensor": "y"}}}
    graph = {"inputs": [{"name": "x", "shape": []}], "nodes": [], "run": run, "outputs": {"y": "x"}}
    facts = problem(http.post("/v1/execute", json=graph), "unknown_tensor")
    assert facts["path"] == "run/inputs/x"


def test_stored_results(http: httpx.Client, model: str) -> None:
    inputs = {"x": {"tensor": "x"}, "w": REF}
    body: dict[str, Any] = {
        "inputs": inputs,
        "outputs": ["loss", "w2"],
        "cotangents": {"loss": 1.0},
        "store": {"outputs/w2": "w", "gradients/w": "gradient/w"},
    }
    run = http.post(f"{model}/vjp", json=body)
    assert "store;dur=" in run.headers["server-timing"]
    answer = run.json()
    assert set(answer["outputs"]) == {"loss"}
    assert set(answer["gradients"]) == {"x"}
    assert {path: t["name"] for path, t in answer["stored"].items()} == body["store"]
    for told in answer["stored"].values():
        read = http.get(f"/v1/tensors/{told['name']}")
        assert read.headers["etag"] == f'"{told["version"]}"'
    assert len({told["version"] for told in answer["stored"].values()}) == 1, "one write"
    assert http.get("/v1/tensors/w").json()["data"] == [0.0] * 6
    assert http.get("/v1/tensors/gradient/w").json()["data"] == [1.0, 2.0, 3.0] * 2
    tangent = {
        "inputs": {**inputs, "w": W.tolist()},
        "outputs": ["h"],
        "tangents": {"x": [1.0, 0.0, 0.0]},
    }
    run = http.post(f"{model}/jvp", json={**tangent, "store": {"tangents/h": "pushed"}})
    assert http.get("/v1/tensors/pushed").json()["data"] == W[:, 0].tolist()
    assert run.json()["tangents"] == {}


def test_a_refused_run_stores_nothing(http: httpx.Client, model: str) -> None:
    before = http.get("/v1/tensors").json()
    good = {"inputs": {"x": {"tensor": "x"}, "w": REF}, "outputs": ["h", "w2"]}
    for store, code in (
        ({"outputs/w2": "w", "outputs/h": "1h"}, "invalid_name"),
        ({"outputs/w2": "w", "outputs/loss": "loss"}, "invalid_option"),
        ({"outputs/w2": "w", "gradients/x": "g"}, "invalid_option"),
        ({"outputs/w2": "w", "outputs/h": "w"}, "invalid_option"),
        ({"w2": "w"}, "invalid_option"),
        ({"outputs/w2": None}, "malformed_body"),
        ({"outputs/w2": REF}, "malformed_body"),
        (["w"], "malformed_body"),
    ):
        problem(http.post(f"{model}/forward", json={**good, "store": store}), code)
    bad = {**good, "inputs": {"x": ["NaN", 1.0, 1.0], "w": REF}, "store": {"outputs/h": "w"}}
    problem(http.post(f"{model}/forward", json={**bad, "nan_policy": "error"}), "non_finite")
    problem(http.post(f"{model}/forward", json={**bad, "deadline_ms": 0}), "deadline_exceeded")
    assert http.get("/v1/tensors").json() == before


def test_quotas() -> None:
    transport = LocalTransport(Settings(max_tensors=3, tensor_bytes=100))
    with httpx.Client(transport=transport, base_url="http://local") as http:
        limits = http.get("/v1/limits").json()
        assert (limits["tensors_per_owner"], limits["tensor_bytes_per_owner"]) == (3, 100)
        assert put(http, "a", [0.0] * 20).status_code == 201
        facts = problem(put(http, "b", [0.0] * 6), "quota_exceeded")
        assert (facts["quota"], facts["limit"]) == ("tensor_bytes", 100)
        assert (facts["held"], facts["wanted"]) == (80, 24)
        assert facts["detail"] == (
            "80 are held and this asks for 24 more tensor bytes, the limit is 100. Delete some "
            "that GET /v1/tensors lists, or raise GRADWIRE_TENSOR_BYTES."
        )
        assert put(http, "a", [0.0] * 25).status_code == 200, "what it replaces does not count"
        assert put(http, "a", [0.0]).status_code == 200
        assert put(http, "b", 0.0).status_code == put(http, "c", 0.0).status_code == 201
        facts = problem(put(http, "d", 0.0), "quota_exceeded")
        assert (facts["quota"], facts["limit"]) == ("tensors", 3)
        assert (facts["held"], facts["wanted"]) == (3, 1)
        graph = {
            "inputs": [],
            "nodes": [
                {"op": "const", "inputs": [], "attrs": {"value": [1.0] * 13}, "name": n}
                for n in "yz"
            ],
            "outputs": {"y": "y", "z": "z"},
            "run": {"mode": "forward", "store": {"outputs/y": "a", "outputs/z": "b"}},
        }
        before = http.get("/v1/tensors").json()
        problem(http.post("/v1/execute", json=graph), "quota_exceeded")
        assert http.get("/v1/tensors").json() == before
        assert http.delete("/v1/tensors/c").status_code == 204
        assert put(http, "d", 0.0).status_code == 201
    transport.close()


# -- the files -------------------------------------------------------------------------------------


@pytest.fixture
def tensors(tmp_path: Path) -> Iterator[Tensors]:
    opened = opening(tmp_path)
    yield opened
    opened.close()


def opening(place: Path, max_bytes: int = 10**9) -> Tensors:
    return Tensors(place, max_count=100, max_bytes=max_bytes)


def files(place: Path) -> list[Path]:
    return sorted((place / "tensors").glob("*/*"))


def test_a_tensor_is_mapped_and_read_only(tensors: Tensors) -> None:
    tensors.put("local", {"w": W})
    array = tensors.load("local", ["w"])["w"]
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)
    assert not array.flags.writeable
    assert array.flags.c_contiguous
    assert array.flags.aligned
    np.testing.assert_array_equal(array, W)


def test_a_reader_keeps_what_it_has(tmp_path: Path, tensors: Tensors) -> None:
    tensors.put("local", {"w": W})
    row, old = tensors.get("local", "w")
    newer = tensors.put("local", {"w": W + 1})["w"]
    assert newer.version == row.version + 1
    np.testing.assert_array_equal(old, W)
    np.testing.assert_array_equal(tensors.get("local", "w")[1], W + 1)
    assert len(files(tmp_path)) == 1
    tensors.delete("local", "w")
    assert files(tmp_path) == []
    np.testing.assert_array_equal(old, W)


def test_another_process_sees_it_at_once(tmp_path: Path, tensors: Tensors) -> None:
    other = opening(tmp_path)
    for k in range(3):
        tensors.put("local", {"w": W * k, "b": np.array(float(k))})
        found = other.load("local", ["w", "b"])
        np.testing.assert_array_equal(found["w"], W * k)
        assert found["b"] == k
    with pytest.raises(UnknownTensor):
        other.load("somebody", ["w"])
    other.close()


def test_what_is_written_together_is_read_together(tmp_path: Path, tensors: Tensors) -> None:
    other = opening(tmp_path)
    names = [f"w{k}" for k in range(4)]
    tensors.put("local", dict.fromkeys(names, np.zeros(500)))
    done = threading.Event()
    torn: list[set[float]] = []

    def read() -> None:
        while not done.is_set():
            seen = {float(a[-1]) for a in other.load("local", names).values()}
            torn.extend([seen] if len(seen) > 1 else [])

    reader = threading.Thread(target=read)
    reader.start()
    for k in range(1, 200):
        tensors.put("local", dict.fromkeys(names, np.full(500, float(k))))
    done.set()
    reader.join()
    assert torn == []
    other.close()


def test_writers_race_for_a_version(tmp_path: Path, tensors: Tensors) -> None:
    places = [tensors, opening(tmp_path), opening(tmp_path)]
    tensors.put("local", {"n": np.array(0)})

    def count(place: Tensors) -> None:
        for _ in range(10):
            while True:
                row, value = place.get("local", "n")

                def check(version: int, wanted: int = row.version) -> None:
                    if version != wanted:
                        raise VersionConflict(expected=wanted, actual=version)

                try:
                    place.put("local", {"n": value + 1}, check)
                    break
                except VersionConflict:
                    continue

    threads = [threading.Thread(target=count, args=(place,)) for place in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tensors.get("local", "n")[1] == 30
    assert len(files(tmp_path)) == 1
    for place in places[1:]:
        place.close()


def test_nothing_is_left_of_a_refused_write(tmp_path: Path, tensors: Tensors) -> None:
    tensors.put("local", {"w": W})
    before = files(tmp_path)

    def refuse(version: int) -> None:
        raise VersionConflict(expected=0, actual=version)

    with pytest.raises(VersionConflict):
        tensors.put("local", {"w": W + 1, "v": W}, refuse)
    with pytest.raises(InvalidName):
        tensors.put("local", {"w": W + 1, "../v": W})
    for name in ("a/../b", "a/.", "a//b", "a/"):
        with pytest.raises(InvalidName):
            tensors.put("local", {name: W})
    small = opening(tmp_path, max_bytes=50)
    with pytest.raises(QuotaExceeded):
        small.put("local", {"w": W, "v": W + 1, "u": W})
    small.close()
    assert files(tmp_path) == before
    np.testing.assert_array_equal(tensors.get("local", "w")[1], W)


def test_a_disk_that_is_full(
    tmp_path: Path, tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors.put("local", {"w": W})
    before = files(tmp_path)
    syncs = iter([None])

    def fsync(handle: int) -> None:
        if next(syncs, "full") == "full":
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(StorageFull):
            tensors.put("local", {"w": W + 1, "v": W})
    assert files(tmp_path) == before
    np.testing.assert_array_equal(tensors.get("local", "w")[1], W)
    with pytest.raises(TensorNotFound):
        tensors.get("local", "v")
    tensors.put("local", {"v": W})


def test_leftovers_are_swept(tmp_path: Path, tensors: Tensors) -> None:
    tensors.put("local", {"w": W})
    (kept,) = files(tmp_path)
    folder = kept.parent
    for name in ("0" * 32, ".new-abc"):
        (folder / name).write_bytes(b"half")
    long_ago = time.time() - 7200
    for path in files(tmp_path):
        os.utime(path, (long_ago, long_ago))
    (folder / ("1" * 32)).write_bytes(b"on its way")
    opening(tmp_path).close()
    assert files(tmp_path) == sorted([kept, folder / ("1" * 32)])
    np.testing.assert_array_equal(tensors.get("local", "w")[1], W)


def test_a_file_that_somebody_removed(tmp_path: Path, tensors: Tensors) -> None:
    tensors.put("local", {"w": W, "v": W})
    path = tmp_path / "tensors" / "local" / tensors.row("local", "w").file
    path.unlink()
    with pytest.raises(TensorNotFound):
        tensors.get("local", "w")
    with pytest.raises(UnknownTensor):
        tensors.load("local", ["v", "w"])
    np.testing.assert_array_equal(tensors.get("local", "v")[1], W)
    tensors.put("local", {"w": W})
    np.testing.assert_array_equal(tensors.get("local", "w")[1], W)


def test_many_names_at_once(tensors: Tensors) -> None:
    """Any number of names, and anything for a name, may come in one request."""
    names = [f"w{k}" for k in range(40_000)] + ["\ud800", "", "a b", "x" * 10**6]
    with pytest.raises(UnknownTensor):
        tensors.load("local", names)


# -- servers ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_processes_share_a_tensor(address: str, tmp_path: Path) -> None:
    """What one puts or stores is there for all at once; a restart changes nothing."""
    graph = {
        "inputs": [{"name": "n", "shape": []}],
        "nodes": [
            {"op": "const", "inputs": [], "attrs": {"value": 1.0}, "name": "one"},
            {"op": "add", "inputs": ["n", "one"], "name": "more"},
        ],
        "outputs": {"more": "more"},
        "run": {
            "mode": "forward",
            "inputs": {"n": {"tensor": "n"}},
            "store": {"outputs/more": "n"},
        },
    }
    data = tmp_path / "data"
    with Server(data, store=address) as server, Server(data, store=address) as other:
        assert put(server.http, "n", 0.0).status_code == 201
        for step in range(1, 21):
            http = (server if step % 3 else other).http
            answer = http.post("/v1/execute", json=graph)
            assert answer.status_code == 200, answer.text
            for each in (server, other):
                assert each.http.get("/v1/tensors/n").json()["data"] == [step]
    with Server(data, store=address) as server:
        assert server.http.get("/v1/tensors/n").json()["data"] == [20]


def test_local_tensors_end_with_the_service() -> None:
    transport = LocalTransport(Settings())
    with httpx.Client(transport=transport, base_url="http://local") as http:
        put(http, "w", 1.0)
        folder: Path = transport.app.state.service.settings.data_path
        assert files(folder)
    transport.close()
    assert not folder.exists()


def test_json_is_exact(http: httpx.Client) -> None:
    numbers = np.random.default_rng(0).normal(size=50).astype(np.float32)
    put(http, "w", numbers.astype(float).tolist())
    read = json.loads(http.get("/v1/tensors/w").content)["data"]
    np.testing.assert_array_equal(np.array(read, np.float32), numbers)
