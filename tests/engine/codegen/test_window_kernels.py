"""Kernels over sliding windows, against the NumPy meaning of the ops."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gradwire_engine import passes, runtime, transform
from gradwire_engine.codegen import prelude
from gradwire_engine.codegen.lowering import pooling
from gradwire_engine.codegen.lowering.window import (
    LOWERINGS,
    lower_window_reduce,
    lower_window_spread,
)
from gradwire_engine.ir import Graph, GraphBuilder, Input, Type, type_of
from gradwire_engine.ops.base import Op
from gradwire_engine.ops.pool import AvgPool, SmoothMaxPool
from gradwire_engine.ops.window import Fold, Unfold, WindowPick, WindowUnpick
from gradwire_engine.ops.window_numpy import Grid, overlap_add, windows

from .emitted import Array, Emitted

pytestmark = [pytest.mark.slow] if prelude.JIT else []  # kernels take their time to compile

RNG = np.random.default_rng(0)
TOLERANCE = {"float32": 2e-6, "float64": 1e-13, "int64": 0}

TILED = ((2, 2), (2, 2), (0, 0))
OVERLAPPING = ((3, 3), (2, 2), (1, 1))
UNEVEN = ((3, 2), (1, 3), (2, 1))
LINE = ((3,), (1,), (1,))
SOLID = ((2, 1, 3), (1, 2, 2), (1, 0, 1))
FAR = ((6, 7), (3, 4), (5, 3))
LOOSE = ((2, 2), (3, 9), (4, 3))
GEOMETRIES: list[Any] = [OVERLAPPING, FAR]
if not prelude.JIT:
    GEOMETRIES += [TILED, UNEVEN, LINE, SOLID, LOOSE]


def numbers(shape: tuple[int, ...], dtype: str) -> Array:
    return np.asarray(RNG.standard_normal(shape) * 9).astype(dtype)


def rivals(shape: tuple[int, ...], dtype: str, kind: str) -> Array:
    """Whole numbers with many ties, and whatever else may win."""
    x = np.round(RNG.standard_normal(shape) * 1.5).astype(dtype)
    if kind == "nan":
        x[RNG.random(shape) < 0.2] = np.nan
    if kind == "inf":
        x[RNG.random(shape) < 0.2] = np.inf
        x[:1] = -np.inf
    return x


def run_into(result: Type, emit: Callable[..., object], *operands: Array, gap: int = 1) -> Array:
    run = Emitted()
    layouts: list[Any] = []
    for k, x in enumerate(operands):
        same = [i for i in range(k) if operands[i] is x]
        layouts.append(layouts[same[0]] if same else run.input(x))
    target = run.output(result, gaps=(gap,) * len(result.shape))
    assert emit(run.emit, layouts, target) is not False
    run.run()
    return run.array(target)


def check(op: Op, *operands: Array, gap: int = 1) -> None:
    result = op.typing(*map(type_of, operands))

    def emit(emitter: Any, layouts: Any, target: Any) -> bool:
        return LOWERINGS[op.name](emitter, op, layouts, target)

    got = run_into(result, emit, *operands, gap=gap)
    close(got, op.numpy(*operands))


def close(got: Array, expected: Array, scale: float = 1) -> None:
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    room = scale * TOLERANCE.get(got.dtype.name, 0) * 20
    np.testing.assert_allclose(got, expected, rtol=room, atol=room)


def sizes(geometry: Any, trial: int) -> tuple[int, ...]:
    """A shape [*lead, *spatial] that holds a window, other ones from trial to trial."""
    kernel, _, padding = geometry
    rng = random.Random(trial)
    least = [max(1, k - 2 * p) for k, p in zip(kernel, padding, strict=True)]
    lead = [rng.randint(1, 3) for _ in range(rng.randint(0, 2))]
    most = 40 if prelude.JIT and len(kernel) < 3 else 5
    return (*lead, *(n + rng.randint(0, most) for n in least))


@pytest.mark.parametrize(
    ("geometry", "dtype"), [(TILED, "float64"), *((geometry, "float32") for geometry in GEOMETRIES)]
)
def test_pick_and_unpick(geometry: Any, dtype: str) -> None:
    for trial, kind in enumerate(("plain", "nan", "inf", "plain")):
        shape = sizes(geometry, trial)
        by = rivals(shape, dtype, kind)
        pick, unpick = WindowPick(*geometry), WindowUnpick(*geometry)
        check(pick, by, by)
        check(pick, by, numbers(shape, dtype))
        check(unpick, by, numbers(pick.typing(type_of(by), type_of(by)).shape, dtype))


def test_nan_wins_only_its_own_window() -> None:
    x = np.zeros((1, 4, 4), np.float32)
    x[0, 1, 0] = np.nan
    pick = WindowPick((2, 2))
    got = run_into(Type((1, 2, 2)), lambda e, xs, y: LOWERINGS["window_pick"](e, pick, xs, y), x, x)
    np.testing.assert_array_equal(got[0], [[np.nan, 0], [0, 0]])


def test_strided_operands_and_results() -> None:
    x = rivals((9, 8, 3), "float32", "plain").transpose(2, 0, 1)
    v = numbers((3, 8, 9), "float32").transpose(0, 2, 1)
    check(WindowPick(*TILED), x, v, gap=2)
    check(WindowPick(*TILED), x, x, gap=2)
    check(WindowUnpick(*TILED), x, numbers((4, 4, 3), "float32").transpose(2, 0, 1), gap=2)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_sums_and_extremes(geometry: Any) -> None:
    kernel = geometry[0]
    for trial in range(2):
        shape = sizes(geometry, trial)
        lead = len(shape) - len(kernel)
        grid = Grid(shape[lead:], *geometry)
        axes = tuple(range(lead, lead + len(kernel)))
        for how, dtype in (("sum", "float32"), ("max", "float64"), ("min", "int64")):
            x = numbers(shape, dtype)
            ufuncs = {"sum": np.add, "max": np.maximum, "min": np.minimum}
            reduce: np.ufunc = ufuncs[how]
            divisor = 3.0 if how == "sum" else 1.0
            result = Type((*shape[:lead], *grid.out), dtype)

            def emit(e: Any, xs: Any, y: Any, how: str = how, divisor: float = divisor) -> None:
                lower_window_reduce(e, how, xs[0], grid, y, divisor=divisor)  # noqa: B023

            expected = reduce.reduce(windows(x.astype("float64"), grid), axis=axes) / divisor
            close(run_into(result, emit, x), expected.astype(dtype), scale=9)


def test_long_sums_run_in_float64() -> None:
    x = np.full((2, 40, 50), 0.1, np.float32)
    grid = Grid((40, 50), (40, 50), (1, 1), (0, 0))
    got = run_into(
        Type((2, 1, 1)), lambda e, xs, y: lower_window_reduce(e, "sum", xs[0], grid, y), x
    )
    assert (got == np.float32(2000 * float(np.float32(0.1)))).all()


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_spread_fold_and_unfold(geometry: Any) -> None:
    kernel = geometry[0]
    for trial in range(2):
        shape = sizes(geometry, trial)
        lead = len(shape) - len(kernel)
        grid = Grid(shape[lead:], *geometry)
        ct = numbers((*shape[:lead], *grid.out), "float32")
        wide = ct.reshape(*shape[:lead], *(1,) * grid.rank, *grid.out)
        wide = np.broadcast_to(wide, (*shape[:lead], *kernel, *grid.out))

        def emit(e: Any, xs: Any, y: Any) -> None:
            lower_window_spread(e, xs[0], grid, y, divisor=7.0)  # noqa: B023

        close(run_into(Type(shape), emit, ct), overlap_add(wide, grid) / np.float32(7), scale=9)
        check(
            Fold(kernel, grid.stride, grid.padding, grid.size),
            numbers(wide.shape, "float32"),
            gap=1 + trial,
        )
        check(Unfold(*geometry), numbers(shape, "float32"), gap=1 + trial)


def test_other_dtypes_are_moved_and_added() -> None:
    x = numbers((2, 5, 6), "int64")
    check(Unfold(*TILED), x)
    check(Unfold(*OVERLAPPING), x > 0)
    check(Fold(*TILED), numbers((2, 2, 2, 3, 3), "int64"))


def test_nothing() -> None:
    for shape in ((0, 5, 5), (2, 0, 5)):
        x = numbers(shape, "float32")
        pick = WindowPick(2, 1, 1)
        check(pick, x, x)
        check(WindowUnpick(2, 1, 1), x, numbers(pick.typing(type_of(x), type_of(x)).shape, "f4"))
        check(Unfold(2, 1, 1), x)


# -- pools found in graphs -------------------------------------------------------------------------


def pool_graph(op: Op, shape: tuple[int, ...]) -> Graph:
    builder = GraphBuilder()
    x = builder.input(Input("x", Type(shape)))
    return builder.graph([("y", builder.apply(op, x))])


POOLS = [
    AvgPool(2),
    AvgPool(3, 2, 1),
    AvgPool((2, 3), (1, 2), (0, 1)),
    AvgPool((7, 6)),
    SmoothMaxPool(3, -2.0, 2, 1),
]


@pytest.mark.parametrize("op", POOLS)
def test_graphs_with_pools_compute_the_same(op: Op) -> None:
    graph = pool_graph(op, (2, 7, 6))
    derived = [graph, transform.vjp(graph, ["x"]), transform.jvp(graph, ["x"])]
    derived.append(transform.vjp(transform.vmap(graph, 2, {"x": 0}), ["x"]))
    for before in map(passes.optimize, derived):
        after = pooling.with_pools(before)
        names = [node.op.name for node in after.nodes]
        if isinstance(op, AvgPool):
            assert set(names) <= {"pool_reduce", "pool_spread"}
        else:
            assert "pool_reduce" in names
        arguments = [numbers(spec.type.shape, "float32") for spec in before.inputs]
        pairs = zip(
            runtime.interpret(after, arguments), runtime.interpret(before, arguments), strict=True
        )
        for got, expected in pairs:
            close(got, expected, scale=9)


def test_a_sum_that_is_used_is_not_absorbed() -> None:
    builder = GraphBuilder(lowered=True)
    x = builder.input(Input("x", Type((1, 4, 4))))
    mean = AvgPool(2)(x)
    (total,) = (builder.value(i) for i in builder.nodes[mean.id - 1].inputs[:1])
    graph = builder.graph([("mean", mean), ("total", total)])
    pools = [node.op for node in pooling.with_pools(graph).nodes if node.op.name == "pool_reduce"]
    assert [pool.divisor for pool in pools] == [1.0]


@pytest.mark.parametrize("op", [AvgPool(2), AvgPool(3, 2, 1)])
def test_pools_have_kernels(op: Op) -> None:
    graph = pooling.with_pools(passes.optimize(transform.vjp(pool_graph(op, (2, 9, 8)), ["x"])))
    for node in graph.nodes:
        operands = [numbers(graph.type_of(i).shape, "float32") for i in node.inputs]

        def emit(e: Any, xs: Any, y: Any, op: Any = node.op) -> bool:
            return pooling.LOWERINGS[op.name](e, op, xs, y)

        close(run_into(node.type, emit, *operands), node.op.numpy(*operands), scale=9)
