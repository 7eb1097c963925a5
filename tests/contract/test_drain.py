"""SIGTERM under load: whatever the server took it answers, and then it ends."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_error_codes import slow_graph
from tests.contract.test_guards import (
    address,
    connect,
    eventually,
    long_run,
    post,
    read,
    rest,
    runs,
    send_run,
)
from tests.service.serving import Server

pytestmark = pytest.mark.slow

CLIENTS = 12


class Caller(threading.Thread):
    """Sends one request after the other over one connection, until the server ends it."""

    def __init__(self, server: Server, body: dict[str, Any], path: str) -> None:
        super().__init__(daemon=True)
        self.connection = connect(server)
        content = json.dumps(body).encode()
        self.request = post(path, f"Content-Length: {len(content)}") + content
        self.statuses: list[int] = []
        self.closed = False
        self.lost = ""
        self.pause = 0.0
        """Seconds between the last answer and the request after it."""

    def run(self) -> None:
        with self.connection:
            answered = time.monotonic()
            while not (self.closed or self.lost):
                try:
                    self.connection.sendall(self.request)
                    self.pause = time.monotonic() - answered
                    self.read_answer()
                    answered = time.monotonic()
                except OSError as error:
                    self.lost = f"{type(error).__name__} after {len(self.statuses)} answers"

    def read_answer(self) -> None:
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self.receive()
        head, _, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        assert length
        while len(body) < int(length[1]):
            body += self.receive()
        self.statuses.append(int(head.split(b" ", 2)[1]))
        self.closed = re.search(rb"(?i)connection: close", head) is not None

    def receive(self) -> bytes:
        chunk = self.connection.recv(65536)
        if not chunk:
            raise ConnectionError("closed without an answer")
        return chunk


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("drain", [0, 1])
def test_everything_accepted_is_answered(tmp_path: Path, workers: int, drain: int) -> None:
    with Server(
        tmp_path / "data", workers=workers, drain_seconds=drain, threads=2, log_level="info"
    ) as server:
        made = server.http.post(
            "/v1/sessions", json={"name": "s", "inputs": [{"name": "x", "shape": []}]}
        )
        assert made.status_code == 201
        entry = {"nodes": [{"op": "tanh", "inputs": ["x"]}]}
        kinds: list[tuple[dict[str, Any], str]] = [
            (entry, "/v1/sessions/s/nodes"),
            (slow_graph(3), "/v1/execute"),
        ]
        callers = [Caller(server, *kinds[k % 2]) for k in range(CLIENTS)]
        for caller in callers:
            caller.start()
        while not all(len(caller.statuses) >= 3 for caller in callers):
            assert all(caller.is_alive() for caller in callers), [c.lost for c in callers]
            time.sleep(0.02)
        server.process.send_signal(signal.SIGTERM)
        for caller in callers:
            caller.join(60)
        assert not any(caller.is_alive() for caller in callers)
        assert server.process.wait(60) == 0
        answers = Counter(status for caller in callers for status in caller.statuses)
        assert answers.keys() <= {200, 201, 503}
        assert accepted(server) == answers
        # Who was slow to ask again may have found the connection closed; it was not asked on it.
        assert [c.lost for c in callers if c.lost and c.pause < PROMPT] == []
        assert all(caller.closed for caller in callers if not caller.lost)
    with Server(tmp_path / "data") as again:
        assert again.http.get("/v1/sessions/s").json()["version"] == answers[201]


PROMPT = 0.2
"""Seconds after an answer within which a request certainly finds its connection open."""


def accepted(server: Server) -> Counter[int]:
    """The appends and runs that the server took, by how it says that they were answered."""
    lines = [json.loads(line) for line in server.log().splitlines()]
    routes = ("/v1/sessions/{sid}/nodes", "/v1/execute")
    return Counter(line["status"] for line in lines if line.get("route") in routes)


def test_a_run_beyond_all_patience_is_answered_too(tmp_path: Path) -> None:
    with (
        Server(tmp_path / "data", threads=1, queue=2, shutdown_seconds=1) as server,
        ExitStack() as stack,
    ):
        connections = [stack.enter_context(send_run(server, long_run())) for _ in range(3)]
        eventually(lambda: runs(server) == 3)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        for connection in connections:
            assert "any longer" in read(rest(connection), 503, "draining")["reason"]
        assert server.process.wait(60) == 0
        assert time.monotonic() - began < 120, "the runs themselves would take minutes"
        assert "Traceback" not in server.log()


def test_nobody_new_is_taken(tmp_path: Path) -> None:
    with Server(tmp_path / "data", threads=1, queue=0, shutdown_seconds=60) as server:
        host, port = address(server)
        # It ends when its time is up: how long that takes is for no machine to say.
        with send_run(server, long_run(deadline_ms=6000)) as connection:
            eventually(lambda: runs(server) == 1)
            server.process.send_signal(signal.SIGTERM)
            for _ in range(400):
                try:
                    socket.create_connection((host, port), timeout=5).close()
                except OSError:
                    break
                time.sleep(0.05)
            else:
                pytest.fail("the port stays open")
            assert rest(connection).startswith(b"HTTP/1.1 504 ")
        assert server.process.wait(60) == 0
