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

__all__ = ["Sender", "send_whole"]

_JOINED = 2**16
"""The largest body, in bytes, that is worth being copied behind its head."""

_PLAIN = bytes([9, *range(32, 127), *range(128, 256)])
"""The bytes that a header may consist of."""

Message = MutableMapping[str, Any]
Header = tuple[bytes, bytes]


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
            if self._send_whole(head, message):
                return
            await self._cycle.send(head)  # type: ignore[arg-type] # it looks at what it is
        await self._cycle.send(message)  # type: ignore[arg-type]

    def _send_whole(self, head: Message, message: Message) -> bool:
        """Send the answer, if this is all of it and nothing about it is odd."""
        if message["type"] != "http.response.body" or message.get("more_body", False):
            return False
        whole = _whole(self._cycle, head["status"], head["headers"], message.get("body", b""))
        if whole is None:
            return False
        _finish(self._cycle, whole)
        self._cycle.message_event.set()  # for who waits for the client to leave
        return True


def send_whole(
    cycle: RequestResponseCycle, status: int, headers: list[Header], body: bytes
) -> bool:
    """Send an answer that no task makes, without messages, unless something about it is odd."""
    if len(body) > _JOINED or not _is_free(cycle):
        return False
    whole = _joined(cycle, status, headers, body)
    if whole is None:
        return False
    _finish(cycle, whole)
    return True


def _whole(
    cycle: RequestResponseCycle, status: int, own: list[Header], body: bytes
) -> bytes | None:
    """An answer as it is sent, if nothing about it is odd."""
    if not _is_free(cycle):
        return None
    given = dict(own)
    if b"connection" in given or b"transfer-encoding" in given:
        return None
    if cycle.scope["method"] == "HEAD":
        body = b""
    elif len(body) > _JOINED or given.get(b"content-length") != b"%d" % len(body):
        return None
    return _joined(cycle, status, own, body)


def _is_free(cycle: RequestResponseCycle) -> bool:
    """Whether a client waits, and nothing is in the way of an answer to it."""
    return not (cycle.response_started or cycle.disconnected or cycle.flow.write_paused)


def _joined(
    cycle: RequestResponseCycle, status: int, own: list[Header], body: bytes
) -> bytes | None:
    """Head and body in one piece; None where a header would be several."""
    headers = cycle.default_headers + own
    if not cycle.keep_alive:
        headers.append((b"connection", b"close"))
    lines = b"\r\n".join(map(b": ".join, headers))
    if lines.translate(None, _PLAIN) != b"\r\n" * (len(headers) - 1):
        return None
    return b"%b%b\r\n\r\n%b" % (STATUS_LINE[status], lines, body)


def _finish(cycle: RequestResponseCycle, whole: bytes) -> None:
    """Send an answer, and leave everything as uvicorn does behind the end of one."""
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(whole)
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
