"""Small appends that need no task: begun where they arrive, answered where they are committed."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from uvicorn.server import ServerState

from gradwire_service.app import create_app
from gradwire_service.connection import Connection, Rules
from gradwire_service.dispatch import Paths
from gradwire_service.errors import StorageFull
from gradwire_service.routes import ROUTES
from gradwire_service.settings import Settings
from gradwire_service.sqlite_store import SqliteStore
from gradwire_service.store import Append, Commit, Moved
from gradwire_service.swift import Swift
from gradwire_service.throttle import Throttle
from tests.load import Answer, post
from tests.load import Connection as Client

from .serving import Server

TANH = {"op": "tanh", "inputs": ["x"]}
SPEC = {"inputs": [{"name": "x", "shape": [4]}]}


def append(path: str, *nodes: object, **headers: str) -> bytes:
    """The whole request, to be sent in one piece."""
    return post(path, json.dumps({"nodes": nodes or (TANH,)}).encode(), **headers)


# -- with a store that commits when the test says so -----------------------------------------------


class Slow(SqliteStore):
    """A store in memory whose appends wait for `let`."""

    def __init__(self) -> None:
        super().__init__(None)
        self.held: list[tuple[Append, Commit]] = []

    def append(self, append: Append) -> Commit:
        """Hold an append back."""
        commit = Commit()
        self.held.append((append, commit))
        return commit

    async def let(self, refusal: Exception | None = None) -> None:
        """Commit the append that came first, or refuse it."""
        append, commit = self.held.pop(0)
        if refusal is None:
            begun = await asyncio.to_thread(super().append, append)
            refusal = await asyncio.to_thread(begun.exception, 10)
        else:
            append.refuse(refusal)
        commit.settle(refusal)


async def until(condition: Callable[[], bool]) -> None:
    """Return once it holds."""
    for _ in range(30_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not come true")


@dataclass
class Place:
    """A server of one process with the test in it, and a session."""

    app: Starlette
    store: Slow
    state: ServerState
    port: int
    path: str = ""
    opened: list[Client] = field(default_factory=list)

    async def client(self) -> Client:
        """One more connection."""
        self.opened.append(await Client.open("127.0.0.1", self.port))
        return self.opened[-1]

    def fresh(self) -> list[Connection]:
        """The server's ends of the connections that nothing has come over."""
        opened = [c for c in self.state.connections if isinstance(c, Connection)]
        return [connection for connection in opened if connection.cycle is None]

    async def begun(self, number: int = 1) -> None:
        """Return once so many appends wait for their commits, none of them with a task."""
        await until(lambda: len(self.store.held) >= number)
        assert not self.state.tasks


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    """A server whose session is in memory."""
    store = Slow()
    chosen = Settings(compile=False)
    app = create_app(chosen, store)
    config = uvicorn.Config(app, ws="none", access_log=False, log_config=None, proxy_headers=False)
    config.load()
    state = ServerState()
    async with app.router.lifespan_context(app):
        made = partial(Connection, config, state, {}, rules=Rules.of(chosen))
        server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
        found = Place(app, store, state, server.sockets[0].getsockname()[1])
        client = await found.client()
        made_one = await client.send(post("/v1/sessions", json.dumps(SPEC).encode()))
        found.path = f"/v1/sessions/{json.loads(made_one.body)['id']}/nodes"
        first = asyncio.create_task(client.send(append(found.path)))  # brings it into memory
        await until(lambda: bool(store.held))
        await store.let()
        assert (await first).status == 201
        yield found
        for opened in found.opened:
            opened.close()
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await until(lambda: not (state.connections or state.tasks))


def document(answer: Answer) -> dict[str, Any]:
    """What an answer holds."""
    found: dict[str, Any] = json.loads(answer.body)
    return found


def test_an_append_has_no_task() -> None:
    async def scenario() -> None:
        async with place() as here:
            client = await here.client()
            answer = asyncio.create_task(client.send(append(here.path)))
            await here.begun()
            assert not answer.done()
            await here.store.let()
            assert (await answer).status == 201
            assert document(await answer)["version"] == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("seconds", [0.0, 0.005, 0.1])
def test_its_body_may_come_in_pieces_of_its_own(seconds: float) -> None:
    async def scenario() -> None:
        async with place() as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            head, _, body = append(here.path).partition(b"\r\n\r\n")
            for piece in (head + b"\r\n\r\n", body[:7], body[7:]):
                writer.write(piece)
                await asyncio.sleep(seconds)
            await until(lambda: bool(here.store.held))
            assert bool(here.state.tasks) == (seconds > 0.05)  # a task waits for what is late
            await here.store.let()
            assert (await reader.readline()).startswith(b"HTTP/1.1 201 ")
            writer.close()

    asyncio.run(scenario())


def test_what_cannot_be_committed_is_refused() -> None:
    async def scenario() -> None:
        async with place() as here:
            client = await here.client()
            answer = asyncio.create_task(client.send(append(here.path)))
            await here.begun()
            await here.store.let(StorageFull())
            assert (await answer).status == 507
            assert document(await answer)["code"] == "storage_full"
            answer = asyncio.create_task(client.send(append(here.path)))
            await until(lambda: bool(here.store.held))
            await here.store.let()
            assert document(await answer)["version"] == 2

    asyncio.run(scenario())


def test_one_that_lost_a_race_is_made_again() -> None:
    async def scenario() -> None:
        async with place() as here:
            client = await here.client()
            answer = asyncio.create_task(client.send(append(here.path)))
            await here.begun()
            await here.store.let(Moved())
            await until(lambda: bool(here.store.held))
            await here.store.let()
            assert document(await answer)["version"] == 2

    asyncio.run(scenario())


def test_requests_are_begun_when_all_that_is_there_is_read() -> None:
    async def scenario() -> None:
        async with place() as here:
            readers = [await asyncio.open_connection("127.0.0.1", here.port) for _ in range(3)]
            await until(lambda: len(here.fresh()) == 3)
            for connection in here.fresh():  # as the loop does it where three have sent something
                connection.data_received(append(here.path))
                assert not here.store.held
            await here.begun(3)
            for _ in range(3):
                await here.store.let()
            heads = [(await reader.readuntil(b"\r\n\r\n"))[:13] for reader, _ in readers]
            assert heads == [b"HTTP/1.1 201 "] * 3
            for _, writer in readers:
                writer.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("leaves", [False, True], ids=["who waits", "who leaves"])
def test_one_that_is_to_be_begun_is_served_by_a_stopping_server(leaves: bool) -> None:
    async def scenario() -> None:
        async with place() as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            await until(lambda: len(here.fresh()) == 1)
            (connection,) = here.fresh()
            connection.data_received(append(here.path))
            connection.shutdown()
            (task,) = here.state.tasks
            if leaves:
                connection.transport.abort()
            await until(lambda: bool(here.store.held))
            await here.store.let()
            await task
            assert not here.store.held, "it was made once"
            answer = await reader.read()
            assert answer.startswith(b"" if leaves else b"HTTP/1.1 201 ")
            writer.close()

    asyncio.run(scenario())


def test_a_stopping_server_waits_for_what_was_begun() -> None:
    async def scenario() -> None:
        async with place() as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            writer.write(append(here.path))
            await here.begun()
            for connection in list(here.state.connections):
                connection.shutdown()
            (task,) = here.state.tasks
            await asyncio.sleep(0.01)
            assert not task.done()
            await here.store.let()
            answer = await reader.read()  # to the end: the server has closed it
            assert answer.startswith(b"HTTP/1.1 201 ")
            assert b"\r\nconnection: close\r\n" in answer
            writer.close()

    asyncio.run(scenario())


def test_what_comes_to_a_stopping_server_has_a_task() -> None:
    async def scenario() -> None:
        async with place() as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            idle = await here.client()
            writer.write(append(here.path) * 2)
            await here.begun()
            for connection in list(here.state.connections):
                connection.shutdown()
            await here.store.let()
            late = asyncio.create_task(idle.send(append(here.path)))
            await until(lambda: len(here.store.held) == 2)
            assert len(here.state.tasks) == 2
            for task in list(here.state.tasks):
                task.cancel()
            answers = await reader.read()
            assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"201", b"503"]
            assert (await late).status == 503
            for _ in range(2):
                await here.store.let()
            writer.close()

    asyncio.run(scenario())


def test_an_answer_that_fails_ends_its_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with place() as here:
            client, other = await here.client(), await here.client()
            answers = [asyncio.create_task(client.send(append(here.path)))]
            await here.begun()
            answers.append(asyncio.create_task(other.send(append(here.path))))
            await here.begun(2)
            whole = Swift.answer
            calls = iter(range(9))

            def fails_once(self: Swift, *arguments: Any) -> bool:
                if not next(calls):
                    raise ValueError("no")
                return whole(self, *arguments)

            monkeypatch.setattr(Swift, "answer", fails_once)
            for _ in range(2):
                await here.store.let()
            with pytest.raises(ConnectionError):
                await answers[0]
            assert (await answers[1]).status == 201

    asyncio.run(scenario())
    assert "could not go on" in caplog.text


def test_a_server_that_will_not_wait_says_so() -> None:
    async def scenario() -> None:
        async with place() as here:
            client = await here.client()
            answer = asyncio.create_task(client.send(append(here.path)))
            await here.begun()
            for connection in list(here.state.connections):
                connection.shutdown()
            await asyncio.sleep(0.01)
            for task in list(here.state.tasks):
                task.cancel()
            assert (await answer).status == 503
            assert document(await answer)["code"] == "draining"
            await here.store.let()

    asyncio.run(scenario())


def test_a_client_that_leaves_does_not_take_it_back() -> None:
    async def scenario() -> None:
        async with place() as here:
            client, other = await here.client(), await here.client()
            answer = asyncio.create_task(client.send(append(here.path)))
            await here.begun()
            client.close()
            with pytest.raises(ConnectionError):
                await answer
            await asyncio.sleep(0.01)
            await here.store.let()
            session = here.path.removesuffix("/nodes")
            read = await other.send(f"GET {session} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert document(read)["version"] == 2

    asyncio.run(scenario())


def test_answers_come_in_the_order_of_the_requests() -> None:
    async def scenario() -> None:
        async with place() as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            session = here.path.removesuffix("/nodes")
            look = f"GET {session} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            writer.write(append(here.path) + look + append(here.path) + append(here.path) + look)
            versions = []
            for k in range(5):
                if k in (0, 2, 3):
                    await until(lambda: bool(here.store.held))
                    assert len(here.store.held) == 1
                    await here.store.let()
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head)
                assert length
                versions.append(json.loads(await reader.readexactly(int(length[1])))["version"])
            assert versions == [2, 2, 3, 4, 4]
            writer.close()

    asyncio.run(scenario())


def test_a_refused_one_counts_once_against_the_rate() -> None:
    async def scenario() -> None:
        async with place() as here:
            bounded = Throttle(1, lambda: 0.0)  # two, and never more
            service = replace(here.app.state.service, throttle=bounded)
            here.app.state.service = service
            here.app.state.swift = Swift(service, Paths(ROUTES))
            client = await here.client()
            codes = [
                document(await client.send(append(here.path, {"op": "nope", "inputs": ["x"]})))[
                    "code"
                ]
                for _ in range(3)
            ]
            assert codes == ["unknown_op", "unknown_op", "rate_limited"]

    asyncio.run(scenario())


# -- a server of its own ---------------------------------------------------------------------------


@pytest.fixture
def exchange() -> Iterator[Callable[[Server, bytes], bytes]]:
    """Sends one request in one piece, on a connection for each server, and reads the answer."""
    opened: dict[str, socket.socket] = {}

    def run(server: Server, request: bytes) -> bytes:
        connection = opened.get(server.url)
        if connection is None:
            port = int(server.url.rpartition(":")[2])
            connection = opened[server.url] = socket.create_connection(("127.0.0.1", port), 30)
        connection.sendall(request)
        return connection.recv(2**20)

    yield run
    for connection in opened.values():
        connection.close()


@pytest.mark.slow
def test_two_servers_append_to_one_session_in_turn(
    tmp_path: Path, exchange: Callable[[Server, bytes], bytes]
) -> None:
    with Server(tmp_path / "data") as one, Server(tmp_path / "data") as other:
        path = f"/v1/sessions/{one.http.post('/v1/sessions', json=SPEC).json()['id']}/nodes"
        for version in range(1, 41):
            answer = exchange((one, other)[version % 3 == 0], append(path))
            assert f'"version":{version},'.encode() in answer, answer


@pytest.mark.slow
def test_keys_pages_and_counts_are_as_for_every_request(
    tmp_path: Path, exchange: Callable[[Server, bytes], bytes]
) -> None:
    origin = "https://studio.example"
    with Server(tmp_path / "data", cors_origins=origin, log_level="info") as server:
        path = f"/v1/sessions/{server.http.post('/v1/sessions', json=SPEC).json()['id']}/nodes"
        for _ in range(3):
            assert exchange(server, append(path)).startswith(b"HTTP/1.1 201 ")
        named = exchange(server, append(path, X_Request_Id="mine-1"))
        assert b"\r\nx-request-id: mine-1\r\n" in named
        page = exchange(server, append(path, Origin=origin))
        assert f"\r\naccess-control-allow-origin: {origin}\r\n".encode() in page
        assert b" 403 " in exchange(server, append(path, Origin="https://elsewhere.example"))
        figures = server.http.get("/metrics").text
        counted = re.findall(
            r'gradwire_requests_total\{code="",method="POST",route="/v1/sessions/\{sid\}/nodes",'
            r'status="201"\} (\S+)',
            figures,
        )
        assert counted == ["5.0"]
    assert server.log().count('"route":"/v1/sessions/{sid}/nodes"') == 6


@pytest.mark.slow
def test_a_key_is_asked_for_each_time(
    tmp_path: Path, exchange: Callable[[Server, bytes], bytes]
) -> None:
    from gradwire_service.keys import mint

    with closing(SqliteStore(tmp_path / "data")) as store:
        key, row = mint("ada")
        store.add_key(row)
    with Server(tmp_path / "data", keys="required") as server:
        server.http.headers["Authorization"] = f"Bearer {key}"
        path = f"/v1/sessions/{server.http.post('/v1/sessions', json=SPEC).json()['id']}/nodes"
        for _ in range(3):
            answer = exchange(server, append(path, Authorization=f"Bearer {key}"))
            assert answer.startswith(b"HTTP/1.1 201 ")
        for given in ("Bearer gw_0000000000000000_x", f"Bearer {key[:-1]}", f"Basic {key}"):
            assert b" 401 " in exchange(server, append(path, Authorization=given))
        assert b" 401 " in exchange(server, append(path))
