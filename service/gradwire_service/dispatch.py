"""From ASGI to calls: bodies are read here, and handlers run on worker threads.

A `Resource` is what one path serves. It reads the body on the event loop, within the limit, and
then hands a `Call` to a handler on a worker thread: parsing, computing and encoding never run on
the loop.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from gradwire.wire.messages import BINARY, JSON

from .errors import (
    Draining,
    MethodNotAllowed,
    Overloaded,
    PayloadTooLarge,
    UnsupportedMediaType,
)
from .http import Call, Reply, Send, media_type

if TYPE_CHECKING:
    from .app import Service

__all__ = ["Disconnected", "Pool", "Receive", "Resource", "Scope", "read_body", "resource"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Disconnected(Exception):
    """The client went away before its body was complete."""


# -- bodies on the event loop ----------------------------------------------------------------------

_TAKEN = [JSON, BINARY]


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuse a body of an unknown media type, charset or encoding before it is read."""
    kind = headers.get("content-type")
    if kind is not None:
        charset = re.search(r';\s*charset\s*=\s*"?([^\s";]+)', kind, re.IGNORECASE)
        if media_type(kind) not in _TAKEN or (
            charset is not None and charset[1].lower() not in ("utf-8", "utf8", "us-ascii")
        ):
            raise UnsupportedMediaType(
                actual=kind[:200], expected=_TAKEN, reason="send JSON in UTF-8, or safetensors"
            )
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMediaType(
            actual=encoding[:200], expected=["identity"], reason="bodies are not compressed"
        )


async def read_body(headers: Mapping[str, str], receive: Receive, limit: int) -> bytes | bytearray:
    """The whole body, read into one buffer.

    Raises:
        PayloadTooLarge: By its declared length, before anything is read, or as soon as it grows
            beyond the limit.
        Disconnected: The client went away.
    """
    text = headers.get("content-length", "")
    declared = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
    if declared is not None and declared > limit:
        raise PayloadTooLarge(limit=limit, actual=declared)
    message = await receive()
    chunk: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body"):
        if len(chunk) > limit:
            raise PayloadTooLarge(limit=limit, actual=len(chunk))
        return chunk
    buffer = bytearray(declared or 0)
    size = 0
    while True:
        if message["type"] != "http.request":
            raise Disconnected
        chunk = message.get("body", b"")
        if size + len(chunk) > limit:
            raise PayloadTooLarge(limit=limit, actual=size + len(chunk))
        buffer[size : size + len(chunk)] = chunk
        size += len(chunk)
        if not message.get("more_body"):
            break
        message = await receive()
    if size != len(buffer):
        raise Disconnected
    return buffer


# -- work off the event loop -----------------------------------------------------------------------


class Pool:
    """Worker threads with a bounded queue: what finds no room is refused at once, never kept."""

    def __init__(self, threads: int, queue: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._room = threads + queue
        self._held = 0
        self._lock = threading.Lock()

    async def run(self, handler: Callable[[Call], Reply], call: Call) -> Reply:
        """Run a handler on a thread.

        Raises:
            Overloaded: All threads are busy and the queue is full.
        """
        with self._lock:
            if self._held >= self._room:
                raise Overloaded(reason=f"{self._held} requests are under way or waiting")
            self._held += 1
        future = self._threads.submit(handler, call)
        future.add_done_callback(self._release)
        return await asyncio.wrap_future(future)

    def _release(self, _: Future[Reply]) -> None:
        with self._lock:
            self._held -= 1

    def close(self) -> None:
        """Wait for the work that was taken."""
        self._threads.shutdown(wait=True)


Handler = Callable[[Call], Reply]


@dataclass(frozen=True)
class Resource:
    """What one path serves: a handler for each method.

    `heavy` work (runs, transforms) has threads of its own, so that it cannot hold up the rest.
    `vital` resources answer even while the server is draining; `inline` handlers never block and
    run on the loop itself, so that no queue can delay them.
    """

    path: str
    handlers: Mapping[str, Handler]
    heavy: bool = False
    vital: bool = False
    inline: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        method: str = scope["method"]
        handler = self.handlers.get("GET" if method == "HEAD" else method)
        if handler is None:
            raise MethodNotAllowed(
                path=scope["path"][:300], method=method[:50], allowed=self.methods
            )
        service: Service = scope["app"].state.service
        if service.draining.is_set() and not self.vital:
            raise Draining(reason="it takes no new requests")
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        body: bytes | bytearray = b""
        if method in ("POST", "PUT"):
            check_headers(headers)
            body = await read_body(headers, receive, service.settings.max_body_bytes)
        call = Call(
            service=service,
            owner="local",
            path=scope["path"],
            raw_path=scope.get("raw_path") or scope["path"].encode(),
            params=scope.get("path_params", {}),
            query_string=scope.get("query_string", b""),
            headers=headers,
            body=body,
        )
        if self.inline:
            reply = handler(call)
        else:
            pool = service.heavy_pool if self.heavy else service.light_pool
            reply = await pool.run(handler, call)
        await reply.send(send)

    @property
    def methods(self) -> list[str]:
        """The methods that are served, for `Allow`."""
        return sorted({*self.handlers, *(["HEAD"] if "GET" in self.handlers else [])})


def resource(
    path: str,
    *,
    get: Handler | None = None,
    post: Handler | None = None,
    put: Handler | None = None,
    delete: Handler | None = None,
    heavy: bool = False,
    vital: bool = False,
    inline: bool = False,
) -> Route:
    """A route that serves every method of `path` that has a handler, and refuses the others."""
    given = {"GET": get, "POST": post, "PUT": put, "DELETE": delete}
    handlers = {method: handler for method, handler in given.items() if handler is not None}
    return Route(path, Resource(path, handlers, heavy=heavy, vital=vital, inline=inline))


def default_threads() -> int:
    """Threads for work that is quick, or waits for the disk."""
    return min(32, 4 * (os.cpu_count() or 1))
