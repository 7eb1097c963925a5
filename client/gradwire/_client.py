"""Clients: a server's address and connections, and what can be asked of it outside of a session."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Final, Literal, Self, cast

import httpx

from gradwire import _exchanges as exchanges
from gradwire._connection import AsyncConnection, Config, Connection
from gradwire._direct import Direct
from gradwire._progress import NewMeter, bars
from gradwire._protocol import RetryPolicy
from gradwire._resident import AsyncResidentTensors, ResidentTensors
from gradwire._session import AsyncSession, Session

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from gradwire._exchanges import Groups, Store
    from gradwire._runs import Feed
    from gradwire._values import InputLike
    from gradwire.wire.messages import OpDocument, Ref, SessionSummary

__all__ = ["AsyncClient", "Client", "connect", "connect_async", "local"]

_TIMEOUT: Final = 60.0
_CONNECT_TIMEOUT: Final = 10.0
_POOL: Final = httpx.Limits(max_connections=100, keepalive_expiry=60.0)
"""A server keeps idle connections a little longer, so that it is the client that closes them."""
_API_KEY: Final = "GRADWIRE_API_KEY"
_ENTRY_POINTS: Final = "gradwire.local"

Mode = Literal["forward", "vjp", "jvp"]


class Client:
    """A server, over one pool of connections; a context manager that closes it.

    Sessions made here stay on the server when the client is closed, and so do resident tensors.

    Attributes:
        tensors: The resident tensors: `client.tensors["w"] = w`, `f(..., w=client.tensors["w"])`.
    """

    def __init__(
        self, http: httpx.Client, config: Config | None = None, direct: Direct | None = None
    ) -> None:
        self._connection = Connection(http, config or Config(), direct)
        self._http = http
        binary = self._connection.config.binary
        self.tensors = ResidentTensors(self._connection.perform, binary=binary)

    @property
    def url(self) -> str:
        """Where the server is."""
        return str(self._http.base_url)

    def close(self) -> None:
        """Closes the connections."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def session(self, inputs: Mapping[str, InputLike], *, name: str | None = None) -> Session:
        """A new session.

        Args:
            inputs: Its inputs in order: a shape (`{"x": (3,)}`), shape and dtype
                (`{"x": ((3,), "float64")}`), or an `Input`.
            name: A name for it, unique among yours.
        """
        document = self._connection.perform(exchanges.create(inputs, name))
        return Session(self._connection, document)

    def open(self, session: str) -> Session:
        """The session of that id or name.

        Raises:
            SessionNotFound: There is none.
        """
        return Session(self._connection, self._connection.perform(exchanges.read(session)))

    def sessions(self) -> Iterator[SessionSummary]:
        """All sessions of this caller, asked for page by page."""
        cursor: str | None = None
        while True:
            page = self._connection.perform(exchanges.page(cursor))
            yield from page["sessions"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def execute(
        self,
        inputs: Mapping[str, InputLike],
        nodes: Sequence[Mapping[str, object]],
        *,
        mode: Mode = "forward",
        feed: Feed | None = None,
        outputs: Mapping[str, Ref] | None = None,
        cotangents: Feed | None = None,
        tangents: Feed | None = None,
        store: Store | None = None,
        **run: object,
    ) -> Groups:
        """Runs a whole graph in one request; nothing of it is kept.

        Args:
            inputs: The graph's inputs, as for `session`.
            nodes: Its ops as the HTTP contract writes them.
            mode: What to run.
            feed: Input arrays by name.
            outputs: The graph's outputs by name; by default the last node.
            cotangents: By output (vjp).
            tangents: By input (jvp).
            store: Results that become resident tensors, by path: `{"outputs/w": "w"}`; references
                come back in their place.
            run: Further fields of the run: `wrt`, `in_axes`, `reduce`, `transforms`, ...

        Returns:
            Arrays by group (`outputs`, `gradients`, `tangents`) and name.
        """
        exchange = exchanges.execute(
            inputs,
            nodes,
            outputs,
            {"mode": mode, **run},
            {"inputs": feed, "cotangents": cotangents, "tangents": tangents},
            binary=self._connection.config.binary,
            refer=self.tensors.__getitem__,
            store=store,
        )
        return self._connection.perform(exchange)

    def ops(self) -> list[OpDocument]:
        """The op catalogue."""
        return self._connection.perform(exchanges.ops())

    def op(self, name: str) -> OpDocument:
        """One op of the catalogue, by name or alias.

        Raises:
            OpNotFound: There is none.
        """
        return self._connection.perform(exchanges.op(name))

    def limits(self) -> dict[str, float | None]:
        """The limits that the server has in force; None where there is none."""
        return self._connection.perform(exchanges.limits())

    def __repr__(self) -> str:
        return f"<Client of {self.url}>"


class AsyncClient:
    """As `Client`, for asyncio: `async with gw.connect_async(url) as client`."""

    def __init__(self, http: httpx.AsyncClient, config: Config | None = None) -> None:
        self._connection = AsyncConnection(http, config or Config())
        self._http = http
        binary = self._connection.config.binary
        self.tensors = AsyncResidentTensors(self._connection.perform, binary=binary)

    @property
    def url(self) -> str:
        """Where the server is."""
        return str(self._http.base_url)

    async def close(self) -> None:
        """Closes the connections."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def session(
        self, inputs: Mapping[str, InputLike], *, name: str | None = None
    ) -> AsyncSession:
        """As `Client.session`."""
        document = await self._connection.perform(exchanges.create(inputs, name))
        return AsyncSession(self._connection, document)

    async def open(self, session: str) -> AsyncSession:
        """As `Client.open`."""
        document = await self._connection.perform(exchanges.read(session))
        return AsyncSession(self._connection, document)

    async def sessions(self) -> AsyncIterator[SessionSummary]:
        """As `Client.sessions`."""
        cursor: str | None = None
        while True:
            page = await self._connection.perform(exchanges.page(cursor))
            for summary in page["sessions"]:
                yield summary
            cursor = page["next_cursor"]
            if cursor is None:
                return

    async def execute(
        self,
        inputs: Mapping[str, InputLike],
        nodes: Sequence[Mapping[str, object]],
        *,
        mode: Mode = "forward",
        feed: Feed | None = None,
        outputs: Mapping[str, Ref] | None = None,
        cotangents: Feed | None = None,
        tangents: Feed | None = None,
        store: Store | None = None,
        **run: object,
    ) -> Groups:
        """As `Client.execute`."""
        exchange = exchanges.execute(
            inputs,
            nodes,
            outputs,
            {"mode": mode, **run},
            {"inputs": feed, "cotangents": cotangents, "tangents": tangents},
            binary=self._connection.config.binary,
            refer=self.tensors.__getitem__,
            store=store,
        )
        return await self._connection.perform(exchange)

    async def ops(self) -> list[OpDocument]:
        """As `Client.ops`."""
        return await self._connection.perform(exchanges.ops())

    async def op(self, name: str) -> OpDocument:
        """As `Client.op`."""
        return await self._connection.perform(exchanges.op(name))

    async def limits(self) -> dict[str, float | None]:
        """As `Client.limits`."""
        return await self._connection.perform(exchanges.limits())

    def __repr__(self) -> str:
        return f"<AsyncClient of {self.url}>"


def connect(
    url: str,
    *,
    api_key: str | None = None,
    binary: bool = True,
    keep_sources: bool = True,
    timeout: float | None = _TIMEOUT,
    headers: Mapping[str, str] | None = None,
    attempts: int = RetryPolicy.attempts,
    progress: bool | NewMeter = False,
    transport: httpx.BaseTransport | None = None,
) -> Client:
    """A client of the server at `url`; nothing is sent yet.

    Args:
        url: Where the server is, `http://127.0.0.1:8000`.
        api_key: The key to show, by default that of the environment, `GRADWIRE_API_KEY`; "" none.
        binary: Tensors travel as safetensors; False sends and asks for JSON.
        keep_sources: Ops carry the file and line that called them, for later errors.
        timeout: Seconds to wait for the next bytes, and at most 10 of them for a connection; None
            waits for ever.
        headers: Further headers of every request.
        attempts: The most times that one request is sent.
        progress: Show a bar while 8 MiB or more go over the wire, which needs tqdm (the extra
            `progress`); or what makes another meter, of `"sending"` or `"receiving"` and the bytes.
        transport: An httpx transport to send through.

    Raises:
        ValueError: `url` does not begin with http:// or https://, or the key cannot be one.
        ImportError: A bar is wanted, and tqdm is not installed.
    """
    patience, always = _timeout(timeout), _headers(headers, api_key)
    http = httpx.Client(
        base_url=_address(url),
        timeout=patience,
        headers=always,
        limits=_POOL,
        transport=transport,
    )
    direct = None
    if transport is None and Direct.serves(url):
        direct = Direct(url, always, timeout=patience.read, patience=patience.connect)
    config = Config(binary, keep_sources, RetryPolicy(attempts), _meters(progress))
    return Client(http, config, direct)


def connect_async(
    url: str,
    *,
    api_key: str | None = None,
    binary: bool = True,
    keep_sources: bool = True,
    timeout: float | None = _TIMEOUT,
    headers: Mapping[str, str] | None = None,
    attempts: int = RetryPolicy.attempts,
    progress: bool | NewMeter = False,
    transport: httpx.AsyncBaseTransport | None = None,
) -> AsyncClient:
    """As `connect`, for asyncio."""
    http = httpx.AsyncClient(
        base_url=_address(url),
        timeout=_timeout(timeout),
        headers=_headers(headers, api_key),
        limits=_POOL,
        transport=transport,
    )
    return AsyncClient(http, Config(binary, keep_sources, RetryPolicy(attempts), _meters(progress)))


def local(*, binary: bool = True, keep_sources: bool = True) -> Client:
    """A client of the whole service in this process, without a server; sessions live in memory.

    Raises:
        ImportError: The service is not installed.
    """
    found = list(metadata.entry_points(group=_ENTRY_POINTS))
    hint = (
        "gw.local() runs the service in this process, for which its extra is needed: "
        'pip install "gradwire[service]", or ".[service]" in a clone.'
    )
    if not found:
        raise ImportError(hint)
    try:
        make = cast("Callable[[], httpx.BaseTransport]", found[0].load())
    except ImportError as missing:
        raise ImportError(hint) from missing
    return connect(
        "http://gradwire.local",
        api_key="",
        binary=binary,
        keep_sources=keep_sources,
        timeout=None,
        transport=make(),
    )


def _address(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"a server's address begins with http:// or https://, not {url!r}")
    return url


def _headers(headers: Mapping[str, str] | None, api_key: str | None) -> dict[str, str]:
    key = os.environ.get(_API_KEY, "") if api_key is None else api_key
    if not re.fullmatch(r"[!-~]*", key):
        raise ValueError("an API key is made of visible ASCII characters; this one has others")
    return {
        "User-Agent": f"gradwire-python/{metadata.version('gradwire')}",
        **({"Authorization": f"Bearer {key}"} if key else {}),
        **(headers or {}),
    }


def _timeout(seconds: float | None) -> httpx.Timeout:
    if seconds is None:
        return httpx.Timeout(None)
    return httpx.Timeout(seconds, connect=min(seconds, _CONNECT_TIMEOUT))


def _meters(progress: bool | NewMeter) -> NewMeter | None:
    return progress if callable(progress) else bars() if progress else None
