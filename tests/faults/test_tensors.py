"""Resident tensors under kill -9 and on a full disk: the old value or the new one, never half.

While one thread puts a tensor and another lets a run store two, the server is killed. Each tensor
is one number all over, and the numbers only grow, so whatever is torn, lost or mixed shows.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from gradwire.wire import safetensors
from gradwire.wire.messages import BINARY
from tests.faults.test_full_disk import disk as disk  # a fixture
from tests.service.serving import Server, problem

pytestmark = pytest.mark.slow

SIZE = 300_000


class Writer(threading.Thread):
    """Writes growing numbers until it is told to stop or the server is gone."""

    def __init__(self, url: str, first: int) -> None:
        super().__init__()
        self.http = httpx.Client(base_url=url, timeout=60)
        self.sent = self.acknowledged = first
        self.count = 0

    def write(self, number: int) -> httpx.Response:
        raise NotImplementedError

    def run(self) -> None:
        while True:
            self.sent += 1
            try:
                answer = self.write(self.sent)
            except httpx.TransportError:
                return
            assert answer.status_code in (200, 201), answer.text
            self.acknowledged = self.sent
            self.count += 1


class Putting(Writer):
    def write(self, number: int) -> httpx.Response:
        array = np.full(SIZE, number, np.float32)
        body = b"".join(safetensors.pack({"value": array}, None, "request"))
        return self.http.put("/v1/tensors/w", content=body, headers={"Content-Type": BINARY})


class Storing(Writer):
    def write(self, number: int) -> httpx.Response:
        return self.http.post("/v1/execute", json=graph(number, SIZE))


def graph(number: float, size: int) -> dict[str, Any]:
    """A run that stores a number, all over two tensors."""
    attrs = {"shape": [size]}
    return {
        "inputs": [{"name": "n", "shape": []}],
        "nodes": [
            {"op": "broadcast_to", "inputs": ["n"], "attrs": attrs, "name": name} for name in "ab"
        ],
        "outputs": {"a": "a", "b": "b"},
        "run": {
            "mode": "forward",
            "inputs": {"n": number},
            "store": {"outputs/a": "pair/a", "outputs/b": "pair/b"},
        },
    }


def read(http: httpx.Client, name: str) -> tuple[int, str]:
    """The number that a tensor is all over, and its version."""
    answer = http.get(f"/v1/tensors/{name}", headers={"Accept": BINARY})
    assert answer.status_code == 200, answer.text
    tensors, _ = safetensors.unpack(answer.content, "response")
    (number,) = set(tensors["value"].tolist())
    return int(number), answer.headers["etag"]


@pytest.mark.timeout(3600)
def test_a_killed_server(tmp_path: Path, long: bool) -> None:
    data = tmp_path / "data"
    numbers = [0, 0]
    bounds = {"max_tensors": 3, "tensor_bytes": 3 * 4 * SIZE}  # leftovers do not count
    for _ in range(100 if long else 2):
        server = Server(data, **bounds)
        writers = [Putting(server.url, numbers[0]), Storing(server.url, numbers[1])]
        for writer in writers:
            writer.start()
        wanted = random.randint(1, 12)
        while any(w.count < wanted and w.is_alive() for w in writers):
            time.sleep(random.random() / 100)
        server.kill()
        for writer in writers:
            writer.join()
            writer.http.close()
        with Server(data) as again:
            w, _ = read(again.http, "w")
            (a, one), (b, other) = read(again.http, "pair/a"), read(again.http, "pair/b")
            assert (a, one) == (b, other), "both of them or neither"
            for number, writer in zip((w, a), writers, strict=True):
                assert writer.acknowledged <= number <= writer.sent
            numbers = [w, a]
    # What the kills left behind goes away in its time.
    for path in (data / "tensors").glob("*/*"):
        os.utime(path, (0, 0))
    with Server(data) as server:
        assert len(list((data / "tensors").glob("*/*"))) == 3
        assert read(server.http, "w")[0] == numbers[0]


def test_a_server_killed_in_the_middle_of_a_body(tmp_path: Path) -> None:
    data, bounds = tmp_path / "data", {"max_tensors": 1, "tensor_bytes": 4 * SIZE}

    def body(number: float) -> bytes:
        array = np.full(SIZE, number, np.float32)
        return b"".join(safetensors.pack({"value": array}, None, "request"))

    def put(server: Server, number: float) -> None:
        headers = {"Content-Type": BINARY}
        answer = server.http.put("/v1/tensors/w", content=body(number), headers=headers)
        assert answer.is_success, answer.text

    server = Server(data, **bounds)
    put(server, 1)
    for number in (2, 3):
        host, _, port = server.url.removeprefix("http://").partition(":")
        sent = body(number)
        head = (
            f"PUT /v1/tensors/w HTTP/1.1\r\nHost: localhost\r\nContent-Type: {BINARY}\r\n"
            f"Content-Length: {len(sent)}\r\n\r\n"
        )
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(head.encode() + sent[: len(sent) // 2])
            server.kill()
        server = Server(data, **bounds)
        assert read(server.http, "w")[0] == number - 1
        assert len(list((data / "tensors").glob("*/*"))) == 1
        put(server, number)
        assert read(server.http, "w")[0] == number
    server.stop()


@pytest.fixture
def crowded(disk: Path) -> Iterator[Server]:
    with Server(disk / "data") as server:
        yield server


def test_a_full_disk(disk: Path, crowded: Server) -> None:
    http = crowded.http

    def put(name: str, number: float) -> httpx.Response:
        array = np.full(SIZE, number, np.float32)
        body = b"".join(safetensors.pack({"value": array}, None, "request"))
        return http.put(f"/v1/tensors/{name}", content=body, headers={"Content-Type": BINARY})

    for name in ("w", "pair/a", "pair/b"):
        assert put(name, 1).status_code == 201
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 600_000))
    before = http.get("/v1/tensors").json()
    for _ in range(3):
        problem(put("w", 2), "storage_full")
        problem(put("v", 2), "storage_full")
        problem(http.post("/v1/execute", json=graph(2, SIZE)), "storage_full")
    assert http.get("/v1/tensors").json() == before
    for name in ("w", "pair/a", "pair/b"):
        assert read(http, name)[0] == 1
    run = graph(3, SIZE)
    run["run"] = {"mode": "forward", "inputs": {"n": 3.0}, "outputs": ["n"]}
    assert http.post("/v1/execute", json=run).status_code == 200, "what stores nothing goes on"
    assert http.get("/readyz").status_code == 200
    (disk / "ballast").unlink()
    assert put("w", 2).status_code == 200
    assert http.delete("/v1/tensors/w").status_code == 204
    assert http.post("/v1/execute", json=graph(4, SIZE)).status_code == 200
    assert read(http, "pair/a")[0] == read(http, "pair/b")[0] == 4
