"""The application: settings in, ASGI app out. Nothing is kept at module level.

The lifespan opens the store and the worker threads and closes them again; `Guard` is the outermost
layer, which gives every request an id and turns every exception into an answer of the contract.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import threading
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    MutableMapping,
)
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
from starlette.applications import Starlette

from gradwire.wire.messages import PROBLEM
from gradwire_engine import Engine
from gradwire_engine.runtime import processors

from .access import PREFLIGHT, Access, with_cors
from .bodies import Bodies, Disconnected
from .dispatch import Paths, Receive, Scope, default_threads
from .errors import Draining, PayloadTooLarge, RouteNotFound, close_matches, problem_of
from .exchange import Exchange
from .files import LEFTOVER_AGE
from .homecoming import Homecoming
from .http import Reply, Send
from .metrics import REFRESH_SECONDS, Metrics
from .pool import Pool
from .routes import ROUTES
from .sessions import Sessions
from .settings import Settings
from .sight import Sight
from .sqlite_store import SqliteStore
from .store import Store
from .swift import Swift
from .tensors import Tensors
from .throttle import Throttle
from .tracing import open_tracing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp

__all__ = ["Guard", "Service", "create_app", "open_store", "open_tensors"]

_log = logging.getLogger("gradwire_service")

_LIGHT_QUEUE = 1000


@dataclass(frozen=True)
class Service:
    """What the handlers work with, for the lifetime of one app."""

    settings: Settings
    store: Store
    engine: Engine
    sessions: Sessions
    tensors: Tensors
    light_pool: Pool
    heavy_pool: Pool
    access: Access
    throttle: Throttle
    bodies: Bodies
    sight: Sight
    homecoming: Homecoming
    draining: threading.Event


def open_store(settings: Settings) -> Store:
    """The store that the settings name.

    Raises:
        RuntimeError, OSError: It cannot be used.
    """
    if settings.store == "sqlite":
        return SqliteStore(
            settings.data_path,
            retention=settings.idempotency_seconds,
            max_bytes=settings.store_bytes,
        )
    from .postgres_store import PostgresStore

    return PostgresStore(settings.store, settings.data_path, retention=settings.idempotency_seconds)


def open_tensors(settings: Settings, *, durable: bool = True) -> Tensors:
    """The resident tensors in the data directory.

    Raises:
        OSError, sqlite3.Error: They cannot be used.
    """
    return Tensors(
        settings.data_path,
        max_count=settings.max_tensors,
        max_bytes=settings.tensor_bytes,
        durable=durable,
    )


def create_app(
    settings: Settings | None = None, store: Store | None = None, tensors: Tensors | None = None
) -> Starlette:
    """The service as an ASGI application.

    Args:
        settings: From the environment where absent.
        store: Used instead of the one that the settings name; the app closes it.
        tensors: Used instead of those in the data directory; the app closes them.
    """
    chosen = Settings() if settings is None else settings
    paths = Paths(ROUTES)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service = _open(chosen, store, tensors)
        app.state.service = service
        app.state.swift = Swift(service, paths)
        # Loads what it runs on: later, that would hold up every request.
        await anyio.lowlevel.checkpoint()
        chores = [asyncio.create_task(chore) for chore in _chores(service)]
        with _draining_on_sigterm(service):
            yield
        for chore in chores:
            chore.cancel()
        await asyncio.wait(chores)
        service.sight.settle()
        await anyio.to_thread.run_sync(_close, service)

    return _App(chosen, paths, routes=list(ROUTES), lifespan=lifespan)


class _App(Starlette):
    """Starlette's state and lifespan, with `Guard` as the only layer around the routes.

    Where web pages may use the service there is one more, outside, so that refusals pass it too.
    """

    def __init__(self, settings: Settings, paths: Paths, **of_starlette: Any) -> None:
        super().__init__(**of_starlette)
        self._settings = settings
        self._paths = paths

    def build_middleware_stack(self) -> ASGIApp:
        # Starlette's layers turn exceptions into answers, which `Guard` does for all of them.
        return with_cors(Guard(self._paths, self.router), self._settings)


def _open(settings: Settings, store: Store | None, tensors: Tensors | None) -> Service:
    opened = open_store(settings) if store is None else store
    engine = Engine(
        memory_limit=settings.memory_bytes,
        compile=settings.compile,
        threads=settings.kernel_threads or max(1, processors() // settings.workers),
        cache_dir=settings.cache_path,
    )
    return Service(
        settings=settings,
        store=opened,
        engine=engine,
        sessions=Sessions(
            opened,
            engine,
            memory_limit=settings.memory_bytes,
            max_elements=settings.max_elements,
            max_nodes=settings.max_nodes,
            max_sessions=settings.max_sessions,
            cached=settings.cached_sessions,
            seconds=settings.session_seconds,
            linear_seconds=settings.linearization_seconds,
            linear_bytes=settings.linearization_bytes,
        ),
        tensors=open_tensors(settings) if tensors is None else tensors,
        light_pool=Pool(default_threads(), _LIGHT_QUEUE, "light"),
        heavy_pool=Pool(
            settings.run_threads,
            settings.queue,
            "run",
            per_owner=settings.runs_per_owner,
            queue_per_owner=settings.owner_queue,
        ),
        access=Access(settings, opened.api_keys),
        throttle=Throttle(settings.owner_rate),
        bodies=Bodies(settings.body_memory),
        sight=Sight(Metrics(), open_tracing()),
        homecoming=Homecoming(),
        draining=threading.Event(),
    )


def _chores(service: Service) -> Iterator[Coroutine[Any, Any, None]]:
    """What is done now and then: what has expired is removed, figures are kept up to date."""
    settings = service.settings
    life = min(settings.session_seconds or math.inf, settings.linearization_seconds)
    yield _every(max(0.1, min(60.0, life / 4)), service.sessions.sweep)
    yield _every(LEFTOVER_AGE, service.store.sweep)
    yield _every(LEFTOVER_AGE, service.tensors.sweep)
    yield _tell_state(service)


async def _every(seconds: float, chore: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await anyio.to_thread.run_sync(chore)
        except Exception:
            _log.exception("what has expired could not be removed; it stays until the next time")


async def _tell_state(service: Service) -> None:
    """Keep the figures of this process up to date where another one may be asked for them."""
    metrics = service.sight.metrics
    while metrics.shared is not None:
        metrics.refresh(service)
        await asyncio.sleep(REFRESH_SECONDS)


def _close(service: Service) -> None:
    service.heavy_pool.close()
    service.light_pool.close()
    service.tensors.close()
    service.store.close()
    if service.sight.tracing is not None:
        service.sight.tracing.close()


@contextmanager
def _draining_on_sigterm(service: Service) -> Iterator[None]:
    """Between SIGTERM and the server's own reaction to it, answer `draining` for a while."""
    seconds = service.settings.drain_seconds
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return
    server = signal.getsignal(signal.SIGTERM)

    def drain(_number: int, _frame: Any) -> None:
        if service.draining.is_set() or not callable(server):
            return
        service.draining.set()
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
        signal.signal(signal.SIGTERM, server)
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, drain)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, server)


class Guard:
    """The outermost layer: request ids, an answer of the contract for every exception, reports.

    Args:
        paths: What is served.
        rest: The app for whatever is no HTTP request.
    """

    def __init__(self, paths: Paths, rest: ASGIApp) -> None:
        self._paths = paths
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI scope; only HTTP requests are touched."""
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        exchange = Exchange.of(scope)
        tag = exchange.tag
        service: Service = scope["app"].state.service
        found = self._paths.find(scope["path"])

        def tagged(message: MutableMapping[str, Any]) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                exchange.started, exchange.status = True, message["status"]
                message["headers"].append(tag)
            else:
                exchange.sent += len(message.get("body", b""))
            return send(message)

        try:
            if PREFLIGHT in scope:
                scope["endpoint"] = None if found is None else found[0]
                await scope[PREFLIGHT](scope, receive, tagged)
                return
            service.access.check_page(scope)
            if found is None:
                path = scope["path"][:300]
                raise RouteNotFound(path=path, suggestions=close_matches(path, self._paths.known))
            scope["endpoint"], scope["path_params"] = found
            await found[0](scope, receive, tagged)
        except Disconnected:
            return
        except asyncio.CancelledError:
            if exchange.started:
                raise
            # The server ends and will not wait longer: what it took is answered all the same.
            late = Draining(reason="it could not wait any longer")
            await _refuse(late, exchange, receive, tagged)
        except Exception as error:
            if exchange.started:  # half an answer is out: cutting it off is all that is left
                exchange.fault, exchange.code = error, "internal"
                raise
            await _refuse(error, exchange, receive, tagged)
        finally:
            service.sight.report(exchange)


async def _refuse(error: Exception, exchange: Exchange, receive: Receive, send: Send) -> None:
    status, exchange.code, body, headers = problem_of(error, exchange.request_id)
    if status == 500:
        exchange.fault = error
    if exchange.watch is not None and exchange.watch.told:
        headers["Server-Timing"] = exchange.watch.header()
    if not isinstance(error, PayloadTooLarge):
        await Reply(status, PROBLEM, [body], headers).send(send)
        return
    reply = Reply(status, PROBLEM, [body], {**headers, "Connection": "close"})

    async def lingering(message: Mapping[str, Any]) -> None:
        # Closing at once would reset the connection while the client still sends, and the reset may
        # overtake the answer: give it a moment, reading on, before the last word.
        if message["type"] == "http.response.body":
            await send({**message, "more_body": True})
            with anyio.move_on_after(1.0):
                while (await receive()).get("more_body"):
                    pass
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await send(dict(message))

    await reply.send(lingering)
