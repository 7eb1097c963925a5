"""The service in this process: the real app behind an `httpx` transport, with an in-memory store.

`transport()` is what `gw.local()` finds through the entry point group `gradwire.local`. The app
runs on an event loop of its own, in a daemon thread; requests are handed to it as ASGI calls,
without a socket, and the bytes of bodies are passed on as they are. Resident tensors are files in a
temporary directory. A transport that nobody closes is closed when it is forgotten, or at the end of
the program.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import weakref
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import httpx

from .app import create_app, open_tensors
from .settings import Settings
from .sqlite_store import SqliteStore

__all__ = ["LocalTransport", "transport"]


def transport() -> httpx.BaseTransport:
    """A transport for synchronous `httpx` clients; closing it ends the service and its sessions."""
    return LocalTransport(Settings(drain_seconds=0.0))


class LocalTransport(httpx.BaseTransport):
    """One app, started with the transport and shut down by `close`; `app` is the application."""

    def __init__(self, settings: Settings) -> None:
        self._running = _Running(settings)
        self.app = self._running.app
        # The app's thread must not keep the transport alive: hence two objects.
        self._end = weakref.finalize(self, _Running.forgotten, self._running)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request through the app; any number of threads may."""
        if not self._end.alive:
            raise httpx.ConnectError("the local service is closed", request=request)
        body = b"".join(chunk for chunk in _stream(request))
        start, chunks = self._running.call(request, body)
        content = _Chunks([] if request.method == "HEAD" else chunks)
        return httpx.Response(start["status"], headers=start["headers"], stream=content)

    def close(self) -> None:
        """Finish what is under way and shut the app down. Closing twice does nothing."""
        if self._end.detach():
            self._running.close()


class _Running:
    """The app on its loop, in its thread."""

    def __init__(self, settings: Settings) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gradwire-", ignore_cleanup_errors=True)
        kept = settings.model_copy(update={"data_dir": Path(self._folder.name)})
        self.app = create_app(
            kept,
            SqliteStore(None, retention=settings.idempotency_seconds),
            open_tensors(kept, durable=False),
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="gradwire-local", daemon=True
        )
        self._thread.start()
        self._to_app: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self._from_app: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self._state: dict[str, Any] = {}
        self._lifespan = asyncio.run_coroutine_threadsafe(self._live(), self._loop)
        try:
            self._signal("startup")
        except BaseException:
            self._stop()
            raise

    def call(
        self, request: httpx.Request, body: bytes
    ) -> tuple[MutableMapping[str, Any], list[bytes | memoryview]]:
        """The start of the app's answer, and the parts of its body."""
        return asyncio.run_coroutine_threadsafe(self._call(request, body), self._loop).result()

    def close(self) -> None:
        """Shut the app down and end the thread."""
        try:
            self._signal("shutdown")
        finally:
            self._stop()

    def forgotten(self) -> None:
        """`close`, from whichever thread collects garbage, the app's own included."""
        if threading.current_thread() is self._thread:
            threading.Thread(target=self.close, name="gradwire-local-end").start()
        else:
            self.close()

    def _stop(self) -> None:
        self._lifespan.cancel()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._folder.cleanup()

    async def _live(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self._state}
        await self.app(scope, self._to_app.get, self._from_app.put)

    def _signal(self, event: str) -> None:
        async def exchange() -> MutableMapping[str, Any]:
            await self._to_app.put({"type": f"lifespan.{event}"})
            return await self._from_app.get()

        answer = asyncio.run_coroutine_threadsafe(exchange(), self._loop).result()
        if answer["type"] != f"lifespan.{event}.complete":
            raise RuntimeError(f"the local service failed at {event}: {answer.get('message', '')}")

    async def _call(
        self, request: httpx.Request, body: bytes
    ) -> tuple[MutableMapping[str, Any], list[bytes | memoryview]]:
        target = request.url.raw_path
        path, _, query = target.partition(b"?")
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.url.scheme,
            "path": request.url.path,
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": [(k.lower(), v) for k, v in request.headers.raw],
            "server": None,  # no network is between the two
            "client": ("127.0.0.1", 0),
            "state": dict(self._state),
        }
        messages: list[MutableMapping[str, Any]] = []
        given = False

        async def receive() -> MutableMapping[str, Any]:
            nonlocal given
            if given:  # the caller waits for the answer, however long it takes
                await asyncio.Event().wait()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            messages.append(message)

        await self.app(scope, receive, send)
        start, *rest = messages
        return start, [m["body"] for m in rest if m.get("body")]


def _stream(request: httpx.Request) -> Iterator[bytes]:
    stream = request.stream
    if not isinstance(stream, httpx.SyncByteStream):
        raise TypeError("the local transport serves synchronous clients")
    yield from stream


class _Chunks(httpx.SyncByteStream):
    """An answer's body, as the app left it."""

    def __init__(self, chunks: list[bytes | memoryview]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks  # type: ignore[misc] # httpx passes buffers on as they are
