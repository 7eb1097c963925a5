"""What bounds a case: the machine's limits, measured here, and the least work that the case needs.

Bytes: every input read once, every output written once. Multiply-adds: those of the products and
convolutions in the optimized graph. Arithmetic: one operation for each element of the other nodes,
`ELEMENTARY_FLOPS` for an elementary function; it is held against the same peak as the products,
which is what the vector units can do. The limit of a case is the one that leaves the shortest time,
and the fraction reached is that time over ours. It can pass 1: a limit is itself a measurement, and
data counts as being in the cache when it fills at most half of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import gradwire_engine as gw
from gradwire_engine.ir import Node
from gradwire_engine.ops.conv import ConvGeneral
from gradwire_engine.ops.linalg import DotGeneral
from gradwire_engine.passes import optimize
from gradwire_engine.program import build

from .cases import Array, Case
from .peers import ours

ELEMENTARY = frozenset(
    {"exp", "expm1", "log", "log1p", "tanh", "sigmoid", "softplus", "softmax", "log_softmax"}
    | {"erf", "erfc", "sin", "cos", "tan", "pow", "atan2", "rsqrt", "sqrt"}
)

ELEMENTARY_FLOPS = 20
"""Range reduction and a polynomial of some ten multiply-adds."""


# -- the machine -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Anchors:
    """Limits of this machine with the threads in use.

    Attributes:
        dram: Bytes per second, the better of `add` and `copy`.
        add: The same for c = a + b on arrays beyond the caches (two reads, one write).
        copy: The same for a copy.
        l3: Bytes per second of c = a + b within the last cache.
        cache: Bytes of the last cache.
        gemm: Floating-point operations per second of a float32 product of 2048 x 2048 matrices.
        call: Seconds of our public call on a graph that adds two numbers.
    """

    dram: float
    add: float
    copy: float
    l3: float
    cache: int
    gemm: float
    call: float


def anchors(threads: int, tier: str) -> dict[str, Any]:
    """Measure the limits, as a dictionary of `Anchors`; for a fresh process."""
    with ThreadPoolExecutor(threads) as pool:
        add = _rate(pool, threads, _add, 12, 1 << 24, 2)
        copy = _rate(pool, threads, _copy, 8, 1 << 24, 2)
        l3 = _rate(pool, threads, _add, 12, (1 << 20) // threads, 40)
    a = np.random.default_rng(0).standard_normal((2048, 2048), np.float32)
    gemm = 2 * 2048**3 / _best(lambda: np.matmul(a, a), 5)
    found = Anchors(max(add, copy), add, copy, l3, _cache(), gemm, _call(tier))
    return asdict(found)


def _rate(
    pool: ThreadPoolExecutor,
    threads: int,
    work: Callable[[Array, Array, Array], object],
    each: int,
    size: int,
    repeats: int,
) -> float:
    """`each` times the elements per second that all threads together work through."""
    parts = [tuple(np.full(size, 0.5, np.float32) for _ in range(3)) for _ in range(threads)]

    def loop(part: Any) -> None:
        for _ in range(repeats):
            work(*part)

    return each * size * threads * repeats / _best(lambda: list(pool.map(loop, parts)), 7)


def _add(a: Array, b: Array, c: Array) -> None:
    np.add(a, b, out=c)


def _copy(a: Array, b: Array, _: Array) -> None:
    np.copyto(b, a)


def _best(work: Callable[[], object], tries: int) -> float:
    """Seconds of the fastest try: a limit is what the machine can do."""
    work()
    seconds = []
    for _ in range(tries):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _call(tier: str) -> float:
    builder = gw.Builder([gw.Input(name, gw.Type((1,))) for name in "xy"])
    builder.append([gw.Entry("add", (0, 1))])
    spec = gw.RunSpec(inputs=("x", "y"), tier=tier)
    prepared = gw.Engine().prepare(builder.graph(), spec)
    one = np.ones(1, np.float32)
    given = {"inputs/x": one, "inputs/y": one}
    return _best(lambda: [prepared.execute(given) for _ in range(500)], 7) / 500


def _cache() -> int:
    """Bytes of the last level of cache that Linux tells of; 32 MiB where it does not."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    found = [int(path.read_text().strip().removesuffix("K")) * 1024 for path in sizes]
    return max(found, default=32 << 20)


# -- the work --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """The least that a case needs: bytes moved, operations of products, all other operations."""

    bytes: int
    flops: int
    arithmetic: int


def work(case: Case, mode: str) -> Work:
    """Count the work of a case from its optimized graph."""
    prepared = gw.Engine(compile=False).prepare(
        ours.record(case), ours.request(case, mode, "interpreted")
    )
    graph = optimize(build(prepared.question, ours.mapped_size(case)).graph)
    moved = sum(graph.inputs[i].type.nbytes for i in range(len(graph.inputs)) if _used(graph, i))
    moved += sum(graph.type_of(id).nbytes for _, id in graph.outputs)
    flops = sum(_flops(node, graph.type_of) for node in graph.nodes)
    arithmetic = sum(_arithmetic(node, graph.type_of) for node in graph.nodes)
    return Work(moved, flops, arithmetic)


def _used(graph: Any, id: int) -> bool:
    return any(id in node.inputs for node in graph.nodes)


def _flops(node: Node, type_of: Callable[[int], gw.Type]) -> int:
    """Two for each multiply-add of a product or a convolution, those with zeros left out."""
    op = node.op
    if isinstance(op, DotGeneral):
        a = type_of(node.inputs[0]).shape
        return 2 * node.type.size * math.prod(a[axis] for axis in op.contract[0])
    if isinstance(op, ConvGeneral):
        g = op.geometry(*(type_of(i) for i in node.inputs))
        return 2 * node.type.size * g.channels * g.offsets // math.prod(g.dilate_x)
    return 0


def _arithmetic(node: Node, type_of: Callable[[int], gw.Type]) -> int:
    """Operations of the nodes that are neither products nor mere views or constants."""
    op = node.op
    if op.view or not node.inputs or isinstance(op, DotGeneral | ConvGeneral):
        return 0
    size = max(node.type.size, *(type_of(i).size for i in node.inputs))
    return size * (ELEMENTARY_FLOPS if op.name in ELEMENTARY else 1)


def nearest(needed: Work, machine: Anchors, seconds: float) -> tuple[str, float]:
    """The limit that a run of `seconds` comes closest to, and the fraction that it reaches."""
    fits = needed.bytes <= machine.cache / 2  # beside what else is there, and what is in between
    memory = ("L3 bandwidth", machine.l3) if fits else ("DRAM bandwidth", machine.dram)
    least = {
        memory[0]: needed.bytes / memory[1],
        "GEMM peak": needed.flops / machine.gemm,
        "arithmetic peak": needed.arithmetic / machine.gemm,
        "call overhead": machine.call,
    }
    name = max(least, key=lambda limit: least[limit])
    return name, least[name] / seconds
