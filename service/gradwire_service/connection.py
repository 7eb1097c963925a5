"""A connection as uvicorn serves it, and what a client may not do to it.

uvicorn waits for ever for the rest of a request's headers, takes headers of any size, goes on
reading a body that was answered already, and waits for ever for a client that does not read. Here
each of these has an end. What happens to requests that are complete is the business of the app,
which may read large bodies through an `Intake`, and answers through a `Sender`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import uuid
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

import httptools
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gradwire.wire.messages import PROBLEM, REQUEST_ID

from .answers import Sender
from .bodies import RATE
from .errors import HeadersTooLarge, MalformedBody, Overloaded, RequestTimeout, problem_of
from .exchange import Exchange
from .intake import BODY, SocketIntake
from .settings import Settings
from .sight import Sight
from .swift import Begun, Swift

__all__ = ["Connection", "Rules"]

_LINGER = 2.0
"""Seconds that a client has to end what it sends after it was answered."""

_REST = 0.02
"""Seconds that the rest of a small body may take before a task waits for it."""

_LAST_CALL = 0.5
"""Seconds that a stopping server waits for a request which may be on its way already."""

_LAST_LOOK = 0.01
"""And then for the loop to have read what came: where it was busy, both are due at once."""


@dataclass(frozen=True)
class Rules:
    """What connections are held to; bytes and seconds, as in `Settings`."""

    connections: int
    header_bytes: int
    header_seconds: float
    body_seconds: float

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        """Those of the settings."""
        return cls(
            settings.connections,
            settings.header_bytes,
            settings.header_seconds,
            settings.body_seconds,
        )


class Connection(HttpToolsProtocol):
    """One connection to a client."""

    def __init__(self, *arguments: Any, rules: Rules, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._app: ASGIApp = self.app
        self.app = self._serve
        self._rules = rules
        self._head: asyncio.TimerHandle | None = None  # runs while headers are awaited
        self._head_bytes = 0
        self._piece = 0  # bytes that came last
        self._in_head = True
        self._tail: asyncio.TimerHandle | None = None  # runs while an answered body goes on
        self._unread: asyncio.TimerHandle | None = None  # runs while the client does not read
        self._idle: asyncio.TimerHandle | None = None  # runs from the first answer on
        self._idle_since = 0.0  # on the loop's clock
        self._fault: Exception | None = None
        self._refused = False
        self._late: Exception | None = None  # what is to be refused after the answers under way
        self._stopping = False
        self._served: Any = None  # the cycle that runs; `cycle` is the one that came last
        state = getattr(self.config.loaded_app, "state", None)
        self._swift: Swift | None = getattr(state, "swift", None)
        self._reading = False
        self._to_start: RequestResponseCycle | None = None  # while its body is read
        self._rest: asyncio.TimerHandle | None = None  # runs while the rest of that is awaited
        # Of the cycle that is served, instead of a task: it itself, and then what was begun.
        self._to_begin: RequestResponseCycle | None = None
        self._begun: Begun | None = None

    # -- coming and going --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The client is there."""
        super().connection_made(transport)
        if len(self.connections) > self._rules.connections:
            self._refuse(Overloaded(reason=f"{self._rules.connections} connections are open"))
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        for timer in (self._head, self._tail, self._unread, self._idle):
            if timer is not None:
                timer.cancel()
        if self._served is not None and not self._served.response_complete:
            self._served.disconnected = True
            self._served.message_event.set()
        super().connection_lost(exc)
        self._start()

    def shutdown(self) -> None:
        """The server stops: what is under way is answered, and what was sent meanwhile.

        From now on every request has a task, which is what the server waits for, and ends.
        """
        self._stopping = True
        if self._busy or self._refused:
            self._start()
            if self._to_begin is not None or self._begun is not None:
                self._to_begin = self._begun = None
                self._start_task(self._served)
            super().shutdown()
            return
        self.loop.call_later(
            _LAST_CALL, lambda: self.loop.call_later(_LAST_LOOK, self._close_if_idle)
        )

    def _close_if_idle(self) -> None:
        if not self._busy:
            self.transport.close()

    @property
    def _busy(self) -> bool:
        """Whether a request waits for its answer."""
        return self.cycle is not None and not self.cycle.response_complete

    # -- reading -----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._refused:
            return
        self._piece = len(data)
        if self._in_head:
            self._head_bytes += self._piece
        self._reading = True
        self._feed(data)
        self._reading = False
        if self._to_start is not None:
            self._start_soon(self._to_start)
        if not (self._in_head and self._head_bytes) or self._refused:
            return
        if self._head_bytes > self._rules.header_bytes:
            limit, actual = self._rules.header_bytes, self._head_bytes
            self._refuse(HeadersTooLarge(limit=limit, actual=actual))
        elif self._head is None:
            self._await_head()

    def _feed(self, data: bytes) -> None:
        """Parse; instead of uvicorn, which loses what stands behind a request for an upgrade."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._serve_as_it_is(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._start()
            self.send_400_response("")

    def _serve_as_it_is(self, rest: bytes) -> None:
        """Serve a request that wished for another protocol by this one, as clients have to expect.

        The parser takes what follows such a head for another protocol, a body as well, which would
        then be read as the next request. So it gets the head again, without the wish.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":
            self.send_400_response("")
            return
        lines = [b"%b %b HTTP/%b" % (method, self.url, version.encode("ascii"))]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self._feed(b"\r\n".join([*lines, b"", rest]))

    def on_headers_complete(self) -> None:
        """The headers of a request are there."""
        if self.parser.should_upgrade():
            return
        if self._head_bytes + self._piece > self._rules.header_bytes:  # else they cannot be
            self._check_size()
        for name, value in self.headers:
            if name == b"transfer-encoding":
                self._check_coding(value)
        super().on_headers_complete()
        self._in_head = False
        if self._head is not None:
            self._head.cancel()
            self._head = None
        cycle = self.cycle
        if not self.pipeline:
            self._served = cycle
        if self._stopping:
            cycle.keep_alive = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, _: Any) -> None:
        """Begin to serve a request; as uvicorn does it, but later if more of it is there to read.

        Most requests are read with their bodies at once, and may need no task.
        """
        self._to_start = cycle
        if not (self._reading and cycle.more_body):
            self._start()

    def _start_soon(self, cycle: RequestResponseCycle) -> None:
        """A body is not all there: many clients send it in a piece of its own."""
        if self._swift is None or not self._swift.awaits(cycle):
            self._start()
        elif self._rest is None:
            self._rest = self.loop.call_later(_REST, self._start)

    def _start(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if self._to_start is None:
            return
        cycle, self._to_start = self._to_start, None
        swift = self._swift
        if swift is None or cycle.more_body or self._stopping or not swift.takes(cycle):
            self._start_task(cycle)
            return
        self._to_begin = cycle
        swift.soon(partial(self._begin, cycle))

    def _begin(self, cycle: RequestResponseCycle) -> None:
        """What arrived with this request is read, too."""
        if self._to_begin is not cycle:  # it has gone the long way meanwhile
            return
        assert self._swift is not None  # it takes the request
        self._to_begin = None
        begun = self._begun = self._swift.begin(cycle)
        if begun is None:
            self._start_task(cycle)
        else:
            begun.when_done(partial(self._answer, cycle, begun))

    def _start_task(self, cycle: RequestResponseCycle) -> None:
        cycle.scope["extensions"] = {BODY: SocketIntake(self, cycle)}  # type: ignore[dict-item]
        super()._start_asgi_task(cycle, self.app)

    def _answer(self, cycle: RequestResponseCycle, begun: Begun) -> None:
        """What was begun is committed, or is not going to be."""
        if self._begun is not begun:  # it has gone the long way meanwhile
            return
        assert self._swift is not None  # it has begun it
        self._begun = None
        try:
            answered = self._swift.answer(begun, cycle)
        except Exception:  # half an answer may be out
            self.transport.abort()
            raise
        if not answered:
            self._start_task(cycle)

    def _serve(self, scope: Scope, receive: Receive, _: Send) -> Awaitable[None]:
        """The app, with a `send` of ours."""
        return self._app(scope, receive, Sender(self._served))

    def _check_size(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self._rules.header_bytes:
            self._fault = HeadersTooLarge(limit=self._rules.header_bytes, actual=size)
            raise self._fault

    def _check_coding(self, value: bytes) -> None:
        if value.strip().lower() != b"chunked":
            reason = "as Transfer-Encoding only chunked is known; compress by Content-Encoding"
            self._fault = MalformedBody(path="Transfer-Encoding", reason=reason)
            raise self._fault

    @property
    def declared(self) -> int:
        """The length that the request under way has stated of its body."""
        return next(int(value) for name, value in self.headers if name == b"content-length")

    def invite(self) -> None:
        """Tell a client that asked that its body is welcome."""
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.cycle.waiting_for_100_continue = False

    def end_body(self) -> None:
        """The rest of a body was read past the parser: what comes now is another request."""
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's first
        self.on_message_complete()
        self.flow.resume_reading()

    def on_message_complete(self) -> None:
        """A request is there, its body included."""
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._in_head, self._head_bytes = True, 0
        if self._tail is not None:
            self._tail.cancel()
            self._tail = None
        self._start()

    def on_response_complete(self) -> None:
        """A request was answered."""
        if not self._in_head and self.cycle.response_complete and self._tail is None:
            # Its body goes on, but nobody reads it.
            self._tail = self.loop.call_later(_LINGER, self.transport.close)
        if self.pipeline:
            self._served = self.pipeline[-1][0]
            super().on_response_complete()
        else:
            self._idle_from_now()
        if self._late is not None and self._answered:
            self._refuse_now(self._late)

    def _idle_from_now(self) -> None:
        """Nothing is under way; instead of uvicorn, which sets and cancels a timer each time."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        self._idle_since = self.loop.time()
        if self._idle is None:
            self._idle = self.loop.call_later(self.timeout_keep_alive, self._end_if_idle)

    def _end_if_idle(self) -> None:
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if self._busy or self._head_bytes or not self._in_head:
            left = self.timeout_keep_alive
        if left > 0:
            self._idle = self.loop.call_later(left, self._end_if_idle)
        elif self.transport.get_write_buffer_size():  # nor was anything read
            self._drop()
        else:
            self.transport.close()

    def _await_head(self) -> None:
        self._head = self.loop.call_later(self._rules.header_seconds, self._no_head)

    def _no_head(self) -> None:
        self._head = None
        if self._busy:  # the next request can wait as long as this one
            self._await_head()
        elif self._head_bytes:
            seconds, received = self._rules.header_seconds, self._head_bytes
            self._refuse(RequestTimeout(seconds=seconds, received=received))
        else:
            self.transport.close()

    # -- writing -----------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The client reads more slowly than the app writes."""
        super().pause_writing()
        self._watch_reading()

    def resume_writing(self) -> None:
        """The client has read nearly all."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _watch_reading(self) -> None:
        unread = self.transport.get_write_buffer_size()
        seconds = self._rules.body_seconds

        def look() -> None:
            if unread - self.transport.get_write_buffer_size() < RATE * seconds:
                self._drop()
            else:
                self._watch_reading()

        self._unread = self.loop.call_later(seconds, look)

    def _drop(self) -> None:
        """End the connection, and forget what was written but not read, the kernel too."""
        self.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.transport.abort()

    # -- refusing ----------------------------------------------------------------------------------

    def _sight(self) -> Sight:
        """Where the app reports its requests; those that never reach it are reported there too."""
        sight: Sight = self.config.loaded_app.state.service.sight
        return sight

    def send_400_response(self, msg: str) -> None:
        """What came cannot be read."""
        del msg  # the same for every fault
        fault = MalformedBody(path="request", reason="it is not HTTP/1.1 as RFC 9112 has it")
        if not self._in_head:
            fault = MalformedBody(path="", reason="its chunks are not as RFC 9112 has them")
        self._refuse(self._fault or fault)

    @property
    def _answered(self) -> bool:
        """Whether nobody waits for an answer of the app any more."""
        served = self._served
        return served is None or served.response_complete or served.disconnected

    def _refuse(self, error: Exception) -> None:
        """Answer what came last without the app, after all that came before, and end."""
        self._refused = True
        if not self._in_head:  # a request that the app has, but will not get the rest of
            if self.cycle.response_started:
                self.transport.close()
                return
            if self.pipeline:
                self.pipeline.popleft()
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self._answered:
            self._refuse_now(error)
        else:
            self._late = error

    def _refuse_now(self, error: Exception) -> None:
        if self.transport.is_closing():
            return
        exchange = Exchange(uuid.uuid4().hex)
        status, exchange.code, body, headers = problem_of(error, exchange.request_id)
        lines = {
            **headers,
            "Content-Type": PROBLEM,
            "Content-Length": str(len(body)),
            "Connection": "close",
            REQUEST_ID: exchange.request_id,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        start = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        self.transport.write(f"{start}{head}\r\n".encode("latin-1") + body)
        exchange.status, exchange.sent = status, len(body)
        self._sight().report(exchange)
        # Closing at once would reset a connection on which bytes still come, and the answer might
        # be lost with it.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(_LINGER, self.transport.close)
