"""Bytes over a real connection: large tensors, keep-alive, and answers under load."""

from __future__ import annotations

import threading
import time

import httpx
import numpy as np

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
