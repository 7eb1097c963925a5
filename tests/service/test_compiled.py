"""The compiled tier over HTTP: runs say which tier ran, and `/metrics` counts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gradwire_engine.codegen.programs import jit_is_off
from gradwire_service.local import LocalTransport
from gradwire_service.settings import Settings


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    transport = LocalTransport(Settings(compile=True))
    with httpx.Client(transport=transport, base_url="http://local", timeout=200) as client:
        yield client


def execute(http: httpx.Client, **options: Any) -> httpx.Response:
    x = {"dtype": "float64", "shape": [3], "data": [0.0, 0.5, 1.0]}
    program = {
        "inputs": [{"name": "x", "shape": [3], "dtype": "float64"}],
        "nodes": [{"op": "square", "inputs": ["x"]}, {"op": "sum", "inputs": [1]}],
        "run": {"mode": "forward", "inputs": {"x": x}, **options},
    }
    return http.post("/v1/execute", json=program)


def samples(http: httpx.Client) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {(s.name, *s.labels.values()): s.value for f in families for s in f.samples}


def test_runs_say_which_tier_ran(http: httpx.Client) -> None:
    compiled = execute(http, tier="compiled")
    assert compiled.headers["gradwire-tier"] == "compiled"
    assert compiled.json()["outputs"]["2"]["data"] == [1.25]
    interpreted = execute(http, tier="interpreted")
    assert interpreted.headers["gradwire-tier"] == "interpreted"
    counted = samples(http)
    assert counted["gradwire_runs_total", "compiled"] == 1
    assert counted["gradwire_runs_total", "interpreted"] == 1
    assert counted["gradwire_kernels_total", "failed"] == 0
    assert ("gradwire_kernel_seconds_total",) in counted


@pytest.mark.skipif(jit_is_off(), reason="only `tier: compiled` runs kernels as Python functions")
def test_auto_is_upgraded(http: httpx.Client) -> None:
    assert execute(http).headers["gradwire-tier"] == "interpreted"
    until = time.monotonic() + 200
    while execute(http).headers["gradwire-tier"] != "compiled":
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_deadline_while_the_compiler_works(http: httpx.Client) -> None:
    answer = execute(http, tier="compiled", deadline_ms=0)
    assert answer.status_code == 504
    assert answer.json()["code"] == "deadline_exceeded"
