"""How much memory a run needs: the plan beside XLA's, and beside what a process really takes."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path
from typing import Any

import numpy as np

import gradwire_engine as gw
from gradwire_engine import RunSpec

from . import probe
from .cases import draw, find, select
from .child import ChildError
from .graphs import mixed, mixed_request, sample_mlp
from .peers import ours
from .progress import progress
from .speed import Settings, start

MEGABYTE = 1 << 20
GROWTH_FLOOR = 24 * MEGABYTE
"""Plans below this drown in what Python itself allocates."""

GROWTH_CASES = 8
LAYERS = (784, 512, 512, 10)


def measure(settings: Settings) -> dict[str, Any]:
    """Every case's planned peak beside JAX's; growth of fresh processes; growth with the data."""
    children, absent = start(settings)
    rows = []
    try:
        pairs = [(c, m) for c in select(settings.shapes, settings.cases) for m in settings.modes]
        for case, mode in progress(pairs, "memory plans"):
            row: dict[str, Any] = {"case": case.name, "mode": mode, "failed": {}}
            for name, child in children.items():
                try:
                    row[name] = child.ask("call", "memory", case.name, mode)
                except ChildError as error:
                    row["failed"][name] = str(error).strip().splitlines()[-1]
            row["ratio"] = row["ours"] / row["jax"] if {"ours", "jax"} <= row.keys() else None
            rows.append(row)
    finally:
        for child in children.values():
            child.stop()
    ratios = [row["ratio"] for row in rows if row["ratio"]]
    return {
        "rows": rows,
        "absent": absent,
        "geometric_mean": math.exp(np.mean(np.log(ratios))) if ratios else None,
        "growth": _growths(rows, settings),
        "reduced": probe.run("memory:reduced", {"tier": settings.tier}, settings.threads),
        "linear": probe.run("memory:linear", {"tier": settings.tier}, settings.threads),
    }


def _growths(rows: list[dict[str, Any]], settings: Settings) -> list[dict[str, Any]]:
    """Plan and growth of the cases with the largest plans, one of each case."""
    large: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda r: -r.get("ours", 0)):
        if row.get("ours", 0) >= GROWTH_FLOOR:
            large.setdefault(row["case"], row)
    found = []
    for row in progress(list(large.values())[:GROWTH_CASES], "growth of fresh processes"):
        asked = {
            "shapes": settings.shapes,
            "name": row["case"],
            "mode": row["mode"],
            "tier": settings.tier,
            "seed": settings.seed,
        }
        found.append(asked | probe.run("memory:growth", asked, settings.threads))
    return found


def growth(shapes: str, name: str, mode: str, tier: str, seed: int) -> dict[str, float]:
    """The planned peak of a case, and how far one run of it raises this fresh process's peak.

    A small run first brings in everything that is loaded once, and planning is done and its memory
    given back; inputs are there before the run.
    """
    tiny = find("round", "h_tiny_20ops_16")
    server = ours.Ours(tier)
    server.prepare(tiny, mode).execute(ours.tensors(mode, draw(tiny, seed, (16,))))
    case = find(shapes, name)
    graph = ours.record(case)
    prepared = server.prepare(case, mode)
    planned = prepared.peak_bytes(ours.mapped_size(case))
    result = graph.type_of(graph.outputs[0][1]).shape
    given = ours.tensors(mode, draw(case, seed, result))
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is resident now
    before = _status("VmHWM")
    prepared.execute(given)
    grown = _status("VmHWM") - before
    return {"planned": planned, "grown": grown, "ratio": grown / planned}


def _status(field: str) -> int:
    """A line of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = next(line for line in lines if line.startswith(f"{field}:"))
    return int(found.split()[1]) * 1024


def reduced(tier: str) -> dict[str, Any]:
    """The planned peak of a mean gradient through `vmap`, as the batch grows.

    `bytes_per_sample` far below `parameter_bytes`: no stack of gradients is ever held.
    """
    graph = sample_mlp(LAYERS)
    parameters = [spec for spec in graph.inputs if spec.name not in ("x", "label")]
    names = tuple(spec.name for spec in parameters)
    spec = RunSpec(
        "vjp",
        wrt=names,
        inputs=tuple(spec.name for spec in graph.inputs),
        in_axes={"inputs/x": 0, "inputs/label": 0},
        reduce={"outputs/loss": "mean"} | {f"gradients/{name}": "mean" for name in names},
        tier=tier,
    )
    prepared = gw.Engine().prepare(graph, spec)
    sizes = (64, 128, 256, 512)
    peaks = [prepared.peak_bytes(size) for size in sizes]
    return {
        "batches": list(sizes),
        "planned": peaks,
        "bytes_per_sample": (peaks[-1] - peaks[0]) / (sizes[-1] - sizes[0]),
        "parameter_bytes": sum(spec.type.nbytes for spec in parameters),
    }


def linear(tier: str) -> dict[str, Any]:
    """The planned peak of a VJP as its data grows, and the power of the size that it grows with."""
    rows = (1000, 2000, 4000)
    request = mixed_request("vjp", tier)
    engine = gw.Engine()
    peaks = [engine.prepare(mixed(50, 0, batch=n), request).peak_bytes() for n in rows]
    exponent = math.log(peaks[-1] / peaks[0]) / math.log(rows[-1] / rows[0])
    return {"rows": list(rows), "planned": peaks, "exponent": exponent}
