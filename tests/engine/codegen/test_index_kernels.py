"""`take` and `scatter_add` compiled, against their NumPy meaning."""

from __future__ import annotations

import random

import numpy as np
import pytest

from gradwire_engine.codegen import prelude
from gradwire_engine.codegen.lowering import index
from gradwire_engine.ir import type_of
from gradwire_engine.ops.index import Indexed, ScatterAdd, Take

from .emitted import Array, Emitted

pytestmark = [pytest.mark.slow] if prelude.JIT else []  # kernels take their time to compile

RNG = np.random.default_rng(0)


def numbers(shape: tuple[int, ...], dtype: str) -> Array:
    if dtype == "bool":
        return np.asarray(RNG.random(shape) < 0.5)
    return np.asarray(RNG.standard_normal(shape) * 10).astype(dtype)


def positions(n: int, shape: tuple[int, ...]) -> Array:
    """Some of them out of range."""
    return RNG.integers(-2, n + 2, shape)


def check(op: Indexed, *operands: Array, gap: int = 1) -> None:
    type = op.typing(*map(type_of, operands))
    run = Emitted()
    result = run.output(type, gaps=(gap,) * len(type.shape))
    lowering = index.LOWERINGS[op.name]
    assert lowering(run.emit, op, [run.input(x) for x in operands], result)
    run.run()
    got, expected = run.array(result), op.numpy(*operands)
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
def test_rows_of_a_table(dtype: str) -> None:
    table, at = numbers((11, 5), dtype), positions(11, (3, 4))
    check(Take(0), table, at)
    check(ScatterAdd(0), table, at, numbers((3, 4, 5), dtype))


def test_single_elements() -> None:
    x, at = numbers((2, 3, 13), "float32"), positions(13, (2, 3, 1))
    check(Take(2, 2), x, at)
    check(Take(2, 2), x.transpose(1, 0, 2), positions(13, (3, 2, 1)))
    check(Take(-1), x, positions(13, (7,)))
    check(ScatterAdd(2, 2), x, at, numbers((2, 3, 1), "float32"))


def test_batches_and_outer_axes() -> None:
    x, at = numbers((2, 3, 7, 4), "float32"), positions(7, (2, 5))
    check(Take(2, 1), x, at)
    check(Take(2, 1), x, at, gap=2)
    check(ScatterAdd(2, 1), x, at, numbers((2, 3, 5, 4), "float32"))
    check(ScatterAdd(2, 1), x, at, numbers((2, 3, 5, 4), "float32"), gap=2)


def test_operands_as_they_lie() -> None:
    x, at = numbers((6, 7), "float32"), positions(7, (20,))
    check(Take(0), x.T, at)
    check(Take(1), numbers((7, 4, 3), "float32").transpose(1, 0, 2), at)
    zero = np.broadcast_to(np.float32(0), (7, 6))
    check(ScatterAdd(0), zero, at, numbers((20, 6), "float32"))
    check(ScatterAdd(0), x.T, at, numbers((6, 20), "float32").T)


def test_many_updates_add_up_in_float64() -> None:
    count = 40_000 if prelude.JIT else 400
    at = np.zeros(count, np.int64)
    updates = np.full((count, 1), 0.1, np.float32)
    x = np.full((3, 1), 1.0, np.float32)
    run = Emitted()
    result = run.output(type_of(x))
    op = ScatterAdd(0)
    operands = [run.input(x), run.input(at), run.input(updates)]
    assert index.lower_scatter_add(run.emit, op, operands, result)
    run.run()
    exact = 1 + count * float(np.float32(0.1))
    assert run.array(result)[0, 0] == np.float32(exact)
    assert run.array(result)[1, 0] == 1
    check(op, numbers((50, 70), "float32"), positions(50, (90,)), numbers((90, 70), "float32"))


def test_nothing() -> None:
    nowhere = np.zeros(0, np.int64)
    check(Take(0), numbers((4, 2), "float32"), nowhere)
    check(Take(0), numbers((0, 2), "float32"), np.array([0, 1]))
    check(Take(0), numbers((4, 0), "float32"), np.array([0, 1]))
    check(ScatterAdd(0), numbers((4, 2), "float32"), nowhere, numbers((0, 2), "float32"))
    check(ScatterAdd(0), numbers((0, 2), "float32"), np.array([1]), numbers((1, 2), "float32"))


def test_random_geometry(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    for _ in range(60):
        rank = rng.randint(1, 4)
        shape = tuple(rng.randint(1, 6) for _ in range(rank))
        axis = rng.randrange(rank)
        batch = rng.randint(0, axis)
        more = tuple(rng.randint(1, 9) for _ in range(rng.randint(0, 2)))
        at = positions(shape[axis], (*shape[:batch], *more))
        taken = (*shape[:axis], *more, *shape[axis + 1 :])
        x = numbers(shape, "float32")
        monkeypatch.setattr(index, "EXACT_UPDATES", rng.choice([0, 64]))
        check(Take(axis - rank, batch), x, at)
        check(ScatterAdd(axis, batch), x, at, numbers(taken, "float32"))
