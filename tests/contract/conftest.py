"""One real server for all contract tests, and a session to aim requests at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.service.serving import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("contract") / "data") as running:
        yield running


@pytest.fixture(scope="session")
def http(server: Server) -> httpx.Client:
    return server.http


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose limits a test can reach."""
    with Server(
        tmp_path_factory.mktemp("small") / "data",
        max_body_bytes=200_000,
        memory_bytes=64 * 2**20,
        max_nodes=60,
        max_sessions=12,
        store_bytes=2**18,
        threads=1,
        queue=0,
    ) as running:
        yield running


@pytest.fixture(scope="session")
def target(http: httpx.Client) -> str:
    """The id of the session `target`, which no refused request may change."""
    made = http.post(
        "/v1/sessions",
        json={
            "name": "target",
            "inputs": [
                {"name": "x", "shape": [3]},
                {"name": "w", "shape": [2, 3]},
                {"name": "b", "shape": [2]},
                {"name": "k", "shape": [], "dtype": "int64"},
                {"name": "frozen", "shape": [3], "differentiable": False},
            ],
        },
    )
    assert made.status_code == 201, made.text
    added = http.post(
        "/v1/sessions/target/nodes",
        json={
            "nodes": [
                {"op": "linear", "inputs": ["w", "b", "x"], "name": "h", "source": "model.py:3"},
                {"op": "tanh", "inputs": ["h"], "name": "y"},
                {"op": "const", "inputs": [], "attrs": {"value": [1.0, 2.0]}, "name": "c"},
                {"op": "log", "inputs": ["x"], "name": "logx", "source": "model.py:6"},
                {"op": "argmax", "inputs": ["x"], "attrs": {"axis": 0}, "name": "top"},
                {"op": "sum", "inputs": ["y"], "name": "total"},
            ]
        },
    )
    assert added.status_code == 201, added.text
    session: dict[str, Any] = made.json()
    return str(session["id"])
