"""Sends the attempts of a conversation, sleeps its waits and reads replies, by httpx or `Direct`.

Bodies go out as generators of 1 MiB slices with a Content-Length, because httpx copies what is left
of a bytes body after every write; answers are read into one buffer of the announced length, of
which the arrays of a binary answer are then views.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, TypeVar

import httpx
import numpy as np

from gradwire import errors
from gradwire._direct import Direct
from gradwire._progress import NewMeter, measured
from gradwire._protocol import (
    LARGEST_PREALLOCATION,
    Answer,
    Attempt,
    Exchange,
    Lost,
    Reply,
    Request,
    RetryPolicy,
    Wait,
    converse,
)

__all__ = ["AsyncConnection", "Config", "Connection"]

T = TypeVar("T")


@dataclass(frozen=True)
class Config:
    """How a client talks.

    Attributes:
        binary: Send and ask for tensors as safetensors rather than JSON.
        keep_sources: Send the caller's file and line with each op.
        policy: When requests are sent again.
        progress: Makes the meters of large transfers, if there are to be any.
    """

    binary: bool = True
    keep_sources: bool = True
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    progress: NewMeter | None = None


class Connection:
    """A pool of connections to one server: httpx's, or `direct` ones instead."""

    def __init__(self, http: httpx.Client, config: Config, direct: Direct | None = None) -> None:
        self.config = config
        self._http = http
        self._direct = direct
        self._url = _resolver(http)

    def close(self) -> None:
        """Closes the pool."""
        self._http.close()
        if self._direct is not None:
            self._direct.close()

    def perform(self, exchange: Exchange[T]) -> T:
        """The result of an exchange."""
        try:
            request = next(exchange)
            while True:
                try:
                    answer = self._converse(request)
                except errors.GradwireError as error:
                    request = exchange.throw(error)
                else:
                    request = exchange.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    def _converse(self, request: Request) -> Answer:
        steps = converse(request, self.config.policy)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Wait):
                    time.sleep(step.seconds)
                    step = steps.send(None)
                else:
                    step = steps.send(self._attempt(step))
        except StopIteration as done:
            answer: Answer = done.value
            return answer

    def _attempt(self, attempt: Attempt) -> Reply | Lost:
        meters = self.config.progress
        if self._direct is not None:
            return self._direct.send(attempt, meters)
        try:
            with measured(meters, "sending", attempt.size) as count:
                request = self._http.build_request(
                    attempt.method,
                    self._url(attempt.path),
                    params=attempt.query or None,
                    headers=_headers(attempt),
                    content=_slices(attempt, count) if attempt.chunks else None,
                )
                response = self._http.send(request, stream=True)
            try:
                buffer = _Buffer(response.headers)
                with measured(meters, "receiving", buffer.announced) as count:
                    for chunk in response.iter_bytes():
                        buffer.add(chunk)
                        count(len(chunk))
            finally:
                response.close()
        except httpx.HTTPError as error:
            return _lost(error, self._http.base_url)
        return Reply(response.status_code, dict(response.headers), buffer.whole())


class AsyncConnection:
    """A pool of connections to one server, for one event loop."""

    def __init__(self, http: httpx.AsyncClient, config: Config) -> None:
        self.config = config
        self._http = http
        self._url = _resolver(http)

    async def close(self) -> None:
        """Closes the pool."""
        await self._http.aclose()

    async def perform(self, exchange: Exchange[T]) -> T:
        """The result of an exchange."""
        try:
            request = next(exchange)
            while True:
                try:
                    answer = await self._converse(request)
                except errors.GradwireError as error:
                    request = exchange.throw(error)
                else:
                    request = exchange.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _converse(self, request: Request) -> Answer:
        steps = converse(request, self.config.policy)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Wait):
                    await asyncio.sleep(step.seconds)
                    step = steps.send(None)
                else:
                    step = steps.send(await self._attempt(step))
        except StopIteration as done:
            answer: Answer = done.value
            return answer

    async def _attempt(self, attempt: Attempt) -> Reply | Lost:
        meters = self.config.progress
        try:
            with measured(meters, "sending", attempt.size) as count:
                request = self._http.build_request(
                    attempt.method,
                    self._url(attempt.path),
                    params=attempt.query or None,
                    headers=_headers(attempt),
                    content=_async_slices(attempt, count) if attempt.chunks else None,
                )
                response = await self._http.send(request, stream=True)
            try:
                buffer = _Buffer(response.headers)
                with measured(meters, "receiving", buffer.announced) as count:
                    async for chunk in response.aiter_bytes():
                        buffer.add(chunk)
                        count(len(chunk))
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            return _lost(error, self._http.base_url)
        return Reply(response.status_code, dict(response.headers), buffer.whole())


def _resolver(http: httpx.Client | httpx.AsyncClient) -> Callable[[str], httpx.URL]:
    """What makes the whole URL of a path, which takes as long as sending a little."""

    @lru_cache(maxsize=128)
    def url(path: str) -> httpx.URL:
        return http.build_request("GET", path).url

    return url


def _headers(attempt: Attempt) -> dict[str, str]:
    # httpx sends an iterator's length only if told; and asks for compression unless told not to.
    length = {"Content-Length": str(attempt.size)} if attempt.chunks else {}
    return {"Accept-Encoding": "identity", **attempt.headers, **length}


def _slices(attempt: Attempt, count: Callable[[int], object]) -> Iterator[bytes]:
    for piece in attempt.pieces():
        yield piece  # type: ignore[misc] # httpx passes buffers on as they are
        count(len(piece))


async def _async_slices(attempt: Attempt, count: Callable[[int], object]) -> AsyncIterator[bytes]:
    for piece in _slices(attempt, count):
        yield piece


_NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def _lost(error: httpx.HTTPError, base: httpx.URL) -> Lost:
    reason, url = str(error) or type(error).__name__, str(base).rstrip("/")
    if isinstance(error, _NEVER_SENT):
        return Lost("unreached", reason, url)
    if isinstance(error, httpx.TimeoutException):
        return Lost("timeout", reason, url)
    return Lost("broken", reason, url)


class _Buffer:
    """The bytes of an answer as they come in, in one piece if its length is announced.

    Attributes:
        announced: How many come, as far as that is known.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        length = headers.get("content-length", "")
        known = length.isdigit() and int(length) <= LARGEST_PREALLOCATION
        encoded = "content-encoding" in headers
        self.announced = int(length) if known and not encoded else 0
        self._space = np.empty(self.announced, np.uint8).data
        self._rest = bytearray()
        self._filled = 0

    def add(self, chunk: bytes) -> None:
        """Takes the next bytes."""
        end = self._filled + len(chunk)
        if not self._rest and end <= len(self._space):
            self._space[self._filled : end] = chunk
            self._filled = end
        else:
            self._rest += chunk

    def whole(self) -> memoryview:
        """All bytes that came."""
        if not self._rest:
            return self._space[: self._filled]
        return memoryview(bytearray(self._space[: self._filled]) + self._rest)
