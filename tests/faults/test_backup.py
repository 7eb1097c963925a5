"""The backup that `docs/operations.md` describes, made while clients append, and put back."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.service.serving import Server

pytestmark = pytest.mark.slow


def append(http: httpx.Client, name: str, large: bool) -> None:
    value = [float(len(name))] * (1500 if large else 3)
    node = {"op": "const", "inputs": [], "attrs": {"value": value}, "name": name}
    answer = http.post("/v1/sessions/m/nodes", json={"nodes": [node]})
    assert answer.status_code == 201, answer.text


def back_up(data: Path, backup: Path) -> None:
    """Arrays, the database, the arrays that came meanwhile."""
    shutil.copytree(data / "blobs", backup / "blobs", ignore=shutil.ignore_patterns(".new-*"))
    with (
        closing(sqlite3.connect(data / "gradwire.sqlite3")) as source,
        closing(sqlite3.connect(backup / "gradwire.sqlite3")) as copy,
    ):
        source.backup(copy)
    shutil.copytree(
        data / "blobs",
        backup / "blobs",
        ignore=shutil.ignore_patterns(".new-*"),
        dirs_exist_ok=True,
    )


def test_a_backup_of_a_running_server_can_be_put_back(tmp_path: Path) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    with Server(data) as server:
        server.http.post("/v1/sessions", json={"name": "m", "inputs": []}).raise_for_status()
        for k in range(10):
            append(server.http, f"before_{k}", large=k % 2 == 0)
        enough = threading.Event()

        def write() -> None:
            with httpx.Client(base_url=server.url, timeout=60) as http:
                for k in range(10_000):
                    if enough.is_set():
                        return
                    append(http, f"during_{k}", large=k % 5 == 0)

        writer = threading.Thread(target=write)
        writer.start()
        back_up(data, backup)
        enough.set()
        writer.join()
        whole = server.http.get("/v1/sessions/m").json()["nodes"]
    with Server(backup) as server:
        kept = server.http.get("/v1/sessions/m").json()["nodes"]
        assert len(kept) >= 10
        assert kept == whole[: len(kept)]
        for node in kept:
            value = server.http.get(f"/v1/sessions/m/values/{node['name']}/data")
            assert value.status_code == 200, value.text
        append(server.http, "after", large=True)
