"""A disk that fills up: `storage_full`, nothing corrupt, and all is well when there is room again.

A small tmpfs is a disk that can be filled, where the system lets us mount one (root does, mostly).
The bound on the SQLite file is a disk that anybody can fill.
"""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg
import pytest

from gradwire_service.errors import StorageFull
from gradwire_service.postgres_store import PostgresStore
from gradwire_service.store import Append, Line, LogEntry, NewSession, now
from tests.postgres import Cluster
from tests.service.serving import Server, problem

pytestmark = pytest.mark.slow

LONG = "x" * 300


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A disk of 6 MB in a folder."""
    owner = place.stat()
    options = f"size=6m,mode=0700,uid={owner.st_uid},gid={owner.st_gid}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    with small_disk(place):
        yield place


def create(http: httpx.Client, name: str) -> None:
    made = http.post("/v1/sessions", json={"name": name, "inputs": [{"name": "x", "shape": [2]}]})
    assert made.status_code == 201, made.text


def append(http: httpx.Client, session: str, count: int = 20) -> httpx.Response:
    nodes = [{"op": "tanh", "inputs": ["x"], "source": LONG}] * count
    return http.post(f"/v1/sessions/{session}/nodes", json={"nodes": nodes})


def fill(http: httpx.Client, session: str) -> int:
    """Append until the store is full; how many nodes were acknowledged."""
    acknowledged = 0
    for _ in range(5000):
        answer = append(http, session)
        if answer.status_code != 201:
            problem(answer, "storage_full")
            return acknowledged
        acknowledged = answer.json()["version"]
    raise AssertionError("the store never became full")


def check(http: httpx.Client, session: str, nodes: int) -> None:
    """Reads, runs and health are as ever, and the log is what was acknowledged."""
    assert http.get("/healthz").status_code == 200
    assert http.get("/readyz").status_code == 200
    assert http.get(f"/v1/sessions/{session}").json()["version"] == nodes
    run = http.post(f"/v1/sessions/{session}/forward", json={"inputs": {"x": [0, 0]}})
    assert run.status_code == 200, run.text


def test_a_full_disk_under_sqlite(disk: Path) -> None:
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(2 * 2**20))
    data = disk / "data"
    with Server(data) as server:
        http = server.http
        for name in ("a", "b"):
            create(http, name)
        nodes = fill(http, "a")
        assert nodes > 0
        check(http, "a", nodes)
        for refused in (
            append(http, "b"),
            http.post("/v1/sessions", json={"inputs": [], "name": "c" * 200}),
            http.post("/v1/sessions/a/nodes", json={"nodes": [constant(400_000)]}),
        ):
            if refused.status_code != 201:  # a small write may still find a corner
                problem(refused, "storage_full")
        with ThreadPoolExecutor(8) as threads:
            for answer in threads.map(lambda _: append(http, "a", 200), range(32)):
                problem(answer, "storage_full")
        check(http, "a", nodes)
        ballast.unlink()
        for name in ("a", "b"):
            answer = append(http, name)
            assert answer.status_code == 201, answer.text
        assert (
            http.post("/v1/sessions/b/nodes", json={"nodes": [constant(5000)]}).status_code == 201
        )
        check(http, "a", nodes + 20)
        before = [http.get(f"/v1/sessions/{name}").json() for name in ("a", "b")]
        server.kill()
    with Server(data) as server:
        assert [server.http.get(f"/v1/sessions/{name}").json() for name in ("a", "b")] == before
    with closing(sqlite3.connect(data / "gradwire.sqlite3")) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def constant(elements: int) -> dict[str, Any]:
    return {"op": "const", "inputs": [], "attrs": {"value": [0.5] * elements}}


def test_a_bound_on_the_sqlite_file(tmp_path: Path) -> None:
    with Server(tmp_path / "data", store_bytes=2**19) as server:
        for name in ("a", "b"):
            create(server.http, name)
        nodes = fill(server.http, "a")
        check(server.http, "a", nodes)
        assert server.http.delete("/v1/sessions/a").status_code == 204
        assert append(server.http, "b").status_code == 201
        check(server.http, "b", 20)


def test_a_full_disk_under_postgres(postgres: Cluster, tmp_path: Path) -> None:
    with (
        small_disk(postgres.folder("small")) as disk,
        psycopg.connect(postgres.url, autocommit=True) as sql,
    ):
        sql.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
        url = postgres.schema(default_tablespace="small")
        try:
            _fill_and_recover(url, disk / "ballast", tmp_path)
        finally:
            with psycopg.connect(url) as inside:
                (schema,) = inside.execute("SELECT current_schema()").fetchone() or ("",)
            sql.execute(f"DROP SCHEMA {schema} CASCADE")
            sql.execute("DROP TABLESPACE small")


def _fill_and_recover(url: str, ballast: Path, directory: Path) -> None:
    store = PostgresStore(url, directory)
    store.create(NewSession("local", "ses_1", None, [], {}, now()), [], 10, None)
    row = store.find("local", "ses_1")
    assert row is not None
    ballast.write_bytes(bytes(2 * 2**20))
    document = LogEntry(np.random.default_rng(0).bytes(10_000))  # which does not compress

    version = 0

    def append_until(end: int) -> None:
        nonlocal version
        while version < end:
            entry = Append(row.number, version, [document], None, Line(version))
            store.append(entry).result()
            version += 1

    with pytest.raises(StorageFull):
        append_until(5000)
    assert 0 < version == len(store.entries(row, 0, 5000))
    ballast.unlink()
    append_until(version + 20)
    assert len(store.entries(row, 0, 5000)) == version
    store.close()
