"""What the law tests share: a row made into a graph, runs of derived graphs, and comparisons."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np

from gradwire_engine import ops, runtime, transform, verify
from gradwire_engine.ir import Graph, GraphBuilder, Input, type_of

from .case import Array, Case, draw
from .rows import ROWS, row_ids

IDS = row_ids()

# The central differences below look this far to both sides (times a tangent of at most 1); a draw
# keeps ten times that distance from a kink.
REACH = 2e-3


class Subject:
    """A row in one dtype: its operands, its graph and the derived graphs, each made once."""

    def __init__(self, case: Case, dtype: str) -> None:
        self.case, self.dtype = case, dtype
        text = repr((case.op, case.label, sorted(case.attrs), case.operands))
        self.seed = zlib.crc32(text.encode())
        rng = np.random.default_rng(self.seed)
        drawn = [draw(spec, rng, "float64") for spec in case.operands]
        self.arrays = [
            frozen(a.astype(dtype) if spec.dtype == "float" else a)
            for a, spec in zip(drawn, case.operands, strict=True)
        ]
        self.names = [f"x{i}" for i in range(len(drawn))]
        builder = GraphBuilder()
        values = [
            builder.input(Input(name, type_of(array)))
            for name, array in zip(self.names, self.arrays, strict=True)
        ]
        self.op = ops.find(case.op).parse(case.attrs)
        self.y = builder.apply(self.op, *values)
        self.graph = builder.graph([("y", self.y)])
        self.floats = [i for i, v in enumerate(values) if v.type.is_float]
        self.wrt = [self.names[i] for i in self.floats]

    @property
    def rounding(self) -> float:
        """Relative error that float32 values inside a float64 subject bring along."""
        return 1e-6 if "float32" in {self.y.dtype, *(a.dtype.name for a in self.arrays)} else 0.0

    @property
    def differentiable(self) -> bool:
        """Whether there is anything to differentiate by, and anything to differentiate."""
        return bool(self.floats) and self.y.type.is_float

    @cached_property
    def jvp(self) -> Graph:
        """Values and tangents, with respect to all float operands."""
        return verify.verify(transform.jvp(self.graph, self.wrt))

    @cached_property
    def vjp(self) -> Graph:
        """Values and gradients, with respect to all float operands."""
        return verify.verify(transform.vjp(self.graph, self.wrt))

    @cached_property
    def directions(self) -> list[Array]:
        """A tangent for each float operand, entries in [-1, 1]."""
        return [self.tangent_like(self.arrays[i]) for i in self.floats]

    @cached_property
    def cotangent(self) -> Array:
        """A cotangent of the result."""
        rng = np.random.default_rng([self.seed, 1])
        return frozen(np.asarray(rng.uniform(-1, 1, self.y.shape), self.y.dtype))

    def tangent_like(self, array: Array) -> Array:
        """A random tangent for an array, always the same for the same array."""
        rng = np.random.default_rng([self.seed, zlib.crc32(array.tobytes())])
        return frozen(np.asarray(rng.uniform(-1, 1, array.shape), array.dtype))

    def push(self, directions: Sequence[Array]) -> Array:
        """The tangent of the result."""
        return run(self.jvp, [*self.arrays, *directions])[1]

    def pull(self, cotangent: Array) -> list[Array]:
        """The gradients of the float operands."""
        return run(self.vjp, [*self.arrays, cotangent])[1:]


@cache
def subject(row: int, dtype: str = "float64") -> Subject:
    """Row number `row` in `dtype`, shared by all laws."""
    return Subject(ROWS[row], dtype)


def differentiable(row: int) -> bool:
    """Whether derivative laws apply; a row that cannot even be built keeps its tests, to fail."""
    try:
        return subject(row).differentiable
    except Exception:
        return True


def frozen(array: Array) -> Array:
    """The array made read-only: an op that writes to its operands fails at once."""
    array = np.asarray(array)
    array.flags.writeable = False
    return array


_PLANS: dict[int, tuple[Graph, runtime.Plan]] = {}


def run(graph: Graph, arrays: Sequence[Any]) -> list[Array]:
    """Interpret a graph; every node's result is compared with its static type on the way.

    The plans of the last few graphs are kept: loops and differences run the same one repeatedly.
    """
    if id(graph) not in _PLANS:
        if len(_PLANS) >= 8:
            del _PLANS[next(iter(_PLANS))]
        _PLANS[id(graph)] = graph, runtime.make_plan(transform.lower(graph).graph)
    return runtime.execute(_PLANS[id(graph)][1], [frozen(a) for a in arrays], check_types=True)


def moved(
    arrays: Sequence[Array], which: Sequence[int], by: Sequence[Array], t: float
) -> list[Any]:
    """`arrays` with `t` times a direction added to those at `which`."""
    result = list(arrays)
    for i, d in zip(which, by, strict=True):
        result[i] = arrays[i] + t * d
    return result


def central(f: Callable[[float], Sequence[Array]]) -> list[Array]:
    """The derivative of `f` at 0 by central differences at two distances (error of order h^4)."""
    h = REACH / 2
    points = {k: [np.asarray(y) for y in f(k * h)] for k in (-2, -1, 1, 2)}
    return [
        (8 * (b - a) - (bb - aa)) / (12 * h)
        for aa, a, b, bb in zip(*(points[k] for k in (-2, -1, 1, 2)), strict=True)
    ]


def close(actual: Array, expected: Array, relative: float, floor: float = 0.0) -> None:
    """Arrays agree: same shape and dtype, errors within `relative` of the largest entry.

    Args:
        actual: What is tested.
        expected: What it should be; NaN and infinities must be in the same places.
        relative: Tolerance relative to the largest finite |expected|; at least 1e-6 in float32.
        floor: Absolute tolerance where all is tiny.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if actual.dtype.kind != "f":
        np.testing.assert_array_equal(actual, expected)
        return
    if actual.dtype == np.float32:
        relative = max(relative, 1e-6)
    finite = np.isfinite(expected)
    scale = float(np.max(np.abs(expected[finite]), initial=0.0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * scale + floor)


def inner(a: Sequence[Array], b: Sequence[Array]) -> float:
    """The inner product of two lists of arrays."""
    return float(sum(np.vdot(x, y) for x, y in zip(a, b, strict=True)))


def norm(a: Sequence[Array]) -> float:
    """The Euclidean norm of a list of arrays."""
    return math.sqrt(inner(a, a))


def adjoint(
    dy: Sequence[Array], g: Sequence[Array], dx: Sequence[Array], jtg: Sequence[Array]
) -> None:
    """<J dx, g> = <dx, J^T g> to 1e-10 of the norms; to 1e-6 where float32 takes part."""
    tolerance = 1e-10 if all(a.dtype == np.float64 for a in (*dy, *g, *dx, *jtg)) else 1e-6
    bound = norm(dy) * norm(g) + norm(dx) * norm(jtg)
    assert abs(inner(dy, g) - inner(dx, jtg)) <= tolerance * bound


def reappended(graph: Graph) -> Graph:
    """The graph built anew from what travels over the wire: names, references and attributes."""
    builder = GraphBuilder(inputs=list(graph.inputs))
    for node in graph.nodes:
        cls = ops.CATALOGUE[node.op.name]
        op = cls.parse(_travelled(node.op.attrs()))
        assert op == node.op
        assert op.key == node.op.key
        builder.apply(op, *(builder.value(i) for i in node.inputs))
    return builder.graph(graph.outputs)


def _travelled(attrs: Mapping[str, Any]) -> dict[str, Any]:
    tensors = {k: v for k, v in attrs.items() if isinstance(v, np.ndarray)}
    plain = {k: v for k, v in attrs.items() if k not in tensors}
    back: dict[str, Any] = json.loads(json.dumps(plain, allow_nan=False))
    return back | tensors


def samples(arrays: Sequence[Array], mapped: Mapping[int, int], k: int) -> list[Array]:
    """Sample `k` of a batch: the arrays at `mapped` give up the axis stated there."""
    return [np.take(a, k, axis=mapped[i]) if i in mapped else a for i, a in enumerate(arrays)]
