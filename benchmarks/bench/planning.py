"""How long it takes until a large graph can run: building it, checking the request, planning.

`plan` is what a first answer waits for: transforms, passes and the interpreted tier's plan.
`schedule` is what the compiled tier adds in the background: fusion, layouts, memory plan and the
source of every kernel; compiling is measured elsewhere (`tiers`).
"""

from __future__ import annotations

import math
import time
from typing import Any

import gradwire_engine as gw
from gradwire_engine.codegen.schedule import schedule
from gradwire_engine.passes import optimize
from gradwire_engine.program import build

from . import probe
from .graphs import mixed, mixed_request, mixed_tensors
from .progress import progress

SIZES = (500, 1000, 2000, 4000)
WIDTH = 4
TRIES = 3


def measure(threads: int, tier: str, sizes: tuple[int, ...] = SIZES) -> dict[str, Any]:
    """Seconds by number of nodes, forward and VJP, and the exponents of their growth."""
    found: dict[str, Any] = {"sizes": list(sizes)}
    for mode in progress(("forward", "vjp"), "planning"):
        asked = {"mode": mode, "tier": tier, "threads": threads}
        rows = [probe.run("planning:plan", asked | {"nodes": n}, threads) for n in sizes]
        span = math.log(sizes[-1] / sizes[0])
        exponents = {
            key: math.log(rows[-1][key] / rows[0][key]) / span
            for key in ("total", "schedule")
            if rows[0][key] is not None
        }
        found[mode] = {"rows": rows, "exponents": exponents}
    return found


def plan(nodes: int, mode: str, tier: str, threads: int) -> dict[str, float | None]:
    """Seconds to build a graph, to prepare a request, and to transform, optimize and plan it.

    The best of a few tries, each with a new engine and a graph that it has not seen.
    """
    given = mixed_tensors(WIDTH, WIDTH)
    if mode == "vjp":
        given["cotangents/y"] = given["inputs/x"]
    found = []
    for order in range(TRIES):
        engine = gw.Engine(compile=False)
        started = time.perf_counter()
        graph = mixed(nodes, order, batch=WIDTH, width=WIDTH)
        built = time.perf_counter()
        prepared = engine.prepare(graph, mixed_request(mode, "interpreted"))
        ready = time.perf_counter()
        planned = prepared.execute(given).compile_ms / 1e3
        found.append(
            {
                "build": built - started,
                "prepare": ready - built,
                "plan": planned,
                "total": ready - started + planned,
            }
        )
    fastest = min(found, key=lambda row: row["total"])
    best: dict[str, float | None] = {**fastest, "schedule": None}
    if tier == "compiled":
        lowered = optimize(build(prepared.question, None).graph)
        started = time.perf_counter()
        schedule(lowered, threads)
        best["schedule"] = time.perf_counter() - started
    return best
