"""The guards one by one: turns in the pool, ends of runs, buckets, bodies, pages of strangers."""

from __future__ import annotations

import asyncio
import gzip
import os
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from gradwire_engine import Builder, Engine, Entry, Input, RunSpec, TransformSpec, Type
from gradwire_engine.errors import DeadlineExceeded
from gradwire_engine.prepared import Prepared
from gradwire_service.access import Access
from gradwire_service.bodies import Bodies, encoding_of, expand, paced, zstd
from gradwire_service.errors import (
    Forbidden,
    MalformedBody,
    Overloaded,
    PayloadTooLarge,
    RateLimited,
    RequestTimeout,
    UnsupportedMediaType,
)
from gradwire_service.local import LocalTransport
from gradwire_service.pool import Job, Pool
from gradwire_service.settings import Settings, is_loopback
from gradwire_service.stop import Stop
from gradwire_service.throttle import Throttle
from tests.service.serving import problem

# -- the pool --------------------------------------------------------------------------------------


class Work:
    """Jobs that wait for a gate, and the order in which they were done."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.done: list[str] = []

    def of(self, name: str) -> Callable[[], str]:
        def work() -> str:
            assert self.gate.wait(60)
            self.done.append(name)
            return name

        return work


@pytest.fixture
def pools() -> Iterator[Callable[..., Pool]]:
    made: list[Pool] = []

    def make(threads: int, queue: int, **more: Any) -> Pool:
        made.append(Pool(threads, queue, "test", **more))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


def submit(pool: Pool, work: Work, *names: str) -> list[Job[str]]:
    """A job for each name; the owner is its first letter."""
    return [pool.submit(name[0], work.of(name), Stop()) for name in names]


async def results(jobs: list[Job[str]]) -> list[str]:
    return [await asyncio.wait_for(job.result, 60) for job in jobs]


def test_a_full_pool_refuses_at_once_and_recovers(pools: Callable[..., Pool]) -> None:
    async def scenario() -> None:
        pool, work = pools(1, 1), Work()
        jobs = submit(pool, work, "a1", "a2")
        assert [job.waiting for job in jobs] == [False, True]
        with pytest.raises(Overloaded, match="2 requests are under way or waiting"):
            submit(pool, work, "a3")
        work.gate.set()
        assert await results(jobs) == ["a1", "a2"]
        assert await results(submit(pool, work, "a4")) == ["a4"]

    asyncio.run(scenario())


def test_owners_take_turns(pools: Callable[..., Pool]) -> None:
    async def scenario() -> None:
        pool, work = pools(1, 20), Work()
        jobs = submit(pool, work, "a1", "a2", "a3", "a4", "a5", "b1", "b2", "c1")
        work.gate.set()
        await results(jobs)
        assert work.done == ["a1", "a2", "b1", "c1", "a3", "b2", "a4", "a5"]

    asyncio.run(scenario())


def test_one_owner_gets_its_share_of_threads_and_queue(pools: Callable[..., Pool]) -> None:
    async def scenario() -> None:
        pool, work = pools(2, 8, per_owner=1, queue_per_owner=2), Work()
        jobs = submit(pool, work, "a1", "a2", "a3")
        assert (pool.running, pool.waiting) == (1, 2)
        with pytest.raises(RateLimited) as refused:
            submit(pool, work, "a4")
        assert (refused.value.limit, refused.value.retry_after) == (2, 1)
        jobs += submit(pool, work, "b1")
        assert pool.running == 2, "the other thread was free for another owner"
        work.gate.set()
        await results(jobs)
        await asyncio.to_thread(pool.close)
        assert (pool.running, pool.waiting) == (0, 0)

    asyncio.run(scenario())


def test_a_thread_that_went_idle_at_a_bound_is_used_again(pools: Callable[..., Pool]) -> None:
    """After a's job its thread serves b; a's next job needs the thread that had nothing to do."""

    async def scenario() -> None:
        pool, work, second = pools(2, 8, per_owner=1), Work(), Work()
        jobs = submit(pool, work, "a1")
        jobs += submit(pool, second, "b1")
        later = submit(pool, second, "b2", "b3")
        later += submit(pool, work, "a2", "a3")
        work.gate.set()  # b's jobs still wait for theirs
        assert await results([*jobs[:1], *later[2:]]) == ["a1", "a2", "a3"]
        second.gate.set()
        await results(later)
        assert second.done == ["b1", "b2", "b3"]

    asyncio.run(scenario())


def test_a_job_leaves_the_queue_when_nobody_waits(pools: Callable[..., Pool]) -> None:
    async def scenario() -> None:
        pool, work = pools(1, 1), Work()
        running, queued = submit(pool, work, "a1", "a2")
        pool.withdraw(queued, KeyError("gone"))
        with pytest.raises(KeyError):
            await queued.result
        assert pool.waiting == 0
        (next_one,) = submit(pool, work, "b1")
        pool.withdraw(running, KeyError("gone"))
        assert running.stop.over
        work.gate.set()
        assert await results([next_one]) == ["b1"]
        assert work.done == ["a1", "b1"], "one that runs can only stop by itself"

    asyncio.run(scenario())


def test_a_job_whose_time_is_up_is_not_begun(pools: Callable[..., Pool]) -> None:
    async def scenario() -> None:
        pool, work = pools(1, 4), Work()
        (first,) = submit(pool, work, "a1")
        late = pool.submit("a", work.of("late"), Stop(seconds=0.0))
        work.gate.set()
        await results([first])
        with pytest.raises(DeadlineExceeded):
            await late.result
        assert work.done == ["a1"]

    asyncio.run(scenario())


def test_faults_come_through(pools: Callable[..., Pool]) -> None:
    async def scenario() -> None:
        def fail() -> None:
            raise LookupError("mine")

        with pytest.raises(LookupError, match="mine"):
            await pools(1, 0).submit("a", fail, Stop()).result

    asyncio.run(scenario())


def test_what_to_wait_is_judged_by_what_it_took(pools: Callable[..., Pool]) -> None:
    async def scenario() -> None:
        pool, work = pools(1, 1), Work()
        pool._mean = 40.0
        jobs = submit(pool, work, "a1", "a2")
        with pytest.raises(Overloaded) as refused:
            submit(pool, work, "a3")
        assert refused.value.retry_after == 30
        pool._mean = 2.0
        with pytest.raises(Overloaded) as refused:
            submit(pool, work, "a3")
        assert refused.value.retry_after == 4
        work.gate.set()
        await results(jobs)

    asyncio.run(scenario())


# -- the end of a run ------------------------------------------------------------------------------


class Patience(Stop):
    """A stop that is over when it has been asked so often."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    @property
    def over(self) -> bool:
        self.left -= 1
        return self.left < 0


def prepared(length: int) -> Prepared:
    builder = Builder((Input("x", Type((2,))),))
    builder.append([Entry("tanh" if k % 2 else "sin", (k,)) for k in range(length)])
    spec = RunSpec(mode="forward", inputs=("x",), tier="interpreted")
    return Engine().prepare(builder.graph(), spec)


def test_a_run_stops_between_the_steps_of_its_plan() -> None:
    x = {"inputs/x": np.ones(2, np.float32)}
    whole = prepared(50).execute(x, Stop().deadline())
    free = prepared(50).execute(x)
    for path, array in whole.results.items():
        np.testing.assert_array_equal(array, free.results[path])
    stop = Patience(10)
    with pytest.raises(DeadlineExceeded):
        prepared(50).execute(x, stop.deadline())
    assert stop.left == -1, "it was not asked again"


def test_a_run_stops_between_its_transforms() -> None:
    graph = prepared(5).question.graph
    spec = RunSpec(mode="forward", transforms=(TransformSpec("jvp"),) * 6, tier="interpreted")
    stop = Patience(3)
    with pytest.raises(DeadlineExceeded):
        Engine().prepare(graph, spec, stop.deadline())
    assert stop.left == -1, "three were derived, and no more after the fourth"


def test_an_abandoned_run_ends() -> None:
    stop = Stop()
    stop.abandon()
    with pytest.raises(DeadlineExceeded):
        prepared(3).execute({"inputs/x": np.ones(2, np.float32)}, stop.deadline())


def test_time_in_the_queue_counts() -> None:
    stop = Stop(seconds=100.0)
    stop.within(20)
    time.sleep(0.03)
    with pytest.raises(DeadlineExceeded) as late:
        prepared(3).execute({"inputs/x": np.ones(2, np.float32)}, stop.deadline())
    assert late.value.deadline_ms == 20
    assert isinstance(late.value.deadline_ms, int)


# -- buckets ---------------------------------------------------------------------------------------


def test_a_bucket_fills_at_its_rate() -> None:
    now = 0.0
    throttle = Throttle(2.0, clock=lambda: now)
    for _ in range(4):
        throttle.take("a")
    with pytest.raises(RateLimited) as refused:
        throttle.take("a")
    assert (refused.value.limit, refused.value.retry_after) == (2.0, 1)
    throttle.take("b")
    now = 0.5
    throttle.take("a")
    with pytest.raises(RateLimited):
        throttle.take("a")
    now = 100.0
    for _ in range(4):
        throttle.take("a")
    with pytest.raises(RateLimited):
        throttle.take("a")


def test_a_slow_rate_says_how_long() -> None:
    throttle = Throttle(0.1, clock=lambda: 0.0)
    throttle.take("a")
    with pytest.raises(RateLimited) as refused:
        throttle.take("a")
    assert refused.value.retry_after == 10
    Throttle(None).take("a")


def test_full_buckets_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradwire_service.throttle._MANY", 10)
    now = 0.0
    throttle = Throttle(1.0, clock=lambda: now)
    for k in range(20):
        throttle.take(str(k))
        now += 1.0
    assert len(throttle._buckets) <= 11


# -- bodies ----------------------------------------------------------------------------------------

LIMITS: dict[str, Any] = {"limit": 50 * 2**20, "expansion": 100}


def expanded(body: bytes, encoding: str, room: int = 2**30, **limits: Any) -> bytes:
    with Bodies(room).hold() as held:
        return bytes(expand(body, encoding, held, Stop(), **{**LIMITS, **limits}))


def zstd_compressed(data: bytes, **options: int) -> bytes:
    chosen = {getattr(zstd.CompressionParameter, name): value for name, value in options.items()}
    return zstd.compress(data, options=chosen)


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "zstd": zstd_compressed,
}


@pytest.mark.parametrize("encoding", sorted(COMPRESS))
def test_bodies_are_decompressed(encoding: str) -> None:
    compress = COMPRESS[encoding]
    noise = np.random.default_rng(0).bytes(3_000_000)
    for data in (b"", b"{}", noise, b"0" * 1_000_000):
        assert expanded(compress(data), encoding) == data
    assert expanded(compress(b"one ") + compress(b"") + compress(b"two"), encoding) == b"one two"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_body_that_is_not_what_it_says_is_malformed(encoding: str) -> None:
    whole = COMPRESS[encoding](np.random.default_rng(0).bytes(100_000))
    spoilt = bytearray(whole)
    spoilt[5000] ^= 255
    faults = [b"", whole[:-1], whole[:20], b"{}", whole + b"rest", bytes(spoilt)]
    for body in faults[:-1] if encoding == "zstd" else faults:  # zstd has a checksum if asked
        with pytest.raises(MalformedBody, match=encoding):
            expanded(body, encoding)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_bomb_is_refused_before_it_has_gone_off(encoding: str) -> None:
    bomb = COMPRESS[encoding](bytes(40 * 2**20))
    assert len(bomb) < 50_000
    with pytest.raises(PayloadTooLarge) as refused:
        expanded(bomb, encoding)
    bound = max(2**20, 100 * len(bomb))
    assert refused.value.limit == bound
    assert bound < refused.value.actual <= bound + 2**20
    assert len(expanded(bomb, encoding, expansion=100_000)) == 40 * 2**20
    with pytest.raises(PayloadTooLarge) as refused:
        expanded(bomb, encoding, expansion=100_000, limit=10_000_000)
    assert refused.value.limit == 10_000_000
    with pytest.raises(Overloaded):
        expanded(bomb, encoding, expansion=100_000, room=5_000_000)


def test_a_frame_may_not_ask_for_a_window_of_gigabytes() -> None:
    noise = np.random.default_rng(0).bytes(1000)
    assert expanded(zstd_compressed(noise, window_log=27), "zstd") == noise
    # A frame of unknown size with a window of 2^31 bytes, as `zstd --long=31` makes them.
    frame = bytes.fromhex("28b52ffd00a8") + bytes.fromhex("010000")
    with pytest.raises(MalformedBody, match="zstd"):
        expanded(frame, "zstd")


def test_members_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradwire_service.bodies._MEMBERS", 10)
    with pytest.raises(MalformedBody, match="more than 10"):
        expanded(gzip.compress(b"") * 11, "gzip")


def test_decompression_stops_when_it_is_told_to() -> None:
    stop = Stop()
    stop.abandon()
    with Bodies(100).hold() as held, pytest.raises(DeadlineExceeded):
        expand(zlib.compress(b"", wbits=31), "gzip", held, stop, **LIMITS)


@pytest.mark.parametrize(
    ("given", "found"),
    [(None, None), ("", None), ("identity", None), (" GZIP ", "gzip"), ("zstd", "zstd")],
)
def test_encodings(given: str | None, found: str | None) -> None:
    assert encoding_of({} if given is None else {"content-encoding": given}) == found


@pytest.mark.parametrize("given", ["br", "deflate", "gzip, gzip", "gzip;q=1", "identity, gzip"])
def test_other_encodings_are_refused(given: str) -> None:
    with pytest.raises(UnsupportedMediaType) as refused:
        encoding_of({"content-encoding": given})
    assert refused.value.expected == ["gzip", "zstd", "identity"]


def slowly(*pauses: float, size: int = 10) -> Any:
    source = iter(pauses)

    async def receive() -> MutableMapping[str, Any]:
        await asyncio.sleep(next(source))
        return {"type": "http.request", "body": b"x" * size, "more_body": True}

    return receive


def test_a_slow_body_is_given_up() -> None:
    async def scenario() -> None:
        with Bodies(1000).hold() as held:
            receive = paced(slowly(0, 0, 600), held, 0.05)
            await receive()
            await receive()
            with pytest.raises(RequestTimeout) as refused:
                await receive()
            assert refused.value.received == 20
            assert refused.value.seconds > 0

    asyncio.run(scenario())


def test_a_body_that_trickles_is_given_up_too() -> None:
    async def scenario() -> None:
        with Bodies(10_000).hold() as held:
            receive = paced(slowly(*[0.02] * 1000, size=1), held, 0.3)

            async def all_of_it() -> None:
                while True:
                    await receive()

            with pytest.raises(RequestTimeout):
                await all_of_it()

    asyncio.run(scenario())


def test_a_large_body_has_more_time_while_it_comes() -> None:
    async def scenario() -> None:
        with Bodies(10**9).hold() as held:
            receive = paced(slowly(0, 600, 600, 600, size=10**6), held, 0.05)
            await receive()
            with pytest.raises(RequestTimeout) as refused:
                await receive()
            assert refused.value.seconds >= 0.1, "one more round, for what had come"

    asyncio.run(scenario())


def test_bodies_share_a_bounded_memory() -> None:
    bodies = Bodies(100)
    with bodies.hold() as one, bodies.hold() as two:
        one.grow(60)
        two.grow(40)
        with pytest.raises(Overloaded):
            two.grow(1)
        assert bodies.taken == 100
    assert bodies.taken == 0


# -- pages of strangers ----------------------------------------------------------------------------

HERE = ("127.0.0.1", 8000)


def asked(
    *headers: tuple[str, str], server: tuple[str, int | None] | None = HERE, **settings: Any
) -> None:
    """What a server without keys says to a request."""
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    access = Access(Settings(**settings), list)
    for _ in range(2):  # what was accepted once is remembered
        access.check_page({"headers": raw, "server": server})


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1:8000", "localhost", "LOCALHOST:1", "localhost.", "gw.localhost:3"),
        *("[::1]:8000", "[0:0:0:0:0:0:0:1]", "127.255.0.1", "[::ffff:127.0.0.1]:8"),
    ],
)
def test_loopback_names_are_answered(host: str) -> None:
    asked(("host", host))


@pytest.mark.parametrize(
    "host",
    [
        *("", "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io"),
        *(
            "192.168.0.7:8000",
            "[fe80::1]",
            "0.0.0.0",
            "x@localhost",
            "localhost:8000:1",
            "local host",
        ),
        *("127.1", "2130706433", "0x7f000001", "[::1", "::1", "localhost/", "localhost#", "é"),
    ],
)
def test_other_names_are_not(host: str) -> None:
    with pytest.raises(Forbidden) as refused:
        asked(("host", host))
    assert (refused.value.header, refused.value.value) == ("Host", host)
    assert "GRADWIRE_HOSTS" in refused.value.message


def test_one_host_and_no_more() -> None:
    with pytest.raises(Forbidden):
        asked()
    with pytest.raises(Forbidden):
        asked(("host", "localhost"), ("host", "evil.example"))


def test_hosts_that_are_listed_or_bound() -> None:
    asked(("host", "GW.example:80"), hosts=("gw.example",))
    asked(("host", "10.0.0.5:8000"), host="0.0.0.0", keys="off", server=("10.0.0.5", 8000))
    asked(("host", "0.0.0.0:8000"), host="0.0.0.0", keys="off", server=("10.0.0.5", 8000))
    with pytest.raises(Forbidden):
        asked(("host", "10.0.0.6"), host="0.0.0.0", keys="off", server=("10.0.0.5", 8000))
    with pytest.raises(Forbidden, match="loopback names only"):
        asked(("host", "10.0.0.5"), server=("10.0.0.5", 8000))
    asked(("host", "anything"), server=None)  # no network in between
    asked(("host", "anything"), server=("/run/gradwire.sock", None))


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://LOCALHOST:8000", "localhost:8000"),
        ("http://localhost", "localhost"),
        ("http://localhost", "localhost:80"),
        ("https://localhost", "localhost:443"),
        ("http://[::1]:8000", "[::1]:8000"),
    ],
)
def test_pages_of_this_server_may_use_it(origin: str, host: str) -> None:
    asked(("host", host), ("origin", origin))


@pytest.mark.parametrize(
    "origin",
    [
        *("http://evil.example", "https://evil.example:8000", "null", "", "http://localhost:3000"),
        *("http://127.0.0.1:8000", "file://", "localhost:8000", "http://localhost:8000/"),
        *("http://localhost:8000@evil", "ftp://localhost:8000", "http://localhost", "é"),
    ],
)
def test_other_pages_may_not(origin: str) -> None:
    with pytest.raises(Forbidden) as refused:
        asked(("host", "localhost:8000"), ("origin", origin))
    assert (refused.value.header, refused.value.value) == ("Origin", origin)


def test_pages_that_are_listed_may() -> None:
    allowed: dict[str, Any] = {"cors_origins": ("https://app.example",)}
    host = ("host", "localhost")
    asked(host, ("origin", "https://app.example"), **allowed)
    with pytest.raises(Forbidden):
        asked(host, ("origin", "https://app.example"), ("origin", "http://evil"), **allowed)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *(("127.0.0.1", True), ("127.9.9.9", True), ("localhost", True), ("::1", True)),
        *(("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("example.org", False)),
        *(("", False), ("::ffff:127.0.0.1", True), ("::ffff:10.0.0.1", False)),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    assert Settings(host=host).needs_keys is not loopback
    assert not Settings(host=host, keys="off").needs_keys
    assert Settings(host=host, keys="required").needs_keys


def test_defaults_follow_the_keys() -> None:
    alone, shared = Settings(queue=7), Settings(queue=7, keys="required")
    assert (alone.owner_rate, alone.owner_queue) == (None, 7)
    assert (shared.owner_rate, shared.owner_queue) == (1000.0, 4)
    chosen = Settings(keys="required", requests_per_second=5, queue_per_owner=0)
    assert (chosen.owner_rate, chosen.owner_queue) == (5, 0)


# -- cross-origin requests -------------------------------------------------------------------------

APP = "https://app.example"
ASKING = {
    "Origin": APP,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type, idempotency-key",
}


@pytest.fixture
def pages() -> Iterator[Callable[..., httpx.Client]]:
    made: list[LocalTransport] = []

    def make(**settings: Any) -> httpx.Client:
        made.append(LocalTransport(Settings(**settings)))
        return httpx.Client(transport=made[-1], base_url="http://local")

    yield make
    for transport in made:
        transport.close()


def allowed(answer: httpx.Response) -> dict[str, str]:
    return {
        name.removeprefix("access-control-"): value
        for name, value in answer.headers.items()
        if name.startswith("access-control-")
    }


@pytest.mark.parametrize("keys", ["off", "required"])
def test_pages_are_told_nothing_unless_they_are_listed(
    pages: Callable[..., httpx.Client], keys: str
) -> None:
    http = pages(keys=keys)
    for answer in (
        http.options("/v1/sessions", headers=ASKING),
        http.get("/v1/ops", headers={"Origin": APP}),
    ):
        assert answer.status_code == (403 if keys == "off" else 401)
        assert allowed(answer) == {}


@pytest.mark.parametrize("keys", ["off", "required"])
def test_a_listed_page_is_answered(pages: Callable[..., httpx.Client], keys: str) -> None:
    http = pages(keys=keys, cors_origins=(APP, "http://other.example"))
    answer = http.options("/v1/sessions", headers=ASKING)
    assert answer.status_code == 200
    told = allowed(answer)
    assert told["allow-origin"] == APP
    assert "PUT" in told["allow-methods"]
    assert {"authorization", "idempotency-key", "if-match"} <= {
        name.strip().lower() for name in told["allow-headers"].split(",")
    }
    assert int(told["max-age"]) > 0
    assert "allow-credentials" not in told
    assert "Origin" in answer.headers["vary"]

    # Refusals can be read by the page as well.
    for path in ("/v1/ops", "/v1/sessions/nobody", "/nowhere"):
        answer = http.get(path, headers={"Origin": APP})
        assert allowed(answer)["allow-origin"] == APP
        assert "Retry-After" in allowed(answer)["expose-headers"]
        assert "Origin" in answer.headers["vary"]


def test_preflights_are_seen_as_all_else_is(pages: Callable[..., httpx.Client]) -> None:
    http = pages(cors_origins=(APP,))
    evil = {**ASKING, "Origin": "http://evil.example"}
    for path, asking, status in (
        ("/v1/sessions", {**ASKING, "X-Request-Id": "mine"}, 200),
        ("/v1/ops", evil, 400),
        ("/nowhere", ASKING, 200),
    ):
        answer = http.options(path, headers=asking)
        assert answer.status_code == status
        assert answer.headers["x-request-id"] == asking.get(
            "X-Request-Id", answer.headers["x-request-id"]
        )
    counted = http.get("/metrics").text
    for route, status in (("/v1/sessions", 200), ("/v1/ops", 400), ("none", 200)):
        labels = f'code="",method="other",route="{route}",status="{status}"'
        assert f"gradwire_requests_total{{{labels}}} 1.0" in counted


def test_other_pages_get_no_permission(pages: Callable[..., httpx.Client]) -> None:
    http = pages(cors_origins=(APP,))
    evil = {"Origin": "http://evil.example"}
    answer = http.options("/v1/sessions", headers={**ASKING, **evil})
    assert not answer.is_success
    assert "allow-origin" not in allowed(answer)
    answer = http.get("/v1/ops", headers=evil)
    assert problem(answer, "forbidden")["header"] == "Origin"
    assert "allow-origin" not in allowed(answer)


def test_any_page_may_come_with_a_key(pages: Callable[..., httpx.Client]) -> None:
    http = pages(keys="required", cors_origins=("*",))
    assert allowed(http.options("/v1/ops", headers=ASKING))["allow-origin"] == "*"
    answer = http.get("/v1/ops", headers={"Origin": "http://anywhere.example"})
    problem(answer, "unauthenticated")
    assert allowed(answer)["allow-origin"] == "*"


def test_nothing_is_loaded_when_the_first_chore_is_done(tmp_path: Path) -> None:
    """To load a module on the loop holds up every request; the first chore is due after a while."""
    script = """
import asyncio, sys
import anyio
from gradwire_service.app import create_app

async def main():
    app = create_app()
    async with app.router.lifespan_context(app):
        before = set(sys.modules)
        await anyio.to_thread.run_sync(app.state.service.sessions.sweep)
        print(sorted(set(sys.modules) - before))

asyncio.run(main())
"""
    environment = {**os.environ, "GRADWIRE_DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "[]\n", done.stderr
