"""Sessions over the routes: what they answer, versions, retries, forks, and several writers."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from gradwire.wire import safetensors
from gradwire_engine import Engine, Entry, Input, Type
from gradwire_service.local import LocalTransport
from gradwire_service.requests import CreateRequest
from gradwire_service.sessions import Sessions
from gradwire_service.sqlite_store import SqliteStore
from gradwire_service.store import Append, Commit
from tests.service.serving import Server, problem, without

X = {"name": "x", "shape": [3]}
TANH = {"op": "tanh", "inputs": ["x"], "name": "y", "source": "a.py:1"}


def create(http: httpx.Client, *inputs: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = http.post("/v1/sessions", json={"inputs": list(inputs or (X,)), **more})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/sessions/{made['id']}"
    assert answer.headers["etag"] == f'"{made["version"]}"'
    assert answer.headers["cache-control"] == "no-store"
    return made


def append(http: httpx.Client, sid: str, *nodes: dict[str, Any], **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return http.post(f"/v1/sessions/{sid}/nodes", json={"nodes": list(nodes)}, headers=names)


def forward(http: httpx.Client, sid: str, **inputs: Any) -> dict[str, Any]:
    answer = http.post(f"/v1/sessions/{sid}/forward", json={"inputs": inputs})
    assert answer.status_code == 200, answer.text
    outputs: dict[str, Any] = answer.json()["outputs"]
    return outputs


def test_a_session_from_beginning_to_end(http: httpx.Client) -> None:
    made = create(http, X, {"name": "k", "shape": [], "dtype": "int64"}, name="model")
    assert made["id"].startswith("ses_")
    assert made["inputs"] == [
        {"id": 0, "name": "x", "shape": [3], "dtype": "float32", "differentiable": True},
        {"id": 1, "name": "k", "shape": [], "dtype": "int64", "differentiable": False},
    ]
    assert (made["version"], made["outputs_version"], made["nodes"], made["outputs"]) == (
        *(0, 0, []),
        {},
    )
    added = append(http, "model", TANH, {"op": "sum", "inputs": [2]})
    assert added.status_code == 201
    assert added.headers["etag"] == '"2"'
    assert added.json() == {
        "version": 2,
        "nodes": [
            {
                "id": 2,
                "op": "tanh",
                "inputs": [0],
                "attrs": {},
                "name": "y",
                "shape": [3],
                "dtype": "float32",
                "source": "a.py:1",
            },
            {
                "id": 3,
                "op": "sum",
                "inputs": [2],
                "attrs": {},
                "name": None,
                "shape": [],
                "dtype": "float32",
                "source": None,
            },
        ],
    }
    read = http.get("/v1/sessions/model")
    assert read.json()["nodes"] == added.json()["nodes"]
    assert read.json()["updated_at"] > read.json()["created_at"] == made["created_at"]
    assert http.get(f"/v1/sessions/{made['id']}").json() == read.json()
    newer = http.get("/v1/sessions/model?since=1").json()
    assert newer["nodes"] == added.json()["nodes"][1:]
    assert http.get("/v1/sessions/model?since=9").json()["nodes"] == []
    assert forward(http, "model", x=[0, 0, 0])["3"]["data"] == [0.0]
    assert http.delete("/v1/sessions/model").status_code == 204
    problem(http.get("/v1/sessions/model"), "session_not_found")


def test_names_free_up_when_a_session_goes(http: httpx.Client) -> None:
    first = create(http, name="model")
    append(http, "model", TANH)
    http.delete("/v1/sessions/model")
    second = create(http, name="model")
    assert second["id"] != first["id"]
    assert http.get("/v1/sessions/model").json()["nodes"] == []


def test_an_alias_is_resolved_and_an_empty_batch_is_legal(http: httpx.Client) -> None:
    create(http, name="m")
    added = append(http, "m", {"op": "logSoftmax", "inputs": ["x"]}).json()
    assert added["nodes"][0]["op"] == "log_softmax"
    assert append(http, "m").json() == {"version": 1, "nodes": []}


def test_null_means_absent(http: httpx.Client) -> None:
    spec = {"name": "x", "shape": [1], "dtype": None, "differentiable": None}
    made = create(http, spec, name=None)
    node = {"op": "tanh", "inputs": [0], "attrs": None, "name": None, "source": None}
    assert append(http, made["id"], node).status_code == 201
    run = dict.fromkeys(("outputs", "transforms", "in_axes", "reduce", "nan_policy", "tier"))
    body = {"inputs": {"x": [1.0]}, "deadline_ms": None, **run}
    assert http.post(f"/v1/sessions/{made['id']}/forward", json=body).status_code == 200


def test_declared_outputs_name_the_answers(http: httpx.Client) -> None:
    create(http, name="m")
    append(http, "m", TANH, {"op": "sum", "inputs": ["y"], "name": "total"})
    body = {"outputs": {"first": "y", "last": 2, "given": {"id": 0, "shape": [3]}}}
    declared = http.put("/v1/sessions/m/outputs", json=body)
    assert declared.json() == {
        "outputs": {"first": 1, "last": 2, "given": 0},
        "outputs_version": 1,
        "version": 2,
    }
    assert list(forward(http, "m", x=[0, 0, 0])) == ["first", "last", "given"]
    cleared = http.put("/v1/sessions/m/outputs", json={"outputs": {}}).json()
    assert cleared["outputs_version"] == 2
    assert list(forward(http, "m", x=[0, 0, 0])) == ["total"]


def test_values(http: httpx.Client) -> None:
    create(http, name="m")
    append(http, "m", {**TANH, "name": "block/1/data"})
    assert http.get("/v1/sessions/m/values/x").json() == {
        "id": 0,
        "name": "x",
        "shape": [3],
        "dtype": "float32",
        "differentiable": True,
    }
    node = http.get("/v1/sessions/m/values/1").json()
    assert node["name"] == "block/1/data"
    assert http.get("/v1/sessions/m/values/block%2F1%2Fdata?shape=3").json() == node
    append(http, "m", {**TANH, "name": "block/2"})
    assert http.get("/v1/sessions/m/values/block/2").json()["id"] == 2
    problem(http.get("/v1/sessions/m/values/block/1/data"), "value_not_found")


# -- versions and retries --------------------------------------------------------------------------


def test_if_match_lets_one_writer_through(http: httpx.Client) -> None:
    create(http, name="m")
    assert append(http, "m", TANH, If_Match='"0"').status_code == 201
    body = problem(append(http, "m", TANH, If_Match='"0"'), "version_conflict")
    assert (body["expected"], body["actual"]) == (0, 1)
    node = {"op": "tanh", "inputs": ["x"]}
    assert append(http, "m", node, If_Match="*").status_code == 201
    assert append(http, "m", node, If_Match='"7", "2"').status_code == 201
    assert http.get("/v1/sessions/m").json()["version"] == 3
    problem(http.delete("/v1/sessions/m", headers={"If-Match": '"2"'}), "version_conflict")
    assert http.delete("/v1/sessions/m", headers={"If-Match": '"3"'}).status_code == 204


def test_a_retry_gets_the_same_answer(http: httpx.Client) -> None:
    create(http, name="m")
    first = append(http, "m", TANH, Idempotency_Key="k1", If_Match='"0"')
    append(http, "m", {"op": "sum", "inputs": ["y"]})
    # The key is looked up before If-Match, which no longer holds.
    again = append(http, "m", TANH, Idempotency_Key="k1", If_Match='"0"')
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["etag"] == first.headers["etag"]
    assert http.get("/v1/sessions/m").json()["version"] == 2
    problem(append(http, "m", Idempotency_Key="k1"), "idempotency_conflict")


def test_a_refusal_is_not_stored(http: httpx.Client) -> None:
    create(http, name="m")
    body = {"op": "tanh", "inputs": ["h"]}
    problem(append(http, "m", body, Idempotency_Key="k"), "unknown_name")
    append(http, "m", {"op": "tanh", "inputs": ["x"], "name": "h"})
    assert append(http, "m", body, Idempotency_Key="k").status_code == 201


def test_keys_are_scoped_by_session_and_route(http: httpx.Client) -> None:
    create(http, name="a")
    create(http, name="b")
    key = {"Idempotency-Key": "same"}
    assert append(http, "a", TANH, **key).json()["version"] == 1
    assert append(http, "b", TANH, **key).json()["version"] == 1
    assert http.post("/v1/sessions", json={"inputs": []}, headers=key).status_code == 201
    vjp = {"transform": "jvp"}
    assert http.post("/v1/sessions/a/transforms", json=vjp, headers=key).status_code == 201


@pytest.mark.parametrize("route", ["create", "fork", "transform"])
def test_a_retried_creation_makes_one_session(http: httpx.Client, route: str) -> None:
    create(http, name="base")
    constant = {"op": "const", "inputs": [], "attrs": {"value": [1.5, "NaN"]}}
    append(http, "base", constant, TANH)
    path, body = {
        "create": ("/v1/sessions", {"inputs": [X], "name": "new"}),
        "fork": ("/v1/sessions", {"from": {"session": "base"}, "name": "new"}),
        "transform": ("/v1/sessions/base/transforms", {"transform": "jvp", "name": "new"}),
    }[route]
    headers = {"Idempotency-Key": "once"}
    first = http.post(path, json=body, headers=headers)
    assert first.status_code == 201
    http.put("/v1/sessions/new/outputs", json={"outputs": {"z": 0}})
    again = http.post(path, json=body, headers=headers)
    assert again.content == first.content
    assert again.headers["location"] == first.headers["location"]
    assert len(http.get("/v1/sessions").json()["sessions"]) == 2
    problem(http.post(path, json=body), "name_conflict")


@pytest.mark.parametrize("route", ["create", "fork", "transform"])
def test_a_creation_retried_after_the_end_makes_another(http: httpx.Client, route: str) -> None:
    create(http, name="base")
    append(http, "base", TANH)
    creations: dict[str, tuple[str, dict[str, Any]]] = {
        "create": ("/v1/sessions", {"inputs": [X]}),
        "fork": ("/v1/sessions", {"from": {"session": "base"}}),
        "transform": ("/v1/sessions/base/transforms", {"transform": "jvp"}),
    }
    path, body = creations[route]
    body["name"] = "new"
    headers = {"Idempotency-Key": "once"}
    first = http.post(path, json=body, headers=headers).json()
    assert http.delete("/v1/sessions/new").status_code == 204
    again = http.post(path, json=body, headers=headers)
    assert again.status_code == 201
    assert again.json()["id"] != first["id"]
    assert http.get(f"/v1/sessions/{again.json()['id']}").status_code == 200
    assert http.post(path, json=body, headers=headers).content == again.content
    assert http.delete("/v1/sessions/new").status_code == 204
    other = http.post(path, json={**body, "name": "other"}, headers=headers)
    assert other.status_code == 201, "the key is free again"


def test_concurrent_duplicates_append_once(app: LocalTransport, http: httpx.Client) -> None:
    create(http, name="m")
    answers: list[httpx.Response] = []
    start = threading.Barrier(8)

    def send() -> None:
        start.wait()
        with httpx.Client(transport=_Shared(app), base_url="http://local") as client:
            answers.append(append(client, "m", TANH, Idempotency_Key="dup"))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert http.get("/v1/sessions/m").json()["version"] == 1


class _Shared(httpx.BaseTransport):
    """A transport that a client may close without ending the app."""

    def __init__(self, app: LocalTransport) -> None:
        self._app = app

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._app.handle_request(request)


# -- several processes on one store ----------------------------------------------------------------


def worker(store: SqliteStore, max_nodes: int = 1000) -> Sessions:
    """A process's view of the sessions in a store."""
    limits = {"memory_limit": 2**30, "max_elements": 2**30, "max_sessions": 100, "cached": 8}
    return Sessions(store, Engine(), max_nodes=max_nodes, **limits)


def entry(*inputs: int | str, name: str | None = None) -> tuple[Entry, ...]:
    return (Entry("tanh", inputs, {}, name),)


def test_a_worker_catches_up_with_another(tmp_path: Path) -> None:
    here, there = SqliteStore(tmp_path), SqliteStore(tmp_path)
    one, two = worker(here), worker(there)
    wanted = CreateRequest("m", (Input("x", Type((2,))),))
    one.create("local", wanted, None)
    one.append("local", "m", entry("x", name="a"), None, None)
    two.append("local", "m", entry("a", name="b"), None, None)
    added = one.append("local", "m", entry("b", name="c"), None, None)
    assert (added["version"], added["nodes"][0]["inputs"]) == (3, [2])
    assert [n["name"] for n in two.read("local", "m", 0)["nodes"]] == ["a", "b", "c"]
    assert two.graph(two.find("local", "m")).names == {"x": 0, "a": 1, "b": 2, "c": 3}
    here.close()
    there.close()


def test_a_lost_race_is_tried_again_on_what_the_winner_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker appends between this one's check and its commit: as if in sequence."""
    here, there = SqliteStore(tmp_path), SqliteStore(tmp_path)
    one, two = worker(here), worker(there)
    one.create("local", CreateRequest("m", (Input("x", Type((2,))),)), None)
    commit = here.append

    def late(append: Append) -> Commit:
        monkeypatch.setattr(here, "append", commit)  # once only
        two.append("local", "m", entry("x", name="first"), None, None)
        return commit(append)

    monkeypatch.setattr(here, "append", late)
    added = one.append("local", "m", entry("x", name="second"), None, None)
    assert (added["version"], added["nodes"][0]["id"]) == (2, 2)
    assert [n["name"] for n in one.read("local", "m", 0)["nodes"]] == ["first", "second"]
    assert one.graph(one.find("local", "m")).names == {"x": 0, "first": 1, "second": 2}
    here.close()
    there.close()


def test_a_failed_commit_leaves_no_trace_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(None)
    sessions = worker(store)
    sessions.create("local", CreateRequest("m", (Input("x", Type((2,))),)), None)

    def fail(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(store, "append", fail)
    with pytest.raises(OSError, match="gone"):
        sessions.append("local", "m", entry("x", name="a"), None, None)
    monkeypatch.undo()
    added = sessions.append("local", "m", entry("x", name="a"), None, None)
    assert (added["version"], added["nodes"][0]["id"]) == (1, 1)
    store.close()


def test_a_session_outlives_a_lowered_limit(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    sessions = worker(store)
    sessions.create("local", CreateRequest("m", (Input("x", Type((2,))),)), None)
    for _ in range(5):
        sessions.append("local", "m", entry("x"), None, None)
    lowered = worker(store, max_nodes=3)
    assert lowered.graph(lowered.find("local", "m")).size == 6
    store.close()


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    sessions = worker(store)
    for k in range(20):
        sessions.create("local", CreateRequest(f"m{k}", (Input("x", Type((2,))),)), None)
        sessions.append("local", f"m{k}", entry("x"), None, None)
    assert len(sessions.copies) == 8
    assert sessions.graph(sessions.find("local", "m0")).size == 2
    store.close()


# -- large constants, derived sessions, restarts ---------------------------------------------------


def test_a_large_constant_is_told_by_its_hash(http: httpx.Client) -> None:
    create(http, {"name": "x", "shape": [50, 50]}, name="m")
    array = np.arange(2500, dtype=np.float32).reshape(50, 50)
    nodes = [{"op": "const", "inputs": [], "name": "c"}, {"op": "add", "inputs": ["x", "c"]}]
    body = b"".join(safetensors.pack({"nodes/0/attrs/value": array}, {"nodes": nodes}, "request"))
    kind = {"Content-Type": safetensors.MEDIA_TYPE, "Accept": "application/json"}
    added = http.post("/v1/sessions/m/nodes", content=body, headers=kind)
    assert added.status_code == 201, added.text
    sha256 = hashlib.sha256(array.tobytes()).hexdigest()
    told = {"dtype": "float32", "shape": [50, 50], "bytes": 10_000, "sha256": sha256}
    assert added.json()["nodes"][0]["attrs"] == {"value": told}
    data = http.get("/v1/sessions/m/values/c/data", headers={"Accept": safetensors.MEDIA_TYPE})
    tensors, _ = safetensors.unpack(data.content, "response")
    assert np.array_equal(tensors["value"], array)
    listed = http.get("/v1/sessions/m/values/1/data").json()
    assert (listed["shape"], listed["data"][:3]) == ([50, 50], [0.0, 1.0, 2.0])


def test_an_array_attribute_of_any_op_can_be_read(http: httpx.Client) -> None:
    create(http, {"name": "x", "shape": [4]}, name="m")
    node = {"op": "gather_vec_nat", "inputs": ["x"], "attrs": {"indices": [3, 0]}, "name": "g"}
    assert append(http, "m", node).status_code == 201
    assert http.get("/v1/sessions/m/values/g/data").json()["data"] == [3, 0]
    assert http.get("/v1/sessions/m/values/g/data?attr=indices").json()["dtype"] == "int64"
    body = problem(http.get("/v1/sessions/m/values/g/data?attr=mask"), "invalid_option")
    assert body["path"] == "attr"


def test_a_derived_session_equals_the_run_it_came_from(http: httpx.Client) -> None:
    create(http, X, name="m")
    append(http, "m", TANH, {"op": "sum", "inputs": ["y"], "name": "loss"})
    derived = http.post("/v1/sessions/m/transforms", json={"transform": "vjp", "name": "g"})
    assert derived.status_code == 201
    document = derived.json()
    assert [i["name"] for i in document["inputs"]] == ["x", "cotangent.loss"]
    assert list(document["outputs"]) == ["loss", "gradient.x"]
    roles = {node["origin"]["role"] for node in document["nodes"]}
    assert {"primal", "cotangent"} <= roles <= {"primal", "tangent", "cotangent"}
    direct = http.post("/v1/sessions/m/vjp", json={"inputs": {"x": [1, 2, 3]}}).json()
    kept = forward(http, "g", **{"x": [1, 2, 3], "cotangent.loss": 1.0})
    assert kept["gradient.x"]["data"] == pytest.approx(direct["gradients"]["x"]["data"])
    # Its nodes can be appended again by hand, ids and all.
    create(http, *[without(i, "id") for i in document["inputs"]], name="copy")
    plain = [without(n, "id", "shape", "dtype", "origin", "source") for n in document["nodes"]]
    assert append(http, "copy", *plain).status_code == 201
    http.put("/v1/sessions/copy/outputs", json={"outputs": document["outputs"]})
    assert forward(http, "copy", **{"x": [1, 2, 3], "cotangent.loss": 1.0}) == kept


def test_a_linearization_keeps_its_residuals_as_blobs(http: httpx.Client) -> None:
    create(http, {"name": "x", "shape": [2000]}, name="m")
    append(http, "m", TANH)
    x = np.linspace(-1, 1, 2000)
    body = {"transform": "linearize", "inputs": {"x": x.tolist()}, "name": "lin"}
    made = http.post("/v1/sessions/m/transforms", json=body)
    assert made.status_code == 201, made.text
    assert [i["name"] for i in made.json()["inputs"]] == ["tangent.x"]
    constants = [n for n in made.json()["nodes"] if n["op"] == "const"]
    assert any("sha256" in n["attrs"]["value"] for n in constants)
    pushed = forward(http, "lin", **{"tangent.x": np.ones(2000).tolist()})["tangent.y"]
    assert pushed["data"] == pytest.approx(1 - np.tanh(x.astype(np.float32)) ** 2, abs=1e-6)


def test_a_restart_finds_everything(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        create(server.http, {"name": "x", "shape": [1200]}, name="m")
        constant = {"op": "const", "inputs": [], "attrs": {"value": [0.5] * 1200}, "name": "c"}
        added = append(server.http, "m", constant, Idempotency_Key="k")
        append(server.http, "m", {"op": "mul", "inputs": ["x", "c"], "name": "y"})
        derived = {"transform": "vmap", "axis_size": 2, "in_axes": {"x": 0}, "name": "batched"}
        server.http.post("/v1/sessions/m/transforms", json=derived)
        before = {n: server.http.get(f"/v1/sessions/{n}").json() for n in ("m", "batched")}
        server.kill()
    with Server(tmp_path / "data") as server:
        for name, document in before.items():
            assert server.http.get(f"/v1/sessions/{name}").json() == document
        assert forward(server.http, "m", x=[2.0] * 1200)["y"]["data"] == [1.0] * 1200
        batch = forward(server.http, "batched", x=[[2.0] * 1200, [4.0] * 1200])["y"]["data"]
        assert batch == [1.0] * 1200 + [2.0] * 1200
        again = append(server.http, "m", constant, Idempotency_Key="k")
        assert again.content == added.content


def test_two_workers_serve_one_store(tmp_path: Path) -> None:
    with Server(tmp_path / "data", workers=2) as server:
        create(server.http, X, name="m")
        errors: list[str] = []

        def write(writer: int) -> None:
            for k in range(15):
                node = {"op": "tanh", "inputs": ["x"], "name": f"w{writer}_{k}"}
                with httpx.Client(base_url=server.url, timeout=60) as client:  # any worker
                    answer = append(client, "m", node)
                if answer.status_code != 201:
                    errors.append(answer.text)

        threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        nodes = server.http.get("/v1/sessions/m").json()["nodes"]
        assert [node["id"] for node in nodes] == list(range(1, 61))
        assert len({node["name"] for node in nodes}) == 60


def test_pages_of_sessions(http: httpx.Client) -> None:
    names = [f"m{k}" for k in range(5)]
    for name in names:
        create(http, name=name)
    seen, cursor = [], None
    while True:
        query = {"limit": "2"} if cursor is None else {"limit": "2", "cursor": cursor}
        page = http.get("/v1/sessions", params=query).json()
        seen += [session["name"] for session in page["sessions"]]
        assert all("nodes" not in session for session in page["sessions"])
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == names


def test_forks(http: httpx.Client) -> None:
    create(http, name="m")
    append(http, "m", TANH, {"op": "sum", "inputs": ["y"], "name": "total"})
    http.put("/v1/sessions/m/outputs", json={"outputs": {"y": "y", "total": "total"}})
    body = {"from": {"session": "m", "version": 1}, "name": "before"}
    fork = http.post("/v1/sessions", json=body).json()
    assert (fork["version"], fork["outputs"]) == (1, {"y": 1})
    whole = http.post("/v1/sessions", json={"from": {"session": "m", "version": None}}).json()
    assert (whole["version"], whole["name"]) == (2, None)
    append(http, "before", {"op": "neg", "inputs": ["y"], "name": "total"})
    assert http.get("/v1/sessions/m").json()["version"] == 2
