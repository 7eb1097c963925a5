"""`cumsum`, `argmax` and `argmin` compiled, against their NumPy meaning."""

from __future__ import annotations

import random

import numpy as np
import pytest

from gradwire_engine.codegen import prelude
from gradwire_engine.codegen.lowering.scan import LOWERINGS
from gradwire_engine.ir import type_of
from gradwire_engine.ops.base import Op
from gradwire_engine.ops.reduce import Argmax, Argmin, Cumsum

from .emitted import Array, Emitted

pytestmark = [pytest.mark.slow] if prelude.JIT else []  # kernels take their time to compile

RNG = np.random.default_rng(0)
LONG = 300 if prelude.JIT else 70


def numbers(shape: tuple[int, ...], dtype: str, special: bool = False) -> Array:
    """Small whole numbers, so that there are ties; `special` ones among them."""
    x = np.asarray(np.round(RNG.standard_normal(shape) * 3)).astype(dtype)
    if special:
        chosen = np.array([np.nan, np.inf, -np.inf, -0.0], dtype)[RNG.integers(0, 4, shape)]
        x = np.where(RNG.random(shape) < 0.1, chosen, x)
    return x


def compute(op: Op, x: Array, gap: int = 1) -> Array:
    type = op.typing(type_of(x))
    run = Emitted()
    result = run.output(type, gaps=(gap,) * len(type.shape))
    assert LOWERINGS[op.name](run.emit, op, [run.input(x)], result)
    run.run()
    return run.array(result)


def check(op: Op, x: Array, gap: int = 1) -> None:
    got = compute(op, x, gap)
    with np.errstate(all="ignore"):
        expected = op.numpy(x)
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=1e-6 if x.dtype == "float32" else 1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_axis(dtype: str, axis: int) -> None:
    x = numbers((4, 5, LONG), dtype)
    check(Cumsum(axis), x)
    check(Argmax(axis), x)


@pytest.mark.parametrize("axis", [0, -1])
def test_backwards_and_least(axis: int) -> None:
    x = numbers((9, 40), "float32")
    check(Cumsum(axis, reverse=True), x, gap=2)
    check(Argmin(axis), x, gap=2)


@pytest.mark.parametrize("axis", [0, 1])
def test_special_numbers(axis: int) -> None:
    for _ in range(10):
        x = numbers((LONG, 30), "float32", special=True)
        check(Cumsum(axis), x)
        check(Argmax(axis), x)
        check(Argmin(axis), x)
    nothing = np.full((3, 3), np.nan, np.float32)
    assert not compute(Argmax(axis), nothing).any()


def test_operands_as_they_lie() -> None:
    x = numbers((6, 7, LONG), "float32").transpose(2, 0, 1)[::-1]
    for axis in range(3):
        check(Cumsum(axis), x)
        check(Argmax(axis), x)


def test_float32_adds_up_in_float64() -> None:
    count = 1_000_000 if prelude.JIT else 2_000
    x = np.full((count,), 0.1, np.float32)
    exact = np.arange(1, count + 1) * float(np.float32(0.1))
    assert np.array_equal(compute(Cumsum(0), x), exact.astype(np.float32))
    columns = compute(Cumsum(0), np.stack([x, x], axis=1))
    assert np.array_equal(columns, np.stack([exact, exact], axis=1).astype(np.float32))


def test_int64_wraps() -> None:
    x = np.array([[2**62, 2**62, 1]])
    check(Cumsum(1), x)


def test_nothing() -> None:
    check(Cumsum(0), numbers((0, 3), "float32"))
    check(Argmax(0), numbers((3, 0), "float32"))


def test_random_geometry() -> None:
    rng = random.Random(1)
    for _ in range(60):
        rank = rng.randint(1, 4)
        x = numbers(tuple(rng.randint(1, 9) for _ in range(rank)), "float32", special=True)
        x = x.transpose(rng.sample(range(rank), rank))
        axis = rng.randrange(rank)
        check(Cumsum(axis), x)
        check(Argmax(axis - rank), x)
