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
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from gradwire.wire.messages import BINARY, JSON

from .bodies import Disconnected, Held, encoding_of, expand, fill, paced, spacious
from .errors import (
    Draining,
    MethodNotAllowed,
    PayloadTooLarge,
    UnsupportedMediaType,
)
from .exchange import QUEUE, Exchange, Stopwatch, exchange_of
from .http import Body, Call, Reply, Send, media_type
from .intake import BODY, Intake
from .keys import LOCAL
from .pool import Job, Pool
from .stop import Stop
from .swift import SMALL_BODY, Begun

if TYPE_CHECKING:
    from .app import Service
    from .settings import Settings

__all__ = ["Handler", "Paths", "Receive", "Resource", "Scope", "read_body", "resource"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


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


async def take_body(
    scope: Scope, headers: Mapping[str, str], receive: Receive, held: Held, settings: Settings
) -> Body:
    """The whole body, by the shortest way that the server offers.

    Raises:
        PayloadTooLarge: By its declared length, before anything is read, or as soon as it grows
            beyond the limit.
        RequestTimeout, Overloaded: The client is too slow; memory is short.
        Disconnected: The client went away.
    """
    limit, seconds = settings.max_body_bytes, settings.body_seconds
    intake: Intake | None = scope.get("extensions", {}).get(BODY)
    if intake is not None and intake.arrived:  # then nobody has to be waited for
        message = await receive()
        if message["type"] != "http.request":
            raise Disconnected
        body: bytes = message["body"]
        if len(body) > limit:
            raise PayloadTooLarge(limit=limit, actual=len(body))
        held.grow(len(body))
        return body
    declared = declared_length(headers, limit)
    if intake is not None and declared is not None:
        return await _read_into_place(headers, declared, intake, held, seconds)
    return await read_body(declared, paced(receive, held, seconds), limit)


async def _read_into_place(
    headers: Mapping[str, str], declared: int, intake: Intake, held: Held, seconds: float
) -> memoryview:
    """A body of a declared length, at an address where the tensors of a binary one lie aligned."""
    binary = media_type(headers.get("content-type", "")) == BINARY
    head = memoryview(bytearray(min(8, declared) if binary else 0))
    await fill(intake, head, held, seconds)
    body = spacious(declared, len(head) + int.from_bytes(head, "little"))
    body[: len(head)] = head
    await fill(intake, body[len(head) :], held, seconds)
    return body


def declared_length(headers: Mapping[str, str], limit: int) -> int | None:
    """What `Content-Length` says.

    Raises:
        PayloadTooLarge: It is beyond the limit.
    """
    text = headers.get("content-length", "")
    declared = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
    if declared is not None and declared > limit:
        raise PayloadTooLarge(limit=limit, actual=declared)
    return declared


async def read_body(declared: int | None, receive: Receive, limit: int) -> Body:
    """The whole body, put together from what `receive` gives.

    Raises:
        PayloadTooLarge: It has grown beyond the limit.
        Disconnected: The client went away.
    """
    body: bytes | bytearray = b""
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise Disconnected
        chunk: bytes = message.get("body", b"")
        if len(body) + len(chunk) > limit:
            raise PayloadTooLarge(limit=limit, actual=len(body) + len(chunk))
        if not body:
            body = chunk
        else:
            if isinstance(body, bytes):
                body = bytearray(body)
            body += chunk  # large memory grows without being copied: the pages move
        more = message.get("more_body", False)
    if declared is not None and len(body) != declared:
        raise Disconnected
    return body


# -- work off the event loop -----------------------------------------------------------------------


Handler = Callable[[Call], Reply]
Begin = Callable[[Call], Begun | None]
Peek = Callable[[Call], float | None]


def _work(handler: Handler, call: Call, encoding: str | None, held: Held | None) -> Reply:
    """What a worker thread does for a call; a body that is encoded is counted as it grows."""
    call.watch.lap(QUEUE)
    if encoding is not None and held is not None:
        settings = call.service.settings
        body = expand(
            call.body,
            encoding,
            held,
            call.stop,
            limit=settings.max_body_bytes,
            expansion=settings.max_expansion,
        )
        call = call._replace(body=body)
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


def _admit(exchange: Exchange, service: Service, owner: str) -> None:
    """Count a request against its owner's rate, once."""
    if not exchange.admitted:
        service.throttle.take(owner)
        exchange.admitted = True


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


@dataclass(frozen=True)
class Resource:
    """What one path serves: a handler for each method.

    `heavy` work (runs, transforms) has threads of its own, so that it cannot hold up the rest.
    `swift` is asked first, on the loop, where the body is small: it never blocks, and begins what
    is answered once it is committed, or says None where the handler has to do the work.
    `deadline` reads from a run that has to wait how many milliseconds it may take.
    `vital` resources answer even while the server is draining; `inline` handlers never block and
    run on the loop itself, so that no queue can delay them. `public` ones need no key.
    """

    path: str
    handlers: Mapping[str, Handler]
    heavy: bool = False
    vital: bool = False
    inline: bool = False
    swift: Begin | None = None
    deadline: Peek | None = None
    public: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        method: str = scope["method"]
        handler = self.handlers.get("GET" if method == "HEAD" else method)
        service: Service = scope["app"].state.service
        settings = service.settings
        exchange = exchange_of(scope)
        begun, exchange.begun = exchange.begun, None
        if begun is not None and handler is not None:
            reply = await self._go_on(begun, handler, receive)
            await reply.send(send)
            return
        if service.draining.is_set() and not self.vital:
            raise Draining(reason="it takes no new requests")
        owner = LOCAL if self.public else await service.access.owner(scope)
        if handler is None:
            raise MethodNotAllowed(
                path=scope["path"][:300], method=method[:50], allowed=self.methods
            )
        if not (self.vital or self.public):
            _admit(exchange, service, owner)
        headers = _headers(scope)
        body: Body = b""
        encoding = None
        with service.bodies.hold() as held:
            if method in ("POST", "PUT"):
                check_headers(headers)
                encoding = encoding_of(headers)
                body = await take_body(scope, headers, receive, held, settings)
                exchange.received = held.size
            call = Call(service, owner, scope, headers, body, exchange)
            if self.inline:
                reply = handler(call)
            elif encoding is None and (begun := self._begin(call)) is not None:
                reply = await self._go_on(begun, handler, receive)
            else:
                work = partial(_work, handler, call, encoding, held)
                reply = await self._on_a_thread(call, work, receive, encoding)
            await reply.send(send)

    def begin(
        self, scope: Scope, service: Service, exchange: Exchange, body: bytes
    ) -> Begun | None:
        """Begin a POST whose body is there, if that takes next to no time.

        What was begun is gone on with when the resource is called with the same scope.

        Raises:
            EngineError: There is something to refuse; a call refuses it, too.
        """
        if len(body) > service.settings.max_body_bytes:
            return None
        owner = service.access.known_owner(scope)
        headers = _headers(scope)
        # What comes from a page of another origin is answered with headers that are added outside.
        if owner is None or "content-encoding" in headers or "origin" in headers:
            return None
        _admit(exchange, service, owner)
        check_headers(headers)
        exchange.received = len(body)
        assert self.swift is not None  # else nobody asks
        return self.swift(Call(service, owner, scope, headers, body, exchange))

    def _begin(self, call: Call) -> Begun | None:
        if self.swift is None or len(call.body) > SMALL_BODY or call.exchange.declined:
            return None
        return self.swift(call)

    async def _go_on(self, begun: Begun, handler: Handler, receive: Receive) -> Reply:
        await begun.wait()
        reply = begun.reply()
        if reply is None:
            work = partial(_work, handler, begun.call, None, None)
            reply = await self._on_a_thread(begun.call, work, receive, None)
        return reply

    async def _on_a_thread(
        self, call: Call, work: Callable[[], Reply], receive: Receive, encoding: str | None
    ) -> Reply:
        pool = call.service.heavy_pool if self.heavy else call.service.light_pool
        call.exchange.pool = "run" if self.heavy else "light"
        call.exchange.watch = Stopwatch()
        call.exchange.stop = Stop(call.service.settings.run_seconds if self.heavy else None)
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
    swift: Begin | None = None,
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


class Paths:
    """Which resource a path belongs to: all patterns are one regular expression, asked once.

    Attributes:
        known: The templates of the paths.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self._by_group: dict[int, tuple[Resource, tuple[str, ...]]] = {}
        self.known: list[str] = []
        patterns = []
        group = 1
        for route in routes:
            served: Any = route.endpoint  # as `resource` has made it
            names: list[str] = []
            pattern = ""
            for text, name, kind in _PLACE.findall(route.path):
                pattern += re.escape(text)
                if name:
                    names.append(name)
                    pattern += "(.*)" if kind == "path" else "([^/]+)"
            patterns.append(f"({pattern})")
            self.known.append(route.path)
            self._by_group[group] = served, tuple(names)
            group += 1 + len(names)
        self._pattern = re.compile("|".join(patterns), re.DOTALL)
        self._recent = lru_cache(maxsize=1024)(self._match)

    def find(self, path: str) -> tuple[Resource, Mapping[str, str]] | None:
        """What serves a path, and what stands in the places of its template."""
        return self._recent(path) if len(path) <= _USUAL else self._match(path)

    def _match(self, path: str) -> tuple[Resource, Mapping[str, str]] | None:
        match = self._pattern.fullmatch(path)
        if match is None or match.lastindex is None:
            return None
        resource, names = self._by_group[match.lastindex]  # the group that was closed last
        first = match.lastindex + 1
        return resource, {name: match[first + k] for k, name in enumerate(names)}


_USUAL = 200
"""The most characters of a path that is remembered: clients ask for the same ones again."""

_PLACE = re.compile(r"([^{]*)(?:\{(\w+)(?::(\w+))?\})?")
"""A text in a template, and the place behind it: `{sid}` is one segment, `{ref:path}` any."""


def default_threads() -> int:
    """Threads for work that is quick, or waits for the disk."""
    return min(32, 4 * (os.cpu_count() or 1))
