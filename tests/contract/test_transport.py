"""Bytes over a real connection: large tensors, keep-alive, and answers under load."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO

import httpx
import numpy as np
import pytest

from gradwire.wire import safetensors
from tests.contract.test_error_codes import slow_graph
from tests.service.serving import Server

BINARY = {"Content-Type": safetensors.MEDIA_TYPE}


def test_megabytes_arrive_as_they_were_sent(http: httpx.Client, target: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1000, 2000)).astype(np.float32)
    inputs = [{"name": "x", "shape": [1000, 2000]}]
    made = http.post("/v1/sessions", json={"inputs": inputs, "name": "large"})
    assert made.status_code == 201
    http.post("/v1/sessions/large/nodes", json={"nodes": [{"op": "neg", "inputs": ["x"]}]})
    chunks = safetensors.pack({"inputs/x": x}, {}, "request")
    for content in (b"".join(chunks), (bytes(chunk) for chunk in chunks)):  # known length, chunked
        answer = http.post("/v1/sessions/large/forward", content=content, headers=BINARY)
        assert answer.status_code == 200, answer.text
        tensors, _ = safetensors.unpack(answer.content, "response")
        assert np.array_equal(tensors["outputs/1"], -x)
    http.delete("/v1/sessions/large")


def test_health_answers_while_runs_compute(server: Server) -> None:
    slow = [
        threading.Thread(
            target=lambda: httpx.post(f"{server.url}/v1/execute", json=slow_graph(15), timeout=60)
        )
        for _ in range(4)
    ]
    for thread in slow:
        thread.start()
    times = []
    while any(thread.is_alive() for thread in slow):
        began = time.perf_counter()
        assert server.http.get("/healthz").status_code == 200
        times.append(time.perf_counter() - began)
        time.sleep(0.01)
    assert len(times) > 5
    assert sorted(times)[len(times) // 2] < 0.1


def test_one_connection_serves_many_requests(server: Server) -> None:
    with httpx.Client(base_url=server.url) as client:
        streams = set()
        for _ in range(5):
            answer = client.get("/healthz")
            streams.add(id(answer.extensions["network_stream"]))
        assert len(streams) == 1


def forward_request(name: str, x: np.ndarray, *lines: str) -> tuple[bytes, bytes]:
    """The head and the body of a run in safetensors."""
    body = b"".join(bytes(c) for c in safetensors.pack({"inputs/x": x}, {}, "request"))
    head = [
        f"POST /v1/sessions/{name}/forward HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Type: {safetensors.MEDIA_TYPE}",
        f"Content-Length: {len(body)}",
        *lines,
    ]
    return "\r\n".join([*head, "", ""]).encode(), body


def read_answer(stream: BinaryIO) -> tuple[int, bytes]:
    status = int(stream.readline().split()[1])
    length = 0
    while (line := stream.readline().strip().lower()) != b"":
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return status, stream.read(length)


@pytest.fixture(scope="module")
def negative(server: Server) -> Iterator[str]:
    spec = {"inputs": [{"name": "x", "shape": [50_000]}], "name": "negative"}
    assert server.http.post("/v1/sessions", json=spec).status_code == 201
    node = {"op": "neg", "inputs": ["x"], "name": "y"}
    server.http.post("/v1/sessions/negative/nodes", json={"nodes": [node]}).raise_for_status()
    yield "negative"
    server.http.delete("/v1/sessions/negative")


@pytest.mark.parametrize("cut", [0, 3, 8, 70_000])
def test_a_body_in_pieces_and_what_follows_it(server: Server, negative: str, cut: int) -> None:
    port = int(server.url.rpartition(":")[2])
    x = np.arange(50_000, dtype=np.float32)
    head, body = forward_request(negative, x)
    health = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        stream = connection.makefile("rb")
        for sent in ([head + body[:cut], body[cut:] + health], [head + body + health]):
            for piece in sent:
                connection.sendall(piece)
                time.sleep(0.05)
            status, answer = read_answer(stream)
            assert status == 200, answer
            assert np.array_equal(safetensors.unpack(answer, "response")[0]["outputs/y"], -x)
            assert read_answer(stream)[0] == 200


def test_a_body_is_invited(server: Server, negative: str) -> None:
    port = int(server.url.rpartition(":")[2])
    x = np.arange(50_000, dtype=np.float32)
    head, body = forward_request(negative, x, "Expect: 100-continue")
    with socket.create_connection(("127.0.0.1", port)) as connection:
        stream = connection.makefile("rb")
        connection.sendall(head)
        assert stream.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert stream.readline() == b"\r\n"
        connection.sendall(body)
        assert read_answer(stream)[0] == 200


def test_a_head_has_no_body_and_the_next_answer_its_own(server: Server) -> None:
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        stream = connection.makefile("rb")
        connection.sendall(b"HEAD /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert stream.readline().split()[1] == b"200"
        while stream.readline().strip():
            pass
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        status, answer = read_answer(stream)
        assert (status, answer[:1]) == (200, b"{")
