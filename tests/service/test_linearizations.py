"""Linearizations: residuals as files that are mapped, a time and a budget of their own."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from gradwire_engine import Engine, RunSpec
from gradwire_engine import engine as engine_module
from gradwire_engine.errors import QuotaExceeded
from gradwire_service import expiry, sessions
from gradwire_service.errors import SessionNotFound
from gradwire_service.http import Key
from gradwire_service.requests import append_request, session_request, transform_request
from gradwire_service.sessions import Sessions
from gradwire_service.store import Store
from tests.service.serving import Server, problem

SIZE = 5000
X = np.linspace(-1, 1, SIZE).astype(np.float32)
LIFE = 1000.0


class Clock:
    """The time of the test."""

    def __init__(self) -> None:
        self.at = time.time()

    def time(self) -> float:
        return self.at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (expiry, sessions):
        monkeypatch.setattr(module, "time", made)
    monkeypatch.setattr(sessions, "now", lambda: expiry._moment_at(made.at))
    return made


class Process:
    """The sessions of one process, and a model `y = tanh(x)` in a session `m`."""

    def __init__(self, store: Store, budget: int = 10**9, life: float = LIFE) -> None:
        self.store = store
        self.engine = Engine(compile=False)
        self.sessions = Sessions(
            store,
            self.engine,
            memory_limit=2**30,
            max_elements=2**30,
            max_nodes=1000,
            max_sessions=1000,
            cached=16,
            linear_seconds=life,
            linear_bytes=budget,
        )

    def model(self) -> None:
        body: Any = {"name": "m", "inputs": [{"name": "x", "shape": [SIZE]}]}
        self.sessions.create("local", session_request(body), None)
        nodes = [{"op": "tanh", "inputs": ["x"], "name": "y"}]
        wanted = append_request({"nodes": nodes}, no_tensors)
        self.sessions.append("local", "m", wanted, None, None)

    def linearize(self, point: Any = X, name: str | None = None) -> str:
        return self.transform("m", {"transform": "linearize", "inputs": {"x": point}}, name)

    def transform(
        self, session: str, body: dict[str, Any], name: str | None = None, key: Key | None = None
    ) -> str:
        wanted = transform_request({**body, "name": name})
        document = self.sessions.transform("local", session, wanted, no_tensors, None, key)
        id: str = document["id"]
        return id

    def push(self, session: str, tangent: Any) -> np.ndarray[Any, Any]:
        graph = self.sessions.graph(self.sessions.find("local", session))
        prepared = self.engine.prepare(graph, RunSpec(inputs=("tangent.x",)))
        results = prepared.execute({"inputs/tangent.x": np.asarray(tangent, np.float32)})
        return results.results["outputs/tangent.y"]


def no_tensors(names: Any) -> Any:
    raise AssertionError(names)


@pytest.fixture
def here(place: Callable[[], Store]) -> Iterator[Process]:
    process = Process(place())
    process.model()
    yield process
    process.store.close()


def blobs(directory: Path) -> set[str]:
    return {path.name for path in (directory / "blobs").iterdir()}


def test_residuals_are_files_that_are_mapped(
    here: Process, place: Callable[[], Store], tmp_path: Path
) -> None:
    id = here.linearize()
    row = here.sessions.find("local", id)
    assert row.residual_bytes is not None
    assert row.residual_bytes >= X.nbytes
    log = here.store.entries(row, 0, row.version)
    assert sum(map(len, log)) < X.nbytes / 4, "the log holds no numbers"
    assert blobs(tmp_path)
    np.testing.assert_allclose(here.push(id, np.ones(SIZE)), 1 - np.tanh(X) ** 2, atol=1e-6)
    other = Process(place())
    np.testing.assert_allclose(other.push(id, np.ones(SIZE)), 1 - np.tanh(X) ** 2, atol=1e-6)
    for process in (here, other):
        graph = process.sessions.graph(process.sessions.find("local", id))
        large = [n.op.value for n in graph.nodes if n.op.name == "const" and n.type.size == SIZE]
        assert large
        for literal in large:
            base: Any = literal.array
            while isinstance(base, np.ndarray):
                base = base.base
            assert isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)
            assert "sha256" in literal.__dict__, "nothing had to be read for its name"
        assert "tanh" not in {node.op.name for node in graph.nodes}, "no second forward pass"
    other.store.close()


def test_they_end_when_nobody_uses_them(here: Process, clock: Clock) -> None:
    lin, kept = here.linearize(name="lin"), here.linearize(2 * X, name="kept")
    for _ in range(4):
        clock.at += LIFE / 2
        here.push("kept", X)
    with pytest.raises(SessionNotFound) as ended:
        here.sessions.find("local", lin)
    assert ended.value.expired_at is not None
    assert here.sessions.find("local", "m").residual_bytes is None, "a plain session stays"
    assert here.linearize(name="lin") != lin, "the name is free again"
    here.push(kept, X)


def test_a_repeated_creation_gives_one_that_is_there(
    here: Process, place: Callable[[], Store], clock: Clock
) -> None:
    body = {"transform": "linearize", "inputs": {"x": X}}
    key = Key("once", "digest")
    other = Process(place())
    made = here.transform("m", body, "lin", key)
    clock.at += LIFE * 0.9
    assert other.transform("m", body, "lin", key) == made
    clock.at += LIFE * 0.9
    here.push(made, X)  # the retry was a use
    clock.at += LIFE + 1
    again = other.transform("m", body, "lin", key)
    assert again != made
    assert here.transform("m", body, "lin", key) == again
    here.push("lin", X)
    here.sessions.delete("local", again, None)
    third = here.transform("m", body, "lin", key)
    assert third not in (made, again)
    assert other.transform("m", body, "lin", key) == third
    other.store.close()


def test_one_says_when_it_ends(here: Process, clock: Clock) -> None:
    wanted = transform_request({"transform": "linearize", "inputs": {"x": X}, "name": "lin"})
    made = here.sessions.transform("local", "m", wanted, no_tensors, None, None)
    ends = expiry._seconds_of(made["expires_at"])
    assert ends == pytest.approx(clock.at + LIFE, abs=1e-5)
    read = here.sessions.read("local", "lin", 0)
    assert expiry._seconds_of(read["expires_at"]) == pytest.approx(ends, abs=1e-5)
    clock.at += LIFE / 2
    here.push("lin", X)
    used = here.sessions.read("local", "lin", 0)["expires_at"]
    assert expiry._seconds_of(used) == pytest.approx(clock.at + LIFE, abs=1e-5)
    clock.at += LIFE + 1
    with pytest.raises(SessionNotFound) as ended:
        here.sessions.read("local", "lin", 0)
    assert ended.value.expired_at == used
    assert here.sessions.read("local", "m", 0)["expires_at"] is None, "a plain session stays"


def test_their_files_go_with_them(here: Process, clock: Clock, tmp_path: Path) -> None:
    here.sessions.delete("local", here.linearize(), None)
    assert not blobs(tmp_path)
    here.linearize()
    assert blobs(tmp_path)
    clock.at += 2 * LIFE + 1
    here.sessions.sweep()
    assert not blobs(tmp_path)


def test_another_process_lets_go_of_them(
    here: Process, place: Callable[[], Store], clock: Clock
) -> None:
    """A file that is mapped takes room on the disk, also when it has no name any more."""
    other = Process(place())
    id = here.linearize()
    for process in (here, other):
        process.push(id, X)
        assert process.engine._cache
    here.sessions.delete("local", id, None)
    assert not here.engine._cache
    clock.at += LIFE + 1
    other.sessions.sweep()
    assert not other.engine._cache
    assert id not in [copy.row.id for copy in other.sessions.copies.all()]
    other.store.close()


def test_what_is_made_of_one_is_one(here: Process, clock: Clock) -> None:
    lin = here.linearize()
    pullback = here.transform(lin, {"transform": "vjp"})
    fork = here.sessions.create("local", session_request({"from": {"session": lin}}), None)["id"]
    bytes = {
        name: here.sessions.find("local", name).residual_bytes for name in (lin, pullback, fork)
    }
    assert bytes[fork] == bytes[lin]
    assert all(bytes.values())
    here.sessions.delete("local", lin, None)
    np.testing.assert_allclose(here.push(fork, np.ones(SIZE)), 1 - np.tanh(X) ** 2, atol=1e-6)
    clock.at += LIFE + 1
    for name in (pullback, fork):
        with pytest.raises(SessionNotFound):
            here.sessions.find("local", name)


def test_a_budget(place: Callable[[], Store], clock: Clock, tmp_path: Path) -> None:
    process = Process(place(), budget=int(2.5 * X.nbytes))
    process.model()
    first, _ = process.linearize(X), process.linearize(2 * X)
    before = blobs(tmp_path)
    for refused in (
        lambda: process.linearize(3 * X),
        lambda: process.transform(first, {"transform": "vjp"}),
        lambda: process.sessions.create(
            "local", session_request({"from": {"session": first}}), None
        ),
    ):
        with pytest.raises(QuotaExceeded) as over:
            refused()
        facts = over.value.facts()
        assert facts["quota"] == "linearization_bytes"
        assert facts["held"] >= 2 * X.nbytes
        assert facts["held"] + facts["wanted"] > facts["limit"] == int(2.5 * X.nbytes)
        assert blobs(tmp_path) == before, "nothing is left of what was refused"
    process.sessions.delete("local", first, None)
    process.linearize(3 * X)
    clock.at += LIFE + 1
    process.linearize(4 * X)  # what has expired is not in its way
    process.store.close()


def test_the_engine_holds_on_to_a_bounded_amount(
    here: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "CACHED_BYTES", 5 * X.nbytes // 2)
    ids = [here.linearize(k * X) for k in range(1, 6)]
    for id in ids:
        here.push(id, X)
    assert len(here.engine._cache) == 2
    monkeypatch.setattr(engine_module, "CACHED_BYTES", 1)
    for id in ids:
        here.push(id, X)
    assert len(here.engine._cache) == 1, "the one in use is kept whatever its size"


# -- over HTTP -------------------------------------------------------------------------------------


def make(http: httpx.Client) -> str:
    inputs = [{"name": "x", "shape": [SIZE]}]
    assert http.post("/v1/sessions", json={"name": "m", "inputs": inputs}).status_code == 201
    nodes = {"nodes": [{"op": "tanh", "inputs": ["x"], "name": "y"}]}
    assert http.post("/v1/sessions/m/nodes", json=nodes).status_code == 201
    return linearize(http)


def linearize(http: httpx.Client, **more: Any) -> str:
    body = {"transform": "linearize", "inputs": {"x": X.tolist()}, **more}
    made = http.post("/v1/sessions/m/transforms", json=body)
    assert made.status_code == 201, made.text
    id: str = made.json()["id"]
    return id


def push(http: httpx.Client, id: str, *tangents: float) -> httpx.Response:
    """One tangent or many in one request, each a number all over."""
    body: dict[str, Any] = {"inputs": {"tangent.x": [[t] * SIZE for t in tangents]}}
    body["in_axes"] = {"inputs/tangent.x": 0}
    return http.post(f"/v1/sessions/{id}/forward", json=body)


def pushed(answer: httpx.Response) -> np.ndarray[Any, Any]:
    assert answer.status_code == 200, answer.text
    tensor = answer.json()["outputs"]["tangent.y"]
    return np.array(tensor["data"]).reshape(tensor["shape"])


SLOPE = 1 - np.tanh(X) ** 2


@pytest.mark.slow
def test_processes_share_one_and_a_restart_finds_it(address: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Server(data, store=address) as server, Server(data, store=address) as other:
        id = make(server.http)
        for http in (other.http, server.http):
            np.testing.assert_allclose(pushed(push(http, id, 1, 2))[1], 2 * SLOPE, atol=1e-5)
        server.kill()
        other.kill()
    with Server(data, store=address) as server:
        np.testing.assert_allclose(pushed(push(server.http, id, 1))[0], SLOPE, atol=1e-5)
        run = {
            "inputs": {"cotangent.tangent.y": [[1.0] * SIZE, [3.0] * SIZE]},
            "in_axes": {"inputs/cotangent.tangent.y": 0},
            "transforms": [{"transform": "vjp"}],
            "outputs": ["gradient.tangent.x"],
        }
        answer = server.http.post(f"/v1/sessions/{id}/forward", json=run)
        assert answer.status_code == 200, answer.text
        tensor = answer.json()["outputs"]["gradient.tangent.x"]
        pulled = np.array(tensor["data"]).reshape(2, SIZE)
        np.testing.assert_allclose(pulled, [SLOPE, 3 * SLOPE], atol=1e-5)


@pytest.mark.slow
def test_one_expires(tmp_path: Path) -> None:
    budget = 6 * X.nbytes
    with Server(tmp_path / "data", linearization_seconds=3, linearization_bytes=budget) as server:
        http = server.http
        limits = http.get("/v1/limits").json()
        assert limits["linearization_seconds"] == 3
        assert limits["linearization_bytes_per_owner"] == budget
        id, used = make(http), linearize(http, name="used")
        ends = time.monotonic() + 3.6
        while time.monotonic() < ends:
            pushed(push(http, used, 1))
            time.sleep(0.1)
        assert problem(push(http, id, 1), "session_not_found")["expired_at"].endswith("Z")
        for _ in range(4):
            linearize(http)
        answer = http.post(
            "/v1/sessions/m/transforms",
            json={"transform": "linearize", "inputs": {"x": X.tolist()}, "outputs": ["y", "x"]},
        )
        if answer.status_code != 201:
            problem(answer, "quota_exceeded")
        assert http.get("/v1/sessions/m").status_code == 200


def test_compiled(tmp_path: Path) -> None:
    """Kernels read residuals from the file."""
    with Server(tmp_path / "data", compile=True, cache_dir=str(tmp_path / "cache")) as server:
        id = make(server.http)
        body = {"inputs": {"tangent.x": [1.0] * SIZE}, "tier": "compiled"}
        answer = server.http.post(f"/v1/sessions/{id}/forward", json=body)
        assert answer.headers["gradwire-tier"] == "compiled"
        np.testing.assert_allclose(pushed(answer), SLOPE, atol=1e-5)
