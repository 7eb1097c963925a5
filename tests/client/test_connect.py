"""How a client reaches its server: keys, patience, and what it shows of large transfers."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

import gradwire as gw
from gradwire._connection import _lost
from gradwire._progress import LARGE, measured

SIZE = LARGE // 4  # elements of float32


# -- keys ------------------------------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str | None]:
    """What the server of a client sees as its key."""
    monkeypatch.delenv("GRADWIRE_API_KEY", raising=False)

    def ask(**options: Any) -> str | None:
        seen: list[str | None] = []

        def answer(request: httpx.Request) -> httpx.Response:
            seen.append(request.headers.get("authorization"))
            return httpx.Response(200, json={})

        with gw.connect("http://test", transport=httpx.MockTransport(answer), **options) as client:
            client.limits()
        return seen[0]

    return ask


def test_a_key_is_shown_as_a_bearer(shown: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown() is None
    assert shown(api_key="gw_1_a") == "Bearer gw_1_a"
    monkeypatch.setenv("GRADWIRE_API_KEY", "gw_2_b")
    assert shown() == "Bearer gw_2_b"
    assert shown(api_key="gw_1_a") == "Bearer gw_1_a"
    assert shown(api_key="") is None
    assert shown(headers={"Authorization": "Basic x"}) == "Basic x"


@pytest.mark.parametrize("key", ["a b", "a\n", "ключ", "a\x00"])
def test_a_key_that_cannot_be_one(key: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII") as refused:
        gw.connect("http://test", api_key=key)
    assert key not in str(refused.value)
    with pytest.raises(ValueError, match="visible ASCII"):
        gw.connect_async("http://test", api_key=key)


def test_the_service_in_this_process_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADWIRE_API_KEY", "not a key")
    with gw.local() as client:
        assert client.limits()["rank"] == 32


# -- patience --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "how"),
    [
        (httpx.ConnectError("refused"), "unreached"),
        (httpx.ConnectTimeout("slow"), "unreached"),
        (httpx.PoolTimeout("busy"), "unreached"),
        (httpx.ReadTimeout("slow"), "timeout"),
        (httpx.WriteTimeout("slow"), "timeout"),
        (httpx.ReadError("reset"), "broken"),
        (httpx.RemoteProtocolError("gone"), "broken"),
    ],
)
def test_what_was_never_sent_may_be_sent_again(error: httpx.HTTPError, how: str) -> None:
    assert _lost(error, httpx.URL("http://test")).how == how


def test_connecting_has_a_patience_of_its_own() -> None:
    def patience(timeout: float | None) -> httpx.Timeout:
        with gw.connect("http://test", timeout=timeout) as client:
            return client._http.timeout

    assert patience(60) == httpx.Timeout(60, connect=10)
    assert patience(2) == httpx.Timeout(2)
    assert patience(None) == httpx.Timeout(None)


# -- progress --------------------------------------------------------------------------------------


class Meter:
    """A meter that remembers."""

    def __init__(self, what: str, size: int) -> None:
        self.what, self.size = what, size
        self.seen = 0.0
        self.closed = False

    def update(self, n: float = 1, /) -> None:
        assert not self.closed
        self.seen += n

    def close(self) -> None:
        self.closed = True


def test_large_transfers_are_measured_both_ways() -> None:
    meters: list[Meter] = []

    def new(what: str, size: int) -> Meter:
        meters.append(Meter(what, size))
        return meters[-1]

    with gw.local() as local:
        client = gw.Client(local._http, gw._connection.Config(progress=new))
        g = client.session({"x": (SIZE,)})
        f = g.function(-g.x)
        assert meters == []
        np.testing.assert_array_equal(f(x=np.ones(SIZE)), -np.ones(SIZE))
    assert [meter.what for meter in meters] == ["sending", "receiving"]
    for meter in meters:
        assert meter.closed
        assert meter.seen == meter.size > LARGE


def test_so_they_are_for_asyncio() -> None:
    meters: list[Meter] = []

    def new(what: str, size: int) -> Meter:
        meters.append(Meter(what, size))
        return meters[-1]

    async def answer(request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        return httpx.Response(200, content=body, headers=request.headers)

    async def scenario() -> None:
        transport = httpx.MockTransport(answer)
        async with gw.connect_async("http://test", progress=new, transport=transport) as client:
            with pytest.raises(gw.GradwireError):  # the echo is no answer to this
                await client.execute({"x": (SIZE,)}, [], feed={"x": np.ones(SIZE)})

    asyncio.run(scenario())
    assert [(m.what, m.seen == m.size, m.closed) for m in meters] == [
        ("sending", True, True),
        ("receiving", True, True),
    ]


def test_a_meter_is_closed_whatever_happens() -> None:
    made: list[Meter] = []

    def new(what: str, size: int) -> Meter:
        made.append(Meter(what, size))
        return made[-1]

    def break_off() -> None:
        with measured(new, "sending", LARGE) as count:
            count(5)
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert (made[0].seen, made[0].closed) == (5, True)
    with measured(new, "sending", LARGE - 1) as count:
        count(5)
    with measured(None, "sending", LARGE) as count:
        count(5)
    assert len(made) == 1


def test_the_bar_is_tqdms(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    with gw.connect("http://test", progress=True) as client:
        new = client._connection.config.progress
    assert new is not None
    meter = new("sending", 2**24)
    meter.update(2**23)
    meter.close()
    assert "sending" in capsys.readouterr().err


def test_without_tqdm_the_hint_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str, *arguments: Any) -> Any:
        if name == "tqdm":
            raise ImportError(name)
        return imported(name, *arguments)

    imported = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"gradwire\[progress\]"):
        gw.connect("http://test", progress=True)
