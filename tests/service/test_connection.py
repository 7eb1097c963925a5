"""Connections, with small apps of the tests' own behind them instead of the service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from gradwire_service.connection import Connection, Rules

RULES = Rules(connections=10, header_bytes=8192, header_seconds=30, body_seconds=30)
GET = b"GET /there HTTP/1.1\r\nHost: localhost\r\n\r\n"


@asynccontextmanager
async def serving(app: Any, **of_uvicorn: Any) -> AsyncIterator[int]:
    """The port of a server of an app."""
    config = uvicorn.Config(app, ws="none", access_log=False, log_config=None, **of_uvicorn)
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", b"Thu, 01 Jan 2026 00:00:00 GMT")]
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(config, state, {}, rules=RULES), "127.0.0.1", 0
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
