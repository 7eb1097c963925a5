"""kill -9 in the middle of concurrent appends: what was acknowledged is there, in order, once.

Half of the writers retry under an idempotency key until they are answered, as the client does; the
other half go on to the next node, not knowing whether the last one is there. The long form
(`make faults`) makes 20 rounds of 10,000 appends for each store and each kind of kill.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.load import Answer, Connection, post
from tests.service.serving import Server

WRITERS, SESSIONS = 32, 4

pytestmark = pytest.mark.slow


@dataclass
class Tally:
    """What the writers of one round know."""

    wanted: int
    sent: int = 0
    acknowledged: list[tuple[str, int, str]] = field(default_factory=list)
    """Session, version and name of every append that was answered."""

    kept: set[str] = field(default_factory=set)
    """Names of the appends that were retried until they were answered."""

    def next(self) -> int | None:
        if self.sent >= self.wanted:
            return None
        self.sent += 1
        return self.sent

    async def reached(self, count: int) -> None:
        for _ in range(100_000):
            if len(self.acknowledged) >= count:
                return
            await asyncio.sleep(0.005)


class Writer:
    """One client, which connects again whenever it has to."""

    def __init__(self, port: int, session: str, number: int, tally: Tally) -> None:
        self._port = port
        self._session = session
        self._number = number
        self._tally = tally
        self._connection: Connection | None = None

    async def run(self) -> None:
        keyed = self._number % 2 == 0
        while (count := self._tally.next()) is not None:
            name = f"w{self._number}_{count}"
            node = {"op": "tanh", "inputs": ["x"], "name": name}
            headers = {"Idempotency_Key": name} if keyed else {}
            body = json.dumps({"nodes": [node]}).encode()
            request = post(f"/v1/sessions/{self._session}/nodes", body, **headers)
            answer = await self._answer(request)
            while answer is None and keyed:
                await asyncio.sleep(0.02)
                answer = await self._answer(request)
            if answer is not None:
                made = json.loads(answer.body)
                assert made["nodes"][0]["name"] == name
                self._tally.acknowledged.append((self._session, made["version"], name))
                if keyed:
                    self._tally.kept.add(name)
        if self._connection is not None:
            self._connection.close()

    async def _answer(self, request: bytes) -> Answer | None:
        """The answer to a success; None if there was none, or the server could not do it now."""
        while self._connection is None:
            try:
                self._connection = await Connection.open("127.0.0.1", self._port)
            except OSError:
                await asyncio.sleep(0.05)
        try:
            answer = await self._connection.send(request)
        except OSError:
            self._connection = None
            return None
        assert answer.status in (201, 503), answer
        return answer if answer.status == 201 else None


async def round(url: str, port: int, wanted: int, strike: Callable[[], Any]) -> Tally:
    """Append `wanted` nodes with all writers, and strike somewhere in the middle."""
    sessions = [await create(port) for _ in range(SESSIONS)]
    tally = Tally(wanted)
    writers = [Writer(port, sessions[k % SESSIONS], k, tally) for k in range(WRITERS)]

    async def struck() -> None:
        await tally.reached(random.randint(wanted // 10, wanted // 2))
        await asyncio.to_thread(strike)

    await asyncio.gather(struck(), *(writer.run() for writer in writers))
    return tally


async def create(port: int) -> str:
    connection = await Connection.open("127.0.0.1", port)
    made = await connection.send(post("/v1/sessions", b'{"inputs": [{"name": "x", "shape": [2]}]}'))
    connection.close()
    assert made.status == 201
    id: str = json.loads(made.body)["id"]
    return id


def check(server: Server, tally: Tally) -> None:
    """Every acknowledged append is there, where it was said to be, and nothing is there twice."""
    assert tally.sent == tally.wanted
    assert len(tally.acknowledged) > tally.wanted // 2
    sessions = {session for session, _, _ in tally.acknowledged}
    for session in sessions:
        log = [node["name"] for node in server.http.get(f"/v1/sessions/{session}").json()["nodes"]]
        assert len(set(log)) == len(log), "nothing is there twice"
        mine = [(version, name) for s, version, name in tally.acknowledged if s == session]
        assert [log[version - 1] for version, _ in mine] == [name for _, name in mine]
        for writer in range(WRITERS):
            order = [n for n in log if n.startswith(f"w{writer}_")]
            assert order == sorted(order, key=lambda n: int(n.partition("_")[2]))
    assert tally.kept == {f"w{k}_{n}" for k, n in _named(tally) if k % 2 == 0}


def _named(tally: Tally) -> list[tuple[int, int]]:
    names = [name[1:].split("_") for _, _, name in tally.acknowledged]
    return [(int(writer), int(number)) for writer, number in names]


def check_store(store: str, data: Path) -> None:
    """The database itself finds nothing wrong, and logs are as long as their sessions say."""
    counts = (
        "SELECT count(*) FROM sessions s WHERE version <>"
        " (SELECT count(*) FROM log l WHERE l.session = s.number)"
    )
    if store.startswith("postgresql"):
        with psycopg.connect(store) as sql:
            assert sql.execute(counts).fetchone() == (0,)
        return
    with closing(sqlite3.connect(data / "gradwire.sqlite3")) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert file.execute(counts).fetchone() == (0,)


@pytest.fixture
def rounds(long: bool) -> tuple[int, int]:
    """How many rounds, and of how many appends."""
    return (20, 10_000) if long else (2, 600)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.timeout(3600)
def test_a_killed_server(tmp_path: Path, address: str, rounds: tuple[int, int]) -> None:
    port, data = free_port(), tmp_path / "data"
    server = Server(data, port=port, store=address)

    def strike() -> None:
        nonlocal server
        server.kill()
        server = Server(data, port=port, store=address)

    for _ in range(rounds[0]):
        tally = asyncio.run(round(server.url, port, rounds[1], strike))
        check(server, tally)
    server.stop()
    check_store(address, data)


@pytest.mark.timeout(3600)
def test_a_killed_worker(tmp_path: Path, address: str, rounds: tuple[int, int]) -> None:
    with Server(tmp_path / "data", workers=2, store=address) as server:
        port = int(server.url.rpartition(":")[2])

        def strike() -> None:
            os.kill(random.choice(server.workers()), signal.SIGKILL)

        for _ in range(rounds[0]):
            tally = asyncio.run(round(server.url, port, rounds[1], strike))
            check(server, tally)
    check_store(address, tmp_path / "data")
