"""Attempts over plain HTTP to a server that no proxy stands in front of.

httpx takes most of a millisecond of the processor for a small request, and reads an answer in
pieces of 64 KiB that are copied several times. Where none of what it adds is needed (TLS, proxies,
a transport of the caller's) requests are written to a socket here, and answers, which `http.client`
parses, are read into the memory that the arrays of a binary answer are then views of.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from typing import Final, Literal
from urllib.parse import quote, urlencode, urlsplit

import numpy as np

from gradwire._progress import NewMeter, measured
from gradwire._protocol import CHUNK, LARGEST_PREALLOCATION, SMALL, Attempt, Lost, Reply

__all__ = ["Direct"]

_MOST: Final = 100
_IDLE_SECONDS: Final = 60.0


@dataclass(frozen=True)
class _Idle:
    """A connection that waits for the next request, since when, and in which process."""

    sock: socket.socket
    since: float = field(default_factory=time.monotonic)
    process: int = field(default_factory=os.getpid)

    @property
    def usable(self) -> bool:
        """Whether it is still there, and not shared with the process that this one was forked from.

        A connection that can be read was ended by the server, as no answer is due.
        """
        recent = time.monotonic() - self.since < _IDLE_SECONDS
        return recent and self.process == os.getpid() and not _readable(self.sock)


class Direct:
    """A pool of connections to one address, which any threads may share.

    Args:
        url: Where the server is; `serves` tells whether it can be reached from here.
        headers: Those of every request.
        timeout: Seconds to wait for the next bytes.
        patience: Seconds to wait for a connection.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        timeout: float | None,
        patience: float | None,
    ) -> None:
        parts = urlsplit(url)
        self._url = url
        self._address = parts.hostname or "", parts.port or 80
        self._prefix = parts.path.rstrip("/")
        self._headers = {
            "host": parts.netloc,
            "accept-encoding": "identity",
            **{name.lower(): value for name, value in headers.items()},
        }
        self._timeout = timeout
        self._patience = patience
        self._room = threading.BoundedSemaphore(_MOST)
        self._idle: deque[_Idle] = deque()
        self._closed = False

    @staticmethod
    def serves(url: str) -> bool:
        """Whether requests to `url` need neither TLS nor a proxy nor anything else of httpx's."""
        parts = urlsplit(url)
        return (
            parts.scheme == "http"
            and "@" not in parts.netloc
            and url.isascii()
            and not (parts.query or parts.fragment)
            and _unproxied(parts.hostname or "")
        )

    def close(self) -> None:
        """Close the connections that nobody uses; the others are closed after their requests."""
        self._closed = True
        while self._idle:
            self._idle.pop().sock.close()

    def send(self, attempt: Attempt, meters: NewMeter | None) -> Reply | Lost:
        """What becomes of one attempt.

        Raises:
            RuntimeError: The client is closed.
            ValueError: A header breaks the line that it is on.
        """
        if self._closed:
            raise RuntimeError("the client is closed")
        head = self._head(attempt)
        if not self._room.acquire(timeout=self._timeout):
            return self._lost("unreached", f"all {_MOST} connections are in use")
        try:
            return self._send(head, attempt, meters)
        finally:
            self._room.release()

    def _send(self, head: bytes, attempt: Attempt, meters: NewMeter | None) -> Reply | Lost:
        try:
            sock = self._connected()
        except OSError as error:
            return self._lost("unreached", error)
        keep = False
        try:
            rest = _write(sock, head, attempt, meters)
            reply, keep = _read(sock, attempt.method, meters)
            keep = keep and rest is None
        except TimeoutError as error:
            return self._lost("timeout", error)
        except (OSError, HTTPException) as error:
            return self._lost("broken", error)
        else:
            return reply
        finally:
            if keep and not self._closed:
                self._idle.append(_Idle(sock))
            else:
                sock.close()

    def _connected(self) -> socket.socket:
        while self._idle:
            try:
                idle = self._idle.pop()  # the one that was used last
            except IndexError:  # another thread took it
                break
            if idle.usable:
                return idle.sock
            idle.sock.close()
        sock = socket.create_connection(self._address, self._patience)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(self._timeout)
        return sock

    def _head(self, attempt: Attempt) -> bytes:
        target = self._prefix + attempt.path
        if attempt.query:
            target += "?" + urlencode(attempt.query, quote_via=quote)
        headers = {**self._headers, **{k.lower(): v for k, v in attempt.headers.items()}}
        if attempt.chunks or attempt.method in ("POST", "PUT"):
            headers["content-length"] = str(attempt.size)
        lines = [f"{attempt.method} {target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([*lines, "", ""])
        if head.count("\n") + head.count("\r") != 2 * len(lines) + 2:
            broken = next(name for name, value in headers.items() if {"\r", "\n"} & {*name, *value})
            raise ValueError(f"the header {broken!r} has a line break in it")
        return head.encode("ascii")

    def _lost(self, how: Literal["unreached", "broken", "timeout"], why: object) -> Lost:
        reason = str(why) or type(why).__name__
        return Lost(how, reason, self._url.rstrip("/"))


def _write(
    sock: socket.socket, head: bytes, attempt: Attempt, meters: NewMeter | None
) -> OSError | None:
    """Send a request; what cut it short, if the server has answered before it had it all."""
    try:
        if attempt.size <= SMALL:  # each piece is a write, and wakes the server
            sock.sendall(b"".join((head, *attempt.chunks)))
            return None
        sock.sendall(head)
        with measured(meters, "sending", attempt.size) as count:
            for piece in attempt.pieces():
                sock.sendall(piece)
                count(len(piece))
    except (BrokenPipeError, ConnectionResetError) as error:
        return error
    return None


def _read(sock: socket.socket, method: str, meters: NewMeter | None) -> tuple[Reply, bool]:
    """An answer, and whether the connection may be used again."""
    response = HTTPResponse(sock, method=method)
    try:
        response.begin()
        size = response.length
        if size is None or size > LARGEST_PREALLOCATION:
            body: bytes | memoryview = response.read()
        else:
            body = np.empty(size, np.uint8).data
            filled = 0
            with measured(meters, "receiving", size) as count:
                while filled < size:
                    came = response.readinto(body[filled : filled + CHUNK])
                    if not came:
                        raise HTTPException(f"the answer ended after {filled} of {size} bytes")
                    filled += came
                    count(came)
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Reply(response.status, headers, body), not response.will_close
    finally:
        response.close()


def _readable(sock: socket.socket) -> bool:
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([sock], [], [], 0)[0])


def _unproxied(host: str) -> bool:
    """Whether the environment names no proxy for plain HTTP to a host."""
    proxies = urllib.request.getproxies()
    return not (proxies.get("http") or proxies.get("all")) or bool(
        urllib.request.proxy_bypass(host)
    )
