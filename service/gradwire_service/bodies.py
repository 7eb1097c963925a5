"""What a request body may cost: time, memory, and what it grows to when it is decompressed.

`Bodies` is the memory that a process has for them. `paced` and `fill` read from a client as long as
it keeps a modest speed. `expand` decompresses on a worker thread, bit by bit, so that a body
which would grow beyond the limits is refused before it has.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .errors import (
    MalformedBody,
    Overloaded,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
)
from .intake import Intake
from .stop import Stop

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = [
    "ENCODINGS",
    "Bodies",
    "Disconnected",
    "Held",
    "encoding_of",
    "expand",
    "fill",
    "paced",
    "spacious",
    "zstd",
]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Disconnected(Exception):
    """The client went away before its body was complete, or before it was answered."""


RATE = 1000
"""Bytes a second that a client has to send, and to read."""

_FREE = 2**20
"""A body may grow to this size however small it came."""

_PIECE = 2**20
_MEMBERS = 100_000
"""How many members or frames a body may have: each costs time, however small it is."""

_WINDOW = 27
"""Logarithm of the largest window that a zstd frame may ask for: 128 MiB, what `--ultra` uses."""


# -- memory ----------------------------------------------------------------------------------------


class Bodies:
    """The memory for request bodies of one process, in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        """What the bodies in hand take."""
        return self._taken

    def hold(self) -> Held:
        """The part of one request, which grows as its body does and is given back at the end."""
        return Held(self)

    def take(self, size: int) -> None:
        """Take memory, or give it back.

        Raises:
            Overloaded: There is not as much.
        """
        with self._lock:
            if size > 0 and self._taken + size > self._limit:
                raise Overloaded(reason="the memory for request bodies is taken")
            self._taken += size


class Held:
    """What one request holds of the memory for bodies; given back when the block is left."""

    __slots__ = ("_bodies", "size")

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.size = 0

    def grow(self, size: int) -> None:
        """Take so many bytes more; raises `Overloaded` where there are none."""
        self._bodies.take(size)
        self.size += size

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self._bodies.take(-self.size)


# -- time ------------------------------------------------------------------------------------------


def paced(receive: Receive, held: Held, seconds: float) -> Receive:
    """`receive`, which counts what comes, and gives up a client that sends next to nothing.

    Args:
        receive: The server's.
        held: Where the bytes are counted.
        seconds: In which the rest has to come, or `RATE` bytes for each of them.

    Raises:
        RequestTimeout, Overloaded: (the result) The client is too slow; memory is short.
    """
    began = since = time.monotonic()
    counted = 0

    async def next_message() -> MutableMapping[str, Any]:
        nonlocal since, counted
        while True:
            try:
                async with asyncio.timeout(since + seconds - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                now = time.monotonic()
                if held.size - counted < RATE * seconds:
                    raise RequestTimeout(
                        seconds=round(now - began, 1), received=held.size
                    ) from None
                since, counted = now, held.size
                continue
            held.grow(len(message.get("body", b"")))
            return message

    return next_message


_PART = 2**23
"""How much of a body is read, and counted, at a time."""


async def fill(intake: Intake, view: memoryview, held: Held, seconds: float) -> None:
    """Read into memory as many bytes as it holds; the rules are those of `paced`.

    Raises:
        RequestTimeout, Overloaded: The client is too slow; memory is short.
        Disconnected: The client went away.
    """
    began = since = time.monotonic()
    at = counted = 0
    while at < len(view):
        part = view[at : at + _PART]
        held.grow(len(part))
        end = at + len(part)
        while at < end:
            now = time.monotonic()
            if now >= since + seconds:
                if at - counted < RATE * seconds:
                    raise RequestTimeout(seconds=round(now - began, 1), received=at)
                since, counted = now, at
            at += await intake.read_into(view[at:end], since + seconds - now)
            if at < end and intake.gone:
                raise Disconnected


def spacious(size: int, start: int = 0) -> memoryview:
    """Memory of `size` bytes that nobody has touched, aligned for any kernel from `start` on."""
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    address: int = memory.__array_interface__["data"][0]
    first = -(address + start) % _ALIGNMENT
    return memory[first : first + size].data


_ALIGNMENT = 64


# -- compression -----------------------------------------------------------------------------------


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """One member of a gzip file, in the manner of the standard library's other decompressors."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


def _zstd() -> _Decompressor:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW})


@dataclass(frozen=True)
class _Encoding:
    open: Callable[[], _Decompressor]
    faults: tuple[type[Exception], ...]


_GZIP = _Encoding(_Gzip, (zlib.error,))
_KNOWN: Mapping[str, _Encoding] = {
    "gzip": _GZIP,
    "x-gzip": _GZIP,
    "zstd": _Encoding(_zstd, (zstd.ZstdError,)),
}
ENCODINGS = ["gzip", "zstd", "identity"]
"""The content encodings that a request may have."""


def encoding_of(headers: Mapping[str, str]) -> str | None:
    """The encoding of a body; None where it comes as it is.

    Raises:
        UnsupportedMediaType: It is none that is known.
    """
    given = headers.get("content-encoding", "").strip().lower()
    if given in ("", "identity"):
        return None
    if given not in _KNOWN:
        reason = "a body is compressed by one of the encodings that are expected, once, or by none"
        raise UnsupportedMediaType(actual=given[:200], expected=ENCODINGS, reason=reason)
    return given


def expand(
    body: bytes | bytearray | memoryview,
    encoding: str,
    held: Held,
    stop: Stop,
    *,
    limit: int,
    expansion: int,
) -> bytearray:
    """A body as it was before it was compressed.

    Args:
        body: What came; all members or frames of it count.
        encoding: What `encoding_of` found.
        held: Where the bytes are counted.
        stop: Looked at between pieces.
        limit: The largest body, in bytes.
        expansion: How many times as large it may become, beyond the first MiB.

    Raises:
        PayloadTooLarge: It would grow beyond either bound.
        MalformedBody: It is not what its encoding says, or ends early.
        Overloaded: There is no memory for it.
        DeadlineExceeded: `stop` says so.
    """
    known = _KNOWN[encoding]
    bound = min(limit, max(_FREE, expansion * len(body)))
    grown = bytearray()
    at = 0
    try:
        for _ in range(_MEMBERS):
            decompressor = known.open()
            at += _feed(decompressor, memoryview(body)[at:], grown, bound, held, stop)
            if at == len(body):
                return grown
    except known.faults as fault:
        reason = f"it is not {encoding}, as Content-Encoding says: {fault}"
        raise MalformedBody(path="", reason=reason) from None
    except EOFError:
        raise MalformedBody(path="", reason=f"the {encoding} data ends early") from None
    raise MalformedBody(path="", reason=f"it has more than {_MEMBERS} {encoding} members")


def _feed(
    decompressor: _Decompressor,
    data: memoryview,
    grown: bytearray,
    bound: int,
    held: Held,
    stop: Stop,
) -> int:
    """Decompress one member behind `grown`; how many bytes of the data it had."""
    at, more = 0, False
    while not decompressor.eof:
        stop.check()
        piece = b"" if more else bytes(data[at : at + _PIECE])
        if not piece and not more:
            raise EOFError
        at += len(piece)
        chunk = decompressor.decompress(piece, _PIECE)
        more = bool(chunk)  # then there may be more of it without further input
        if len(grown) + len(chunk) > bound:
            raise PayloadTooLarge(limit=bound, actual=len(grown) + len(chunk))
        held.grow(len(chunk))
        grown += chunk
    return at - len(decompressor.unused_data)
