"""What belongs to one owner does not exist for another, by whatever route one looks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

import gradwire as gw
from gradwire import errors
from gradwire_service.dispatch import Resource
from gradwire_service.keys import mint
from gradwire_service.routes import ROUTES
from gradwire_service.sqlite_store import SqliteStore
from tests.contract.test_error_codes import node
from tests.contract.test_guards import HURRIED, QUICK, eventually, long_run, send_run
from tests.service.serving import Server, problem

MARK = "zebra"
"""In the names of all that alice has, and nowhere else."""

# Every route that acts on what somebody has, with a body that is sound.
OWNED: dict[str, dict[str, Any]] = {
    "/v1/sessions/{sid}": {"GET": None, "DELETE": None},
    "/v1/sessions/{sid}/nodes": {"POST": {"nodes": [node("tanh", 0)]}},
    "/v1/sessions/{sid}/outputs": {"PUT": {"outputs": {}}},
    "/v1/sessions/{sid}/transforms": {"POST": {"transform": "vjp"}},
    "/v1/sessions/{sid}/jvp-availability": {"GET": None},
    "/v1/sessions/{sid}/values/{ref:path}": {"GET": None},
    "/v1/sessions/{sid}/forward": {"POST": {"inputs": {"x": 1.0}}},
    "/v1/sessions/{sid}/vjp": {"POST": {"inputs": {"x": 1.0}}},
    "/v1/sessions/{sid}/jvp": {"POST": {"inputs": {"x": 1.0}, "tangents": {"x": 1.0}}},
}
# Resident tensors, by their names.
NAMED = "/v1/tensors/{name:path}"
# Those that act on nothing, or on all that the caller has.
COMMON = {
    *("/", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics", "/errors/{name}"),
    *("/v1/limits", "/v1/ops", "/v1/ops/{name}", "/v1/execute", "/v1/sessions", "/v1/tensors"),
}


def people(data: Path, *owners: str) -> dict[str, str]:
    """A key for each owner, in the store that a server is about to open."""
    store = SqliteStore(data)
    keys = {}
    for owner in owners:
        keys[owner], row = mint(owner)
        store.add_key(row)
    store.close()
    return keys


def caller(server: Server, key: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=server.url, headers=headers, timeout=120)


class Shared:
    """A server with two owners, and what the first of them has."""

    def __init__(self, server: Server, keys: dict[str, str]) -> None:
        self.server, self.keys = server, keys
        self.alice, self.bob = caller(server, keys["alice"]), caller(server, keys["bob"])
        made = self.alice.post(
            "/v1/sessions",
            json={"name": f"{MARK}-model", "inputs": [{"name": "x", "shape": []}]},
            headers={"Idempotency-Key": "one"},
        )
        assert made.status_code == 201, made.text
        self.id: str = made.json()["id"]
        value = {"shape": [2000], "data": [1.5] * 2000}
        nodes = [
            node("sin", "x", name="y"),
            node("const", name="c", attrs={"value": value}),
        ]
        added = self.alice.post(f"/v1/sessions/{self.id}/nodes", json={"nodes": nodes})
        assert added.status_code == 201, added.text
        kept = self.alice.put(f"/v1/tensors/{MARK}/w", json=[1.0, 2.0])
        assert kept.status_code == 201, kept.text


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    data = tmp_path_factory.mktemp("owners") / "data"
    keys = people(data, "alice", "bob", "local")
    with Server(data, keys="required") as server:
        made = Shared(server, keys)
        yield made
        made.alice.close()
        made.bob.close()


def told(answer: httpx.Response, *names: str) -> dict[str, Any]:
    """A refusal less what it repeats of the request."""
    text = answer.text
    for name in names:
        text = text.replace(name, "...")
    body: dict[str, Any] = json.loads(text)
    del body["request_id"]
    return body


def test_every_route_is_known_to_these_tests() -> None:
    served = {
        route.path: set(route.endpoint.handlers)
        for route in ROUTES
        if isinstance(route.endpoint, Resource)
    }
    assert set(served) == {*OWNED, NAMED, *COMMON}, "say to whom a new route's resources belong"
    for path, methods in OWNED.items():
        assert served[path] == set(methods)


@pytest.mark.parametrize("path", sorted(OWNED))
def test_another_owner_finds_nothing(shared: Shared, path: str) -> None:
    before = shared.alice.get(f"/v1/sessions/{shared.id}").json()
    missing = {shared.id: "ses_" + "0" * 24, f"{MARK}-model": "nobody"}
    for ref, other in missing.items():
        for tail in ("", "/data") if "ref" in path else ("",):
            for value in ("y", "c", "0") if "ref" in path else ("",):
                for method, body in OWNED[path].items():
                    url = path.replace("{ref:path}", value + tail)
                    answer = shared.bob.request(method, url.replace("{sid}", ref), json=body)
                    problem(answer, "session_not_found")
                    nothing = shared.bob.request(method, url.replace("{sid}", other), json=body)
                    assert told(answer, ref) == told(nothing, other), "as if it were not there"
    assert shared.alice.get(f"/v1/sessions/{shared.id}").json() == before


def test_another_owner_finds_no_tensor(shared: Shared) -> None:
    """Neither by its own route nor by any run, and its name is free."""
    path, bob = f"/v1/tensors/{MARK}/w", shared.bob
    before = shared.alice.get(path)
    for tail in ("", "?data=false"):
        for name in (f"{MARK}/w", f"{MARK}/ww", f"local/{MARK}/w", f"%2e%2e%2falice/{MARK}/w"):
            answer = bob.get(f"/v1/tensors/{name}{tail}")
            assert problem(answer, "tensor_not_found")["suggestions"] == []
    problem(bob.delete(path), "tensor_not_found")
    problem(bob.put(path, json=1.0, headers={"If-Match": "*"}), "version_conflict")
    assert bob.get("/v1/tensors").json() == {"tensors": [], "next_cursor": None}
    reference = {"tensor": f"{MARK}/w"}
    graph: dict[str, Any] = {
        "inputs": [{"name": "x", "shape": [2]}],
        "nodes": [node("tanh", "x", name="y")],
        "run": {"mode": "forward", "inputs": {"x": reference}},
    }
    made = bob.post("/v1/sessions", json={"inputs": graph["inputs"]}).json()["id"]
    session = f"/v1/sessions/{made}"
    const = node("const", attrs={"value": reference})
    bob.post(f"{session}/nodes", json={"nodes": graph["nodes"]})
    point = {"transform": "linearize", "inputs": {"x": reference}}
    x = {"x": [1.0, 1.0]}
    for route, body in (
        ("/v1/execute", graph),
        ("/v1/execute", {**graph, "nodes": [const], "run": {"mode": "forward"}}),
        (f"{session}/nodes", {"nodes": [const]}),
        (f"{session}/forward", {"inputs": {"x": reference}}),
        (f"{session}/vjp", {"inputs": x, "cotangents": {"y": reference}}),
        (f"{session}/jvp", {"inputs": x, "tangents": {"x": reference}}),
        (f"{session}/forward", {"inputs": {"tangent.x": [0.0, 0.0]}, "transforms": [point]}),
        (f"{session}/transforms", point),
    ):
        answer = bob.post(route, json=body)
        assert problem(answer, "unknown_tensor")["suggestions"] == [], route
    problem(bob.put(f"/v1/tensors/{MARK}/v", json=reference), "unknown_tensor")

    assert bob.put(path, json=[5.0]).json()["version"] == 1, "nobody's writes are told to others"
    stored = {"inputs": x, "store": {"outputs/y": f"{MARK}/w"}}
    assert bob.post(f"{session}/forward", json=stored).status_code == 200
    assert bob.delete(path).status_code == 204
    assert bob.delete(session).status_code == 204
    after = shared.alice.get(path)
    assert (after.content, after.headers["etag"]) == (before.content, before.headers["etag"])


def test_nor_does_it_shine_through_elsewhere(shared: Shared) -> None:
    for path in COMMON - {"/v1/ops/{name}", "/errors/{name}"}:
        text = shared.bob.get(path).text
        assert shared.id not in text
        assert MARK not in text
    for wanted in (shared.id, f"{MARK}-model", f"{MARK}-mode"):
        for version in (None, 0, 1):
            body = {"from": {"session": wanted, "version": version}}
            answer = shared.bob.post("/v1/sessions", json=body)
            assert problem(answer, "session_not_found")["suggestions"] == []
    everything = shared.alice.get("/v1/sessions", params={"limit": 1}).json()
    assert [s["id"] for s in everything["sessions"]] == [shared.id]
    assert shared.bob.get("/v1/sessions").json() == {"sessions": [], "next_cursor": None}
    for start in ("MA==", "MQ=="):
        page = shared.bob.get("/v1/sessions", params={"cursor": start}).json()
        assert page["sessions"] == []


def test_another_owner_finds_no_linearization(shared: Shared) -> None:
    point = {"transform": "linearize", "inputs": {"x": 0.5}, "outputs": ["y"]}
    made = shared.alice.post(f"/v1/sessions/{shared.id}/transforms", json=point)
    assert made.status_code == 201, made.text
    id = made.json()["id"]
    for method, path, body in (
        ("GET", "", None),
        ("POST", "/forward", {"inputs": {"tangent.x": 1.0}}),
        ("POST", "/vjp", {"inputs": {"tangent.x": 1.0}}),
        ("POST", "/transforms", {"transform": "vjp"}),
        ("GET", "/values/1/data", None),
        ("DELETE", "", None),
    ):
        answer = shared.bob.request(method, f"/v1/sessions/{id}{path}", json=body)
        assert problem(answer, "session_not_found")["suggestions"] == []
    fork = shared.bob.post("/v1/sessions", json={"from": {"session": id}})
    problem(fork, "session_not_found")
    assert shared.alice.delete(f"/v1/sessions/{id}").status_code == 204


def test_names_and_idempotency_keys_are_ones_own(shared: Shared) -> None:
    body = {"name": f"{MARK}-model", "inputs": [{"name": "z", "shape": []}]}
    made = shared.bob.post("/v1/sessions", json=body, headers={"Idempotency-Key": "one"})
    assert made.status_code == 201, made.text
    mine = made.json()["id"]
    assert mine != shared.id
    found = shared.bob.get(f"/v1/sessions/{MARK}-model").json()
    assert (found["id"], found["inputs"][0]["name"]) == (mine, "z")
    assert shared.alice.get(f"/v1/sessions/{MARK}-model").json()["id"] == shared.id
    assert shared.alice.get(f"/v1/sessions/{mine}").status_code == 404
    assert shared.bob.delete(f"/v1/sessions/{MARK}-model").status_code == 204
    assert shared.alice.get(f"/v1/sessions/{shared.id}").status_code == 200


def test_a_session_that_was_just_used_is_no_more_reachable(shared: Shared) -> None:
    """The server keeps in memory whom a name belongs to; that is asked for each owner anew."""
    nodes = {"nodes": [node("const", attrs={"value": 1.0})]}
    path = f"/v1/sessions/{MARK}-model/nodes"
    for _ in range(3):
        assert shared.alice.post(path, json=nodes).status_code == 201
        for ref in (shared.id, f"{MARK}-model"):
            problem(shared.bob.post(f"/v1/sessions/{ref}/nodes", json=nodes), "session_not_found")


def test_a_local_key_reaches_what_was_made_without_keys(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        made = server.http.post("/v1/sessions", json={"name": "old", "inputs": []})
        assert made.status_code == 201
    keys = people(tmp_path / "data", "local", "alice")
    with Server(tmp_path / "data", keys="required") as server:
        for owner, status in (("local", 200), ("alice", 404)):
            with caller(server, keys[owner]) as http:
                assert http.get("/v1/sessions/old").status_code == status


# -- the Python client -----------------------------------------------------------------------------


def test_the_client_has_a_key(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRADWIRE_API_KEY", raising=False)
    url, key = shared.server.url, shared.keys["alice"]
    with gw.connect(url) as nobody, pytest.raises(errors.Unauthenticated, match="Authorization"):
        nobody.open(shared.id)
    with gw.connect(url, api_key=key) as client:
        assert client.open(f"{MARK}-model").id == shared.id
        assert key not in repr(client)
    with (
        gw.connect(url, api_key=shared.keys["bob"]) as client,
        pytest.raises(errors.SessionNotFound),
    ):
        client.open(shared.id)
    monkeypatch.setenv("GRADWIRE_API_KEY", key)
    with gw.connect(url) as client:
        assert client.open(shared.id).id == shared.id
    with gw.connect(url, api_key="gw_wrong") as client, pytest.raises(errors.Unauthenticated):
        client.open(shared.id)


# -- shares ----------------------------------------------------------------------------------------


def test_one_owner_cannot_take_the_queue_from_another(tmp_path: Path) -> None:
    keys = people(tmp_path / "data", "alice", "bob")
    with ExitStack() as stack:
        server = stack.enter_context(Server(tmp_path / "data", keys="required", threads=1, queue=4))
        alice, bob = (stack.enter_context(caller(server, keys[who])) for who in ("alice", "bob"))
        key = f"Authorization: {held(alice)}"

        def refused() -> bool:  # once one runs and two wait: that is half of the queue
            stack.enter_context(send_run(server, long_run(), key))
            return alice.post("/v1/execute", json=HURRIED).status_code == 429

        eventually(refused)
        answer = alice.post("/v1/execute", json=HURRIED)
        facts = problem(answer, "rate_limited")
        assert facts["limit"] == 2
        assert int(answer.headers["retry-after"]) >= 1
        assert "wait already" in facts["reason"]
        problem(bob.post("/v1/execute", json=HURRIED), "deadline_exceeded")  # bob may wait
        assert bob.get("/v1/sessions").status_code == 200


def test_a_bound_on_runs_leaves_a_thread_to_others(tmp_path: Path) -> None:
    keys = people(tmp_path / "data", "alice", "bob")
    with ExitStack() as stack:
        server = stack.enter_context(
            Server(tmp_path / "data", keys="required", threads=2, runs_per_owner=1)
        )
        alice, bob = (stack.enter_context(caller(server, keys[who])) for who in ("alice", "bob"))
        for _ in range(3):
            stack.enter_context(send_run(server, long_run(), f"Authorization: {held(alice)}"))
        eventually(lambda: alice.post("/v1/execute", json=HURRIED).status_code == 504)
        assert bob.post("/v1/execute", json=QUICK).status_code == 200


def held(client: httpx.Client) -> str:
    """What a caller shows."""
    return str(client.headers["Authorization"])


def test_requests_a_second_are_counted_by_owner(tmp_path: Path) -> None:
    keys = people(tmp_path / "data", "alice", "bob")
    with (
        Server(tmp_path / "data", keys="required", requests_per_second=0.05) as server,
        caller(server, keys["alice"]) as alice,
        caller(server, keys["bob"]) as bob,
    ):
        assert alice.get("/v1/limits").json()["requests_per_second_per_owner"] == 0.05
        problem(alice.get("/v1/limits"), "rate_limited")
        assert bob.get("/v1/limits").status_code == 200


def test_the_client_waits_as_it_is_told(tmp_path: Path) -> None:
    keys = people(tmp_path / "data", "alice")
    with Server(tmp_path / "data", keys="required", requests_per_second=2) as server:
        with gw.connect(server.url, api_key=keys["alice"]) as client:
            assert all(client.limits()["requests_per_second_per_owner"] == 2 for _ in range(7))
        with gw.connect(server.url, api_key=keys["alice"], attempts=1) as client:

            def insist() -> None:
                while True:
                    client.limits()

            with pytest.raises(errors.RateLimited) as refused:
                insist()
            assert (refused.value.limit, refused.value.retry_after) == (2, 1)
