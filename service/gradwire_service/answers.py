"""Answers on their way to the client: one that is whole leaves in one piece, by one system call.

uvicorn takes an answer in messages, looks at each for all that it could be, and writes each by
itself. Nearly all answers here are a head and a small body that follows at once. A `Sender` keeps
the head until it is known what follows; whatever is not as simple as that is uvicorn's to send, or
to refuse.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

__all__ = ["Sender"]

_JOINED = 2**16
"""The largest body, in bytes, that is worth being copied behind its head."""

_PLAIN = bytes([9, *range(32, 127), *range(128, 256)])
"""The bytes that a header may consist of."""

Message = MutableMapping[str, Any]


class Sender:
    """The ASGI `send` of one request."""

    __slots__ = ("_cycle", "_head")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._head: Message | None = None

    async def __call__(self, message: Message) -> None:
        """Send a part of the answer."""
        head, self._head = self._head, None
        if head is None:
            if message["type"] == "http.response.start":
                self._head = message
                return
        else:
            whole = self._whole(head, message)
            if whole is not None:
                self._finish(whole)
                return
            await self._cycle.send(head)  # type: ignore[arg-type] # it looks at what it is
        await self._cycle.send(message)  # type: ignore[arg-type]

    def _whole(self, head: Message, message: Message) -> bytes | None:
        """The answer as it is sent, if this is all of it and nothing about it is odd."""
        cycle = self._cycle
        if (
            message["type"] != "http.response.body"
            or message.get("more_body", False)
            or cycle.response_started
            or cycle.disconnected
            or cycle.flow.write_paused
        ):
            return None
        status, body = head["status"], message.get("body", b"")
        headers = cycle.default_headers + head["headers"]
        if not cycle.keep_alive:
            headers.append((b"connection", b"close"))
        given = dict(head["headers"])
        if b"connection" in given or b"transfer-encoding" in given:
            return None
        if cycle.scope["method"] == "HEAD":
            body = b""
        elif len(body) > _JOINED or given.get(b"content-length") != b"%d" % len(body):
            return None
        lines = b"\r\n".join(map(b": ".join, headers))
        if lines.translate(None, _PLAIN) != b"\r\n" * (len(headers) - 1):  # a header is several
            return None
        return b"%b%b\r\n\r\n%b" % (STATUS_LINE[status], lines, body)

    def _finish(self, whole: bytes) -> None:
        """Send the answer, and leave everything as uvicorn does behind the end of one."""
        cycle = self._cycle
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.transport.write(whole)
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
