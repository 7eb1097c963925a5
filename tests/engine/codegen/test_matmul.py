"""Matrix products by their kernels, against NumPy in float64."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from gradwire_engine.codegen import prelude
from gradwire_engine.codegen.lowering.matmul import lower_dot, preferred_order
from gradwire_engine.codegen.program import Call, Layout
from gradwire_engine.ir import type_of
from gradwire_engine.ops.linalg import DotGeneral

from .emitted import Array, Emitted

MATMUL = DotGeneral(((1,), (0,)))
BATCHED = DotGeneral(((2,), (1,)), ((0,), (0,)))
EPSILON = {"float32": 2e-6, "float64": 1e-12}
SCALE = 1 if prelude.JIT else 4


def numbers(*shape: int, dtype: str = "float32", seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def kernels(run: Emitted) -> list[str]:
    """What the kernels called do, of products how."""
    return [
        c.kernel.title.removeprefix("product by ").split()[0]
        for c in run.emit.steps
        if isinstance(c, Call)
    ]


def check(
    op: DotGeneral,
    a: Array,
    b: Array,
    order: Sequence[int] | None = None,
    *,
    accumulate: bool = False,
    alpha: float = 1.0,
    threads: int = 2,
) -> list[str]:
    """Compare with NumPy by the norm bound; the kernels that ran."""
    run = Emitted(threads)
    left, right = run.input(a), run.input(b)
    result = run.output(op.typing(left.type, right.type), order)
    before = numbers(*result.shape, dtype=result.dtype, seed=7)
    run.array(result)[...] = before
    assert lower_dot(run.emit, op, [left, right], result, accumulate=accumulate, alpha=alpha)
    run.run()
    known = before.astype(np.float64) if accumulate else np.zeros(result.shape)
    wide = [x.astype(np.float64) for x in (a, b)]
    expected = alpha * op.numpy(*wide) + known
    bound = abs(alpha) * op.numpy(*map(np.abs, wide)) + abs(known)
    assert (abs(run.array(result) - expected) <= EPSILON[result.dtype] * bound).all()
    return kernels(run)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [(1, 1, 1), (4, 5, 6), (33, 17, 47), (65, 300, 70)])
def test_matrices_lie_as_they_like(dtype: str, size: tuple[int, int, int]) -> None:
    m, k, n = (max(1, s // SCALE) for s in size)
    for a in (numbers(m, k, dtype=dtype), numbers(k, m, dtype=dtype).T):
        for b in (numbers(k, n, dtype=dtype), numbers(n, k, dtype=dtype).T):
            for order in ((0, 1), (1, 0)):
                assert not any("copy" in name for name in check(MATMUL, a, b, order))


def test_many_rows_columns_and_blocks_of_depth() -> None:
    m, k, n = 310 // SCALE, 530 // SCALE, 290 // SCALE
    assert check(MATMUL, numbers(m, k), numbers(k, n)) == ["tiles"]
    assert check(MATMUL, numbers(k, m).T, numbers(n, k).T) == ["tiles"]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_tasks_cover_batches_of_every_size(threads: int) -> None:
    for count in (1, 2, 5, 7):
        size = 40 // SCALE
        a, b = numbers(count, size, size + 1), numbers(count, size + 1, size - 3)
        assert check(BATCHED, a, b, threads=threads) == ["tiles"]
    check(BATCHED, numbers(50, 4, 4), numbers(50, 4, 4), threads=threads)


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("alpha", [1.0, -2.5])
def test_adding_and_scaling(accumulate: bool, alpha: float) -> None:
    for a, b in (
        (numbers(30, 290 // SCALE), numbers(290 // SCALE, 20)),
        (numbers(100, 30), numbers(30, 1)),
        (numbers(1, 30), numbers(30, 100)),
        (numbers(5, 3000), numbers(3000, 4)),
    ):
        check(MATMUL, a, b, accumulate=accumulate, alpha=alpha)


def test_a_matrix_and_few_vectors_is_read_once() -> None:
    m, k = 400 // SCALE, 100
    long, vector = numbers(m, k), numbers(k, 1)
    assert check(MATMUL, long, vector) == ["dots"]
    assert check(MATMUL, numbers(k, m).T, vector)[0] == "sums"
    assert check(MATMUL, vector.T, np.ascontiguousarray(long.T))[0] == "sums"
    assert check(DotGeneral(((0,), (0,))), long[0], long[1]) == ["dots"]
    check(DotGeneral(((0,), (0,))), long[:, 0], long[:, 1])


def test_a_long_depth_is_cut_into_slices() -> None:
    k = 20_000 if prelude.JIT else 500
    for columns in (1, 3, 20):
        names = check(MATMUL, numbers(k, 20).T, numbers(k, columns))
        assert not prelude.JIT or names[-1] == "totals"


def test_outer_products() -> None:
    check(DotGeneral(), numbers(70), numbers(90))
    check(DotGeneral(), numbers(70, 2), numbers(9, 3), order=(2, 3, 0, 1))
    check(MATMUL, numbers(70, 2), numbers(2, 90))


def test_a_shared_operand_makes_one_wide_product() -> None:
    w, x = numbers(12, 20), numbers(9, 7, 20)
    run = Emitted(1)
    shared, batch = run.input(w), run.input(x)
    repeated = Layout(shared.buffer, 0, (9, 12, 20), (0, 20, 1), "float32")
    op = DotGeneral(((2,), (2,)), ((0,), (0,)))
    result = run.output(op.typing(batch.type, repeated.type))
    lower_dot(run.emit, op, [batch, repeated], result)
    (call,) = run.emit.steps
    assert isinstance(call, Call)
    assert call.words[:3] == (63, 12, 20), "the batch is rows of one matrix"
    assert call.count == 1
    run.run()
    np.testing.assert_allclose(run.array(result), x @ w.T, atol=1e-4)


def test_heads_of_attention_are_never_copied() -> None:
    n, heads, width = 20, 3, 8
    q, k, v = (numbers(n, heads, width, seed=s) for s in range(3))
    scores = DotGeneral(((2,), (2,)), ((1,), (1,)))
    assert check(scores, q, k) == ["tiles"]
    mixed = DotGeneral(((2,), (0,)), ((0,), (1,)))
    p = numbers(heads, n, n)
    assert check(mixed, p, v, order=(1, 0, 2)) == ["tiles"]
    gradient = DotGeneral(((0,), (1,)), ((1,), (0,)))
    assert check(gradient, q, p, order=(2, 0, 1)) == ["tiles"]


def layout(*shape: int) -> Layout:
    run = Emitted()
    return run.output(type_of(np.empty(shape, np.float32)))


def test_preferred_order() -> None:
    n, heads, width = 20, 3, 8
    q, p = layout(n, heads, width), layout(heads, n, n)
    mixed = DotGeneral(((2,), (0,)), ((0,), (1,)))
    assert preferred_order(mixed, [p, q], (1, 0, 2))
    assert preferred_order(mixed, [p, q], (2, 0, 1))
    assert not preferred_order(mixed, [p, q], (1, 2, 0)), "the batch would run along memory"
    assert preferred_order(MATMUL, [layout(9, 8), layout(8, 7)], (1, 0))


def test_nothing_to_sum_or_to_write() -> None:
    check(MATMUL, numbers(3, 0), numbers(0, 4))
    check(MATMUL, numbers(3, 0), numbers(0, 4), accumulate=True)
    assert check(MATMUL, numbers(0, 3), numbers(3, 4)) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_beyond_numbers_stay_in_their_rows_and_columns(value: float) -> None:
    for m, n in ((40, 37), (40, 1), (1, 37)):
        a, b = abs(numbers(m, 30)), abs(numbers(30, n))
        a[m - 1, 29] = value
        run = Emitted(2)
        result = run.output(type_of(np.empty((m, n), np.float32)))
        lower_dot(run.emit, MATMUL, [run.input(a), run.input(b)], result)
        run.run()
        got = run.array(result)
        assert np.isfinite(got[: m - 1]).all()
        np.testing.assert_array_equal(got[m - 1], np.full(n, value, np.float32))


@pytest.mark.parametrize("seed", range(40 if prelude.JIT else 15))
def test_random_contractions(seed: int) -> None:
    """Any roles, sizes, orders and strides, with broadcast operands among them."""
    rng = random.Random(seed)
    most = 40_000 if prelude.JIT else 1500
    counts = {role: rng.choice((0, 1, 1, 2)) for role in "bmnk"}
    axes = [(role, i) for role, count in counts.items() for i in range(count)]
    sizes = {axis: rng.choice((1, 2, 3, 5, 8, 17, 33)) for axis in axes}
    while math.prod(sizes.values()) > most:
        largest = max(sizes, key=lambda axis: sizes[axis])
        sizes[largest] = sizes[largest] // 2
    sides = []
    for roles in ("bmk", "bkn"):
        side = [axis for axis in axes if axis[0] in roles]
        rng.shuffle(side)
        sides.append(side)

    def pairs(role: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        named = [axis for axis in axes if axis[0] == role]
        return tuple(map(sides[0].index, named)), tuple(map(sides[1].index, named))

    op = DotGeneral(pairs("k"), pairs("b"))
    dtype = rng.choice(("float32", "float64"))
    run = Emitted(rng.choice((1, 2, 3)))
    operands = []
    for side in sides:
        shape = [sizes[axis] for axis in side]
        order = rng.sample(range(len(shape)), len(shape))
        place = run.output(
            type_of(np.empty(shape, dtype)), order, [rng.choice((1, 1, 2)) for _ in shape]
        )
        run.memory(place)[...] = numbers(run.memory(place).size, dtype=dtype, seed=seed)
        strides = tuple(0 if rng.random() < 0.1 else s for s in place.strides)
        operands.append(replace(place, strides=strides))
    type = op.typing(*(x.type for x in operands))
    result = run.output(type, rng.sample(range(type.rank), type.rank))
    assert lower_dot(run.emit, op, operands, result)
    run.run()
    a, b = (run.array(x).astype(np.float64) for x in operands)
    bound = EPSILON[dtype] * op.numpy(abs(a), abs(b))
    assert (abs(run.array(result) - op.numpy(a, b)) <= bound).all()
