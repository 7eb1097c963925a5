"""Bodies read from their connection into memory of the app's choosing, so that no byte is copied.

What uvicorn hands on as a body has been copied four times on its way, and has to be put together
after that. An `Intake` instead lets the socket write where the body is to stay: for as long as a
piece of memory is being filled, the connection's transport has a protocol that does nothing else.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from .connection import Connection

__all__ = ["BODY", "Intake", "SocketIntake"]

BODY: Final = "gradwire.body"
"""Under this name the ASGI extensions of a request have its `Intake`, where a server offers one."""


class Intake(Protocol):
    """The body of one request, to be had in the app's own memory instead of by `receive`."""

    @property
    def arrived(self) -> bool:
        """Whether all of it is there: one `receive` has it, at once."""

    @property
    def gone(self) -> bool:
        """Whether the client went away."""

    async def read_into(self, view: memoryview, seconds: float) -> int:
        """Fill `view` with the next bytes of a body whose length was declared.

        Returns:
            How many came; fewer than `view` holds where the time is over, or the client `gone`.
        """


class SocketIntake:
    """An `Intake` of the request that a connection has begun to receive."""

    __slots__ = ("_connection", "_left", "_of")

    def __init__(self, connection: Connection, cycle: RequestResponseCycle) -> None:
        self._connection = connection
        self._of = weakref.ref(cycle)  # which has the scope, which has this
        self._left: int | None = None  # bytes that the parser has not seen; None: not yet counted

    @property
    def _cycle(self) -> RequestResponseCycle:
        cycle = self._of()
        assert cycle is not None  # it runs the app, which asks
        return cycle

    @property
    def arrived(self) -> bool:
        """See `Intake`."""
        return not self._cycle.more_body

    @property
    def gone(self) -> bool:
        """See `Intake`."""
        return self._cycle.disconnected

    async def read_into(self, view: memoryview, seconds: float) -> int:
        """See `Intake`."""
        cycle = self._cycle
        if cycle.waiting_for_100_continue:
            self._connection.invite()
        parsed = cycle.body
        if self._left is None:
            self._left = self._connection.declared - len(parsed)
        at = min(len(parsed), len(view))
        view[:at] = parsed[:at]
        del parsed[:at]
        if at < len(view) and self._left and not self.gone:
            filled = await self._fill(view[at : at + self._left], seconds)
            at += filled
            self._left -= filled
            if not self._left:
                self._connection.end_body()
        return at

    async def _fill(self, view: memoryview, seconds: float) -> int:
        connection = self._connection
        filler = _Filler(connection, view)
        timer = connection.loop.call_later(seconds, filler.finish)
        connection.transport.set_protocol(filler)
        connection.flow.resume_reading()
        try:
            await filler.finished
        finally:
            timer.cancel()
            connection.flow.pause_reading()
            connection.transport.set_protocol(connection)
            filler.release()
        return filler.filled


class _Filler(asyncio.BufferedProtocol):
    """What a transport talks to while one piece of memory is filled."""

    def __init__(self, connection: Connection, view: memoryview) -> None:
        self.finished: asyncio.Future[None] = connection.loop.create_future()
        self.filled = 0
        self._connection = connection
        self._view = view

    def finish(self) -> None:
        """There will be no more, for now."""
        if not self.finished.done():
            self.finished.set_result(None)

    def release(self) -> None:
        """Forget the memory: transports remember their last protocol of this kind."""
        self._view = memoryview(b"")

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._view[self.filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self.filled += nbytes
        if self.filled == len(self._view):
            self._connection.flow.pause_reading()
            self.finish()

    def eof_received(self) -> None:
        self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)
        self.finish()

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()
