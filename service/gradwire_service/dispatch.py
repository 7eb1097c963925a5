"""From ASGI to calls: bodies are read here, and handlers run on worker threads.

A `Resource` is what one path serves. It reads the body on the event loop, within the limit, and
then hands a `Call` to a handler on a worker thread: parsing, computing and encoding never run on
the loop.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from gradwire.wire.messages import BINARY, JSON

from .bodies import Held, encoding_of, expand, paced
from .errors import (
    Draining,
    MethodNotAllowed,
    PayloadTooLarge,
    UnsupportedMediaType,
)
from .exchange import QUEUE, Stopwatch, exchange_of
from .http import Call, Reply, Send, media_type
from .keys import LOCAL
from .pool import Job, Pool
from .stop import Stop

if TYPE_CHECKING:
    from .app import Service

__all__ = ["Disconnected", "Handler", "Receive", "Resource", "Scope", "read_body", "resource"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Disconnected(Exception):
    """The client went away before its body was complete, or before it was answered."""


# -- bodies on the event loop ----------------------------------------------------------------------

_TAKEN = [JSON, BINARY]


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuse a body of an unknown media type or charset before it is read."""
    kind = headers.get("content-type")
    if kind is not None and kind not in _TAKEN:
        charset = re.search(r';\s*charset\s*=\s*"?([^\s";]+)', kind, re.IGNORECASE)
        if media_type(kind) not in _TAKEN or (
            charset is not None and charset[1].lower() not in ("utf-8", "utf8", "us-ascii")
        ):
            raise UnsupportedMediaType(
                actual=kind[:200], expected=_TAKEN, reason="send JSON in UTF-8, or safetensors"
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


Handler = Callable[[Call], Reply]
Swift = Callable[[Call], Awaitable[Reply | None]]
Peek = Callable[[Call], float | None]

SMALL_BODY = 4096
"""The largest body, in bytes, that is looked at on the event loop: a millisecond of work or two."""


def _work(handler: Handler, call: Call, encoding: str | None, held: Held) -> Reply:
    """What a worker thread does for a call."""
    call.watch.lap(QUEUE)
    if encoding is not None:
        settings = call.service.settings
        body = expand(
            call.body,
            encoding,
            held,
            call.stop,
            limit=settings.max_body_bytes,
            expansion=settings.max_expansion,
        )
        call = replace(call, body=body)
    return handler(call)


_UNATTENDED = 0.02
"""Seconds that a job may take before anybody looks whether its client is still there."""


async def _attend(pool: Pool, job: Job[Reply], receive: Receive) -> Reply:
    """The result of a job, which ends when its client goes away, or its deadline while it waits."""
    loop = asyncio.get_running_loop()
    watch: asyncio.Task[None] | None = None

    async def look() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        pool.withdraw(job, Disconnected())

    def attend() -> None:
        nonlocal watch
        watch = loop.create_task(look())

    def expire() -> None:
        if job.waiting:
            pool.withdraw(job, job.stop.exceeded())

    timers = [loop.call_later(_UNATTENDED, attend)]
    if job.waiting and math.isfinite(job.stop.remaining):
        timers.append(loop.call_later(max(0.0, job.stop.remaining), expire))
    try:
        return await job.result
    except asyncio.CancelledError:
        pool.withdraw(job, Disconnected())
        raise
    finally:
        for timer in timers:
            timer.cancel()
        if watch is not None:
            watch.cancel()


@dataclass(frozen=True)
class Resource:
    """What one path serves: a handler for each method.

    `heavy` work (runs, transforms) has threads of its own, so that it cannot hold up the rest.
    `swift` is asked first, on the loop, where the body is small: it never blocks, saves two changes
    of thread, and answers None where the handler has to do the work after all.
    `deadline` reads from a run that has to wait how many milliseconds it may take.
    `vital` resources answer even while the server is draining; `inline` handlers never block and
    run on the loop itself, so that no queue can delay them. `public` ones need no key.
    """

    path: str
    handlers: Mapping[str, Handler]
    heavy: bool = False
    vital: bool = False
    inline: bool = False
    swift: Swift | None = None
    deadline: Peek | None = None
    public: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        method: str = scope["method"]
        handler = self.handlers.get("GET" if method == "HEAD" else method)
        service: Service = scope["app"].state.service
        settings = service.settings
        exchange = exchange_of(scope)
        if service.draining.is_set() and not self.vital:
            raise Draining(reason="it takes no new requests")
        owner = LOCAL if self.public else await service.access.owner(scope)
        if handler is None:
            raise MethodNotAllowed(
                path=scope["path"][:300], method=method[:50], allowed=self.methods
            )
        if not (self.vital or self.public):
            service.throttle.take(owner)
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        body: bytes | bytearray = b""
        encoding = None
        with service.bodies.hold() as held:
            if method in ("POST", "PUT"):
                check_headers(headers)
                encoding = encoding_of(headers)
                source = paced(receive, held, settings.body_seconds)
                body = await read_body(headers, source, settings.max_body_bytes)
            exchange.watch = Stopwatch()
            call = Call(
                service=service,
                owner=owner,
                path=scope["path"],
                raw_path=scope.get("raw_path") or scope["path"].encode(),
                params=scope.get("path_params", {}),
                query_string=scope.get("query_string", b""),
                headers=headers,
                body=body,
                stop=Stop(settings.run_seconds if self.heavy else None),
                exchange=exchange,
            )
            reply = None
            if self.inline:
                reply = handler(call)
            elif self.swift is not None and encoding is None and len(body) <= SMALL_BODY:
                reply = await self.swift(call)
            if reply is None:
                work = partial(_work, handler, call, encoding, held)
                reply = await self._on_a_thread(call, work, receive, encoding)
            await reply.send(send)

    async def _on_a_thread(
        self, call: Call, work: Callable[[], Reply], receive: Receive, encoding: str | None
    ) -> Reply:
        pool = call.service.heavy_pool if self.heavy else call.service.light_pool
        call.exchange.pool = "run" if self.heavy else "light"
        job = pool.submit(call.owner, work, call.stop)
        if job.waiting and encoding is None and self.deadline is not None:
            call.stop.within(self.deadline(call))
        return await _attend(pool, job, receive)

    @cached_property
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
    swift: Swift | None = None,
    deadline: Peek | None = None,
    public: bool = False,
) -> Route:
    """A route that serves every method of `path` that has a handler, and refuses the others."""
    given = {"GET": get, "POST": post, "PUT": put, "DELETE": delete}
    handlers = {method: handler for method, handler in given.items() if handler is not None}
    served = Resource(
        path,
        handlers,
        heavy=heavy,
        vital=vital,
        inline=inline,
        swift=swift,
        deadline=deadline,
        public=public,
    )
    return Route(path, served)


def default_threads() -> int:
    """Threads for work that is quick, or waits for the disk."""
    return min(32, 4 * (os.cpu_count() or 1))
