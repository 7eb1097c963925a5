"""Mixed load for a long time: no fault, and memory that stays where it is.

The long form (`make soak`) takes half an hour and allows 5% of growth between its first and its
last third. The short form only shows that the load itself works: in seconds, caches still fill.
"""

from __future__ import annotations

import itertools
import random
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from gradwire.wire import safetensors
from tests.service.serving import Server

pytestmark = pytest.mark.slow

CLIENTS = 6
ROUTINE = 40
"""Appends to one session before it is deleted."""


class Client:
    """One client's life: sessions, appends, runs in both forms, mistakes, deletions."""

    def __init__(self, url: str, number: int, end: float) -> None:
        self._http = httpx.Client(base_url=url, timeout=60)
        self._number = number
        self._end = end
        self._random = random.Random(number)
        self.requests = 0
        self.fault: BaseException | None = None

    def run(self) -> None:
        try:
            with self._http:
                for life in itertools.count():
                    if time.monotonic() > self._end:
                        return
                    self._live(f"s{self._number}_{life}")
        except BaseException as fault:
            self.fault = fault

    def _expect(self, status: int, answer: httpx.Response) -> httpx.Response:
        self.requests += 1
        assert answer.status_code == status, (answer.status_code, answer.text[:500])
        return answer

    def _live(self, name: str) -> None:
        http = self._http
        inputs = [{"name": "x", "shape": [64]}]
        self._expect(201, http.post("/v1/sessions", json={"name": name, "inputs": inputs}))
        before = "x"
        for k in range(ROUTINE):
            op = self._random.choice(["tanh", "exp", "neg", "sigmoid"]) if k % 8 else "tanh"
            node = {"op": op, "inputs": [before], "name": f"h{k}"}
            self._expect(201, http.post(f"/v1/sessions/{name}/nodes", json={"nodes": [node]}))
            before = f"h{k}" if k % 4 else "x"
            if k % 10 == 5:
                self._compute(name)
            if k % 10 == 7:
                wrong = {"op": "tanh", "inputs": ["nobody"]}
                answer = http.post(f"/v1/sessions/{name}/nodes", json={"nodes": [wrong]})
                self._expect(422, answer)
        large = {"op": "const", "inputs": [], "attrs": {"value": [self._random.random()] * 2000}}
        self._expect(201, http.post(f"/v1/sessions/{name}/nodes", json={"nodes": [large]}))
        self._expect(200, http.get(f"/v1/sessions/{name}"))
        self._expect(204, http.delete(f"/v1/sessions/{name}"))

    def _compute(self, name: str) -> None:
        x = np.linspace(-1, 1, 64, dtype=np.float32)
        run = {"inputs": {"x": x.tolist()}}
        self._expect(200, self._http.post(f"/v1/sessions/{name}/forward", json=run))
        body = b"".join(bytes(c) for c in safetensors.pack({"inputs/x": x}, None, "request"))
        kind = {"Content-Type": safetensors.MEDIA_TYPE}
        answer = self._http.post(f"/v1/sessions/{name}/forward", content=body, headers=kind)
        self._expect(200, answer)
        pull = {**run, "outputs": ["h0"], "cotangents": {"h0": x.tolist()}}
        self._expect(200, self._http.post(f"/v1/sessions/{name}/vjp", json=pull))


def memory(pid: int) -> int:
    """Bytes of memory that a process has, as the system sees it."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def files(pid: int) -> int:
    """How many files and sockets it has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.first
@pytest.mark.timeout(3600)
def test_mixed_load(
    tmp_path: Path, long: bool, record_property: Callable[[str, object], None]
) -> None:
    seconds = 1800.0 if long else 15.0
    with Server(tmp_path / "data") as server:
        pid = server.process.pid
        end = time.monotonic() + seconds
        clients = [Client(server.url, k, end) for k in range(CLIENTS)]
        threads = [threading.Thread(target=client.run) for client in clients]
        for thread in threads:
            thread.start()
        seen = []
        while any(thread.is_alive() for thread in threads):
            time.sleep(seconds / 200)
            seen.append((memory(pid), files(pid)))
        for thread in threads:
            thread.join()
        for client in clients:
            if client.fault is not None:
                raise client.fault
        requests = sum(client.requests for client in clients)
        third = len(seen) // 3
        first, last = (
            statistics.median(m for m, _ in part)
            for part in (seen[third // 2 : third], seen[-third:])
        )
        record_property("requests", requests)
        record_property("megabytes", [round(first / 1e6), round(last / 1e6)])
        assert requests > CLIENTS * ROUTINE
        assert server.http.get("/v1/sessions").json()["sessions"] == []
        assert "Traceback" not in server.log()
        assert files(pid) <= max(open for _, open in seen[:third]) + 2
        if long:
            assert last <= 1.05 * first, f"{requests} requests: {first:.3g}, then {last:.3g} bytes"
