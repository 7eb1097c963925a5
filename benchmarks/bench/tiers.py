"""How soon answers come: overhead of a call, first answers, compiled code, waiting while compiling.

Every function here runs in a fresh process (`probe`). Caches are folders made for the purpose;
objects in them are counted to see what was compiled.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradwire_engine as gw

from . import probe
from .cases import draw, find
from .graphs import mixed, mixed_request, mixed_tensors
from .peers import ours
from .turns import median

CACHE_VARIABLE = "GRADWIRE_CACHE_DIR"
"""Where the engine keeps compiled code."""

NODES = 50
NEW_GRAPHS = 12
WAIT_SECONDS = 60.0
IDLE_SECONDS = 3.0
PAUSE_SECONDS = 0.001


def measure(tier: str, threads: int, seed: int) -> dict[str, Any]:
    """Every figure of this module; those of the compiled tier only when `tier` is that one."""

    def ask(function: str, cache: str, **arguments: Any) -> Any:
        return probe.run(f"tiers:{function}", arguments, threads, {CACHE_VARIABLE: cache})

    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as other:
        found: dict[str, Any] = {
            "tiny_call": ask("tiny_call", cache, tier=tier, seed=seed),
            "first_answer": ask("first_answer", cache),
        }
        if tier == "compiled":
            found["ready_cold"] = ask("ready", other)
            found["ready_warm"] = ask("ready", other)
            found["during_compile"] = ask("during_compile", cache)
            with tempfile.TemporaryDirectory() as empty:
                found["compiles"] = ask("compiles", empty)
    return found


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def tiny_call(tier: str, seed: int) -> dict[str, float]:
    """The 20-op graph on 16 elements, forward: microseconds of the public call."""
    case = find("round", "h_tiny_20ops_16")
    server = ours.Ours(tier)
    prepared = server.prepare(case, "forward")
    given = ours.tensors("forward", draw(case, seed, (16,)))
    seconds = _timed(prepared, given, 3000)
    return {"median_us": median(seconds) * 1e6, "p99_us": _quantile(seconds, 0.99) * 1e6}


def _timed(prepared: Any, given: Mapping[str, Any], count: int) -> list[float]:
    for _ in range(200):
        prepared.execute(given)
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        prepared.execute(given)
        seconds.append(time.perf_counter() - started)
    return seconds


def first_answer() -> dict[str, float]:
    """New graphs in a process that has answered before: milliseconds to the first answer."""
    engine, given, spec = gw.Engine(), mixed_tensors(), mixed_request("forward", "auto")
    seconds = []
    for order in range(NEW_GRAPHS):
        graph = mixed(NODES, order)
        started = time.perf_counter()
        engine.prepare(graph, spec).execute(given)
        seconds.append(time.perf_counter() - started)
    first, *rest = seconds
    return {
        "median_ms": median(rest) * 1e3,
        "worst_ms": max(rest) * 1e3,
        "process_first_ms": first * 1e3,
    }


def ready() -> dict[str, Any]:
    """Seconds until a new graph's compiled code has answered, with the cache as it is."""
    engine, given = gw.Engine(), mixed_tensors()
    graph = mixed(NODES, 0)
    started = time.perf_counter()
    result = engine.prepare(graph, mixed_request("forward", "compiled")).execute(given)
    return {"seconds": time.perf_counter() - started, "tier": result.tier}


def during_compile() -> dict[str, float]:
    """Small requests, one each millisecond: alone, and while new graphs are being compiled."""
    engine, given = gw.Engine(), mixed_tensors()
    small = engine.prepare(mixed(5, 0), mixed_request("forward", "compiled"))
    _timed(small, given, 100)

    def request() -> float:
        time.sleep(PAUSE_SECONDS)
        started = time.perf_counter()
        small.execute(given)
        return time.perf_counter() - started

    idle: list[float] = []
    end = time.perf_counter() + IDLE_SECONDS
    while time.perf_counter() < end:
        idle.append(request())
    busy: list[float] = []
    for order in range(100, 103):
        new = engine.prepare(mixed(NODES, order), mixed_request("vjp", "auto"))
        full = {**given, "cotangents/y": given["inputs/x"]}
        end = time.perf_counter() + WAIT_SECONDS
        while new.execute(full).tier != "compiled" and time.perf_counter() < end:
            busy += [request() for _ in range(100)]
    return {
        "idle_p50_us": median(idle) * 1e6,
        "idle_p99_us": _quantile(idle, 0.99) * 1e6,
        "compiling_p50_us": median(busy) * 1e6,
        "compiling_p99_us": _quantile(busy, 0.99) * 1e6,
        "compiling_worst_us": max(busy) * 1e6,
        "requests": len(busy),
    }


def compiles() -> dict[str, int]:
    """Objects compiled for one graph, for 99 that differ in constants, and for other batches."""
    engine, cache = gw.Engine(), Path(os.environ[CACHE_VARIABLE])

    def objects() -> int:
        return sum(path.is_file() for path in cache.rglob("*"))

    def run(constant: float, seed: int, batch: int = 16) -> None:
        for mode in ("forward", "vjp"):
            given = mixed_tensors(batch)
            if mode == "vjp":
                given["cotangents/y"] = given["inputs/x"]
            graph = mixed(NODES, 0, constant, seed, batch)
            engine.prepare(graph, mixed_request(mode, "compiled")).execute(given)

    run(0.5, 1)
    first = objects()
    for i in range(99):
        run(0.51 + i / 100, 2 + i)
    constants = objects() - first
    for batch in (1, 7, 33, 100):
        run(0.5, 1, batch)
    return {
        "first_graph": first,
        "99_other_constants": constants,
        "4_other_batches": objects() - first - constants,
    }
