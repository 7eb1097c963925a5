"""Bodies that are read into place: where they land, what slow and vanished clients cost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import pytest

from gradwire.wire import safetensors
from gradwire.wire.messages import BINARY
from gradwire_service.bodies import Bodies, Disconnected, fill, spacious
from gradwire_service.dispatch import Paths, take_body
from gradwire_service.errors import Overloaded, PayloadTooLarge, RequestTimeout
from gradwire_service.homecoming import Homecoming
from gradwire_service.intake import BODY
from gradwire_service.routes import ROUTES
from gradwire_service.settings import Settings


class Coming:
    """A body that comes in pieces; an empty one is a client that rests, the end one that left."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""
        self.gone = False
        self.arrived = False

    async def read_into(self, view: memoryview, seconds: float) -> int:
        at = 0
        while at < len(view):
            if not self._rest:
                piece = next(self._pieces, None)
                if piece is None:
                    self.gone = True
                    break
                if not piece:
                    await asyncio.sleep(seconds)
                    break
                self._rest = piece
            taken = self._rest[: len(view) - at]
            self._rest = self._rest[len(taken) :]
            view[at : at + len(taken)] = taken
            at += len(taken)
        return at


async def never() -> Any:
    raise AssertionError("the body is not to be had this way")


def taken(pieces: Iterable[bytes], size: int, kind: str, **settings: Any) -> Any:
    bodies = Bodies(settings.pop("room", 2**30))
    limits = Settings(body_seconds=settings.pop("seconds", 5.0), **settings)
    scope = {"extensions": {BODY: Coming(pieces)}}
    headers = {"content-type": kind, "content-length": str(size)}

    async def scenario() -> Any:
        with bodies.hold() as held:
            body = await take_body(scope, headers, never, held, limits)
            assert held.size == size
            return body

    try:
        return asyncio.run(scenario())
    finally:
        assert bodies.taken == 0


@pytest.mark.parametrize("padding", range(9))
@pytest.mark.parametrize("size", [1, 7, 8, 100_000])
def test_tensors_land_aligned(padding: int, size: int) -> None:
    x = np.arange(1000, dtype=np.float64)
    head, data = safetensors.pack({"inputs/x": x}, None, "request")
    header = bytes(head[8:]).rstrip() + b" " * padding  # other writers pad as they like, or not
    body = len(header).to_bytes(8, "little") + header + bytes(data)
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    whole = taken(pieces, len(body), BINARY)
    assert bytes(whole) == body
    (array,) = safetensors.unpack(whole, "request")[0].values()
    assert np.array_equal(array, x)
    assert array.ctypes.data % 64 == 0
    assert np.shares_memory(array, np.frombuffer(whole, np.uint8))


@pytest.mark.parametrize("body", [b"", b"abc", b"\xff" * 8, b"\xff" * 30])
def test_a_body_that_is_no_tensor_file_arrives_too(body: bytes) -> None:
    assert bytes(taken([body] if body else [], len(body), BINARY)) == body
    assert bytes(taken([body] if body else [], len(body), "application/json")) == body


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 10**6])
@pytest.mark.parametrize("start", [0, 8, 13, 2**63])
def test_memory_is_aligned_from_where_it_matters(size: int, start: int) -> None:
    view = spacious(size, start)
    assert len(view) == size
    if size:
        address = np.frombuffer(view, np.uint8).ctypes.data
        assert (address + start) % 64 == 0


def test_a_client_that_leaves_gives_its_memory_back() -> None:
    with pytest.raises(Disconnected):
        taken([b"x" * 100], 1000, "application/json")
    with pytest.raises(Disconnected):
        taken([b"xxx"], 1000, BINARY)


def test_a_client_that_rests_is_waited_for_as_long_as_the_rules_say() -> None:
    assert taken([b"x" * 60, b"", b"x" * 40], 100, "application/json", seconds=0.05) == b"x" * 100
    with pytest.raises(RequestTimeout) as refused:
        taken([b"x" * 10, *[b""] * 100], 100, "application/json", seconds=0.05)
    assert refused.value.received == 10


def test_one_that_trickles_is_not() -> None:
    async def scenario() -> None:
        coming = Coming([piece for _ in range(1000) for piece in (b"x", b"")])
        with Bodies(10_000).hold() as held, pytest.raises(RequestTimeout) as refused:
            await fill(coming, spacious(5000), held, 0.05)
        assert 0 < refused.value.received < 50

    asyncio.run(scenario())


def test_memory_and_sizes_have_their_bounds() -> None:
    with pytest.raises(Overloaded):
        taken([b"x" * 2000], 2000, "application/json", room=1500)
    with pytest.raises(PayloadTooLarge) as refused:
        taken([b"x" * 2000], 2000, "application/json", max_body_bytes=1024)
    assert (refused.value.limit, refused.value.actual) == (1024, 2000)


def test_paths_lead_to_their_resources() -> None:
    paths = Paths(ROUTES)
    for path, template, places in [
        ("/", "/", {}),
        ("/v1/sessions", "/v1/sessions", {}),
        ("/v1/sessions/a b", "/v1/sessions/{sid}", {"sid": "a b"}),
        ("/v1/sessions/m/nodes", "/v1/sessions/{sid}/nodes", {"sid": "m"}),
        (
            "/v1/sessions/m/values/a/b/data",
            "/v1/sessions/{sid}/values/{ref:path}",
            {"sid": "m", "ref": "a/b/data"},
        ),
    ]:
        found = paths.find(path)
        assert found is not None
        assert (found[0].path, found[1]) == (template, places)
    for path in ("", "/v1", "/v1/sessions/", "/v1/sessions/m/", "/healthz/", "/v1/sessions/m/nope"):
        assert paths.find(path) is None


def test_all_come_home_however_many_at_once() -> None:
    async def scenario() -> None:
        homecoming = Homecoming()
        loop = asyncio.get_running_loop()
        waiters = [loop.create_future() for _ in range(2000)]
        waiters[7].cancel()

        def settle(waiter: asyncio.Future[None]) -> None:
            if not waiter.done():
                waiter.set_result(None)

        def announce(first: int) -> None:
            for waiter in waiters[first::4]:
                homecoming.announce(partial(settle, waiter))

        threads = [threading.Thread(target=announce, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        await asyncio.wait(waiters, timeout=60)
        assert all(waiter.done() for waiter in waiters)
        for thread in threads:
            thread.join()

    asyncio.run(scenario())
