"""Connections, with small apps of the tests' own behind them instead of the service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gradwire_service.connection import Connection, Rules

RULES = Rules(connections=10, header_bytes=8192, header_seconds=30, body_seconds=30)
OURS = partial(Connection, rules=RULES)
GET = b"GET /there HTTP/1.1\r\nHost: localhost\r\n\r\n"


@asynccontextmanager
async def serving(app: Any, made: Any = OURS, **of_uvicorn: Any) -> AsyncIterator[int]:
    """The port of a server of an app, whose connections are made so."""
    config = uvicorn.Config(app, ws="none", access_log=False, log_config=None, **of_uvicorn)
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", b"Thu, 01 Jan 2026 00:00:00 GMT")]
    server = await asyncio.get_running_loop().create_server(
        lambda: made(config, state, {}), "127.0.0.1", 0
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """An app."""
    headers = [(b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


def test_a_connection_is_kept_for_a_while_after_each_answer() -> None:
    async def scenario() -> None:
        clock = asyncio.get_running_loop().time
        async with serving(hello, timeout_keep_alive=1) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(4):
                await asyncio.sleep(0.4)  # together more than a connection may be idle
                asked = clock()
                writer.write(GET)
                await reader.readuntil(b"hello")
            assert await reader.read() == b""
            assert clock() - asked >= 0.95  # clocks of loops are coarse
            writer.close()

    asyncio.run(scenario())


def test_so_is_one_whose_answer_came_before_the_end_of_its_body() -> None:
    async def scenario() -> None:
        async with serving(hello, timeout_keep_alive=0.2) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(GET.replace(b"Host", b"Content-Length: 2\r\nHost"))
            await reader.readuntil(b"hello")
            writer.write(b"{}")
            assert await asyncio.wait_for(reader.read(), 60) == b""
            writer.close()

    asyncio.run(scenario())


# -- answers ---------------------------------------------------------------------------------------

ASKED = {
    "get": GET,
    "head": GET.replace(b"GET", b"HEAD"),
    "post": GET.replace(b"GET", b"POST").replace(b"Host", b"Content-Length: 2\r\nHost") + b"{}",
    "close": GET.replace(b"Host", b"Connection: close\r\nHost"),
    "old": GET.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "two": GET + GET.replace(b"GET", b"HEAD"),
}


def messages(
    headers: dict[str, str], *bodies: bytes, status: int = 200, more: bool = False
) -> list[dict[str, Any]]:
    """An answer as an app sends it."""
    lines = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    parts: list[dict[str, Any]] = [
        {"type": "http.response.body", "body": body, "more_body": True} for body in bodies
    ]
    if parts and not more:
        del parts[-1]["more_body"]
    return [{"type": "http.response.start", "status": status, "headers": lines}, *parts]


ANSWERS = {
    "whole": messages({"content-length": "5", "x-a": "b\tc \xff"}, b"hello"),
    "empty": messages({"content-length": "0"}, b"", status=404),
    "no_content": messages({"etag": "1"}, b"", status=204),
    "unchanged": messages({"etag": "1"}, b"", status=304),
    "unknown_status": messages({"content-length": "0"}, b"", status=299),
    "view": messages({"content-length": "5"}, memoryview(b"hello")),  # type: ignore[arg-type]
    "large": messages({"content-length": "300000"}, b"x" * 300_000),
    "pieces": messages({"content-length": "5"}, b"he", b"", b"llo"),
    "empty_end": messages({"content-length": "5"}, b"hello", b""),
    "no_length": messages({}, b"hello"),
    "chunked": messages({"transfer-encoding": "chunked"}, b"hello", b"you"),
    "both": messages({"transfer-encoding": "chunked", "content-length": "5"}, b"hello"),
    "last": messages({"content-length": "5", "connection": "close"}, b"hello"),
    "too_short": messages({"content-length": "6"}, b"hello"),
    "too_long": messages({"content-length": "4"}, b"hello"),
    "cut": messages({"content-length": "6"}, b"hello", more=True),
    "split": messages({"content-length": "5", "x-a": "b\r\nx-c: d"}, b"hello"),
    "zero": messages({"content-length": "5", "x-a": "\0"}, b"hello"),
    "again": messages({"content-length": "5"}, b"hello") * 2,
    "headless": messages({}, b"hello")[1:],
    "none": [],
}


async def asked(port: int, request: bytes) -> bytes:
    """What comes until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    return answer


@pytest.fixture
def silent() -> Iterator[None]:
    """uvicorn's words on apps that do wrong are not to be read."""
    logger = logging.getLogger("uvicorn.error")
    logger.disabled = True
    yield
    logger.disabled = False


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_are_byte_by_byte_those_of_uvicorn(silent: None, answer: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        for message in ANSWERS[answer]:
            await send({**message})

    async def scenario() -> None:
        async with (
            serving(app, timeout_keep_alive=0.1) as ours,
            serving(app, HttpToolsProtocol, timeout_keep_alive=0.1) as uvicorns,
        ):
            for name, request in ASKED.items():
                expected = await asked(uvicorns, request)
                assert await asked(ours, request) == expected, name

    asyncio.run(scenario())


class Recorded:
    """A transport, and what was written to it."""

    def __init__(self, transport: Any, written: list[bytes]) -> None:
        self._transport = transport
        self._written = written

    def write(self, data: Any) -> None:
        self._written.append(bytes(data))
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("answer", ["whole", "empty", "view"])
def test_a_small_answer_is_one_piece(answer: str, name: str) -> None:
    written: list[bytes] = []

    class Watched(Connection):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(Recorded(transport, written))  # type: ignore[arg-type]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        for message in ANSWERS[answer]:
            await send({**message})

    async def scenario() -> None:
        made = partial(Watched, rules=RULES)
        async with serving(app, made, timeout_keep_alive=0.1) as port:
            received = await asked(port, ASKED[name])
        assert len(written) == received.count(b"HTTP/1.1 ") == (2 if name == "two" else 1)

    asyncio.run(scenario())
