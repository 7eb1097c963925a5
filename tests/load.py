"""Many requests at little cost: HTTP/1.1 over raw sockets, for tests and benchmarks that push.

A client that costs more than the server measures itself. `Connection` keeps one request under way
and reads just enough of an answer: its status, its length, its body.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

CLOSED = "the server closed the connection"


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """One connection; `await send(...)` is one exchange."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._answer: asyncio.Future[Answer] | None = None

    @classmethod
    async def open(cls, host: str, port: int) -> Connection:
        """Connect.

        Raises:
            OSError: Nobody listens.
        """
        _, made = await asyncio.get_running_loop().create_connection(cls, host, port)
        return made

    async def send(self, request: bytes) -> Answer:
        """Send a request as `post` writes it, and wait for the answer.

        Raises:
            ConnectionError: The connection ended first.
        """
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError(CLOSED)
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment] # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        end = self._buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        head = self._buffer[:end].lower()
        start = head.find(b"\r\ncontent-length:")
        length = int(head[start + 17 : head.index(b"\r\n", start + 17)]) if start >= 0 else 0
        if len(self._buffer) < end + length:
            return
        answer = Answer(int(head[9:12]), self._buffer[end : end + length])
        self._buffer = b""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(CLOSED))


def post(path: str, body: bytes, **headers: str) -> bytes:
    """A JSON POST, complete; `_` in the name of a header stands for a dash."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{lines}"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


@dataclass
class Timing:
    """How fast exchanges were: `seconds` of each, and of all together."""

    seconds: list[float] = field(default_factory=list)
    whole: float = 0.0

    @property
    def rate(self) -> float:
        """Exchanges a second."""
        return len(self.seconds) / self.whole

    def quantile(self, q: float) -> float:
        """The time in seconds that the share `q` of the exchanges stays within."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


async def crowd(
    host: str, port: int, connections: int, exchange: Callable[[Connection, int], Awaitable[bool]]
) -> Timing:
    """Let `connections` clients exchange one after the other, each until its `exchange` says no."""
    timing = Timing()
    opened = [await Connection.open(host, port) for _ in range(connections)]

    async def client(number: int) -> None:
        more = True
        while more:
            began = time.perf_counter()
            more = await exchange(opened[number], number)
            timing.seconds.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(connections)))
    timing.whole = time.perf_counter() - began
    for connection in opened:
        connection.close()
    return timing
