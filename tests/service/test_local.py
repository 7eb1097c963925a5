"""The in-process transport: the real app, many threads, and an end."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from importlib import metadata

import httpx
import pytest

from gradwire_service.local import LocalTransport, transport
from gradwire_service.settings import Settings


def test_it_is_the_entry_point_that_clients_look_for() -> None:
    (entry,) = metadata.entry_points(group="gradwire.local")
    assert entry.load() is transport


def test_two_transports_share_nothing() -> None:
    one, two = transport(), transport()
    with (
        httpx.Client(transport=one, base_url="http://a") as first,
        httpx.Client(transport=two, base_url="http://b") as second,
    ):
        assert first.post("/v1/sessions", json={"name": "m", "inputs": []}).status_code == 201
        assert first.get("/v1/sessions/m").status_code == 200
        assert second.get("/v1/sessions/m").status_code == 404


def test_many_threads_may_use_it() -> None:
    shared = transport()
    with httpx.Client(transport=shared, base_url="http://local") as client:
        made: list[int] = []

        def create() -> None:
            body: dict[str, list[str]] = {"inputs": []}
            made.extend(client.post("/v1/sessions", json=body).status_code for _ in range(10))

        threads = [threading.Thread(target=create) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert made == [201] * 80


def serving() -> set[threading.Thread]:
    """The threads of local services; other tests have some of their own."""
    return {thread for thread in threading.enumerate() if thread.name == "gradwire-local"}


def test_closing_ends_its_thread_and_its_service() -> None:
    before = serving()
    local = LocalTransport(Settings())
    client = httpx.Client(transport=local, base_url="http://local")
    client.get("/healthz")
    assert len(serving() - before) == 1
    client.close()
    local.close()
    assert serving() <= before
    with pytest.raises(httpx.ConnectError, match="closed"):
        httpx.Client(transport=local, base_url="http://local").get("/healthz")


def test_forgetting_it_ends_its_thread_too() -> None:
    before = serving()
    client = httpx.Client(transport=transport(), base_url="http://local")
    client.get("/healthz")
    assert len(serving() - before) == 1
    del client
    gc.collect()
    for thread in serving() - before:
        thread.join(10)
    assert serving() <= before


def test_a_program_may_end_without_closing_it() -> None:
    code = (
        "import gradwire as gw; g = gw.local().session({'x': (2,)}); "
        "print(g.function(g.x.sum())(x=[1, 2]))"
    )
    # Not `-X dev`: asyncio would then say which callbacks took 0.1 s, which a busy machine decides.
    command = [sys.executable, "-W", "default", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3.0\n", "")


def test_bodies_may_come_in_chunks() -> None:
    with httpx.Client(transport=transport(), base_url="http://local") as client:
        body = iter([b'{"inputs"', b": []}"])
        headers = {"Content-Type": "application/json"}
        assert client.post("/v1/sessions", content=body, headers=headers).status_code == 201
