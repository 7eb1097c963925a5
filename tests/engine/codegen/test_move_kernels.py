"""Copies between layouts, pads and concatenations, against NumPy."""

from __future__ import annotations

import random

import numpy as np
import pytest

from gradwire_engine.codegen import prelude
from gradwire_engine.codegen.lowering.move import LOWERINGS, lower_copy, lower_fill
from gradwire_engine.ir import Type, type_of
from gradwire_engine.ops.base import Op
from gradwire_engine.ops.shape import Concat, Pad

from .emitted import Array, Emitted

pytestmark = [pytest.mark.slow] if prelude.JIT else []  # kernels take their time to compile

LARGE = 70 if prelude.JIT else 19


def numbers(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Array:
    values = np.random.default_rng(seed).integers(-100, 100, shape)
    return values > 0 if dtype == "bool" else values.astype(dtype)


def check_copy(source: Array, order: list[int] | None = None, gaps: tuple[int, ...] = ()) -> None:
    run = Emitted()
    target = run.output(type_of(source), order, gaps)
    before = run.memory(target).copy()
    lower_copy(run.emit, run.input(source), target)
    run.run()
    np.testing.assert_array_equal(run.array(target), source)
    if source.size:
        run.array(target)[...] = 77
        np.testing.assert_array_equal(run.memory(target), before, "written beside the target")


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_transpositions(dtype: str) -> None:
    check_copy(numbers((LARGE, LARGE - 3), dtype).T)
    check_copy(numbers((3, LARGE, LARGE + 1), dtype).transpose(0, 2, 1))
    check_copy(numbers((5, 4, 3, LARGE), dtype).transpose(3, 2, 0, 1))


@pytest.mark.parametrize("source", [(1, LARGE), (LARGE, 1)])
def test_broadcasts(source: tuple[int, int]) -> None:
    check_copy(np.broadcast_to(numbers(source, "float32"), (LARGE, LARGE)))


def test_rows_and_narrow_copies() -> None:
    x = numbers((LARGE, 6, LARGE), "float32")
    check_copy(x.transpose(1, 0, 2))
    check_copy(x[:, ::2, 1:-2])
    check_copy(x[:, :, ::2])
    check_copy(x[::-1, ::-1, ::-1])
    check_copy(numbers((3, LARGE), "float32").T)
    check_copy(numbers((LARGE, 3, 2), "float32").transpose(0, 2, 1))


def test_long_rows_are_cut() -> None:
    check_copy(numbers((20_000,), "float32"))
    check_copy(np.broadcast_to(numbers((1, 9001), "float32"), (2, 9001)))


def test_targets_with_gaps_and_in_another_order() -> None:
    x = numbers((7, LARGE, 5), "float32")
    check_copy(x, order=[1, 2, 0])
    check_copy(x, gaps=(1, 2, 1))
    check_copy(x, order=[2, 0, 1], gaps=(1, 1, 2))


def test_scalars_and_nothing() -> None:
    check_copy(numbers((), "int64"))
    check_copy(numbers((1, 1), "float64"))
    check_copy(numbers((0, 3), "float32").T)


def test_random_layouts() -> None:
    if prelude.JIT:
        pytest.skip("every kind of layout has a kernel of its own to compile")
    rng = random.Random(0)
    for trial in range(150):
        rank = rng.randint(1, 5)
        shape = tuple(rng.choice([1, 2, 3, 5, 8, 9, 11]) for _ in range(rank))
        x = numbers(shape, rng.choice(["float32", "float64", "int64", "bool"]), trial)
        x = x[tuple(slice(rng.choice([0, 0, 1]), None, rng.choice([1, 1, 2])) for _ in shape)]
        x = x[tuple(slice(None, None, rng.choice([1, 1, -1])) for _ in shape)]
        x = x.transpose(rng.sample(range(rank), rank))
        if rng.random() < 0.3:
            x = np.broadcast_to(x[..., None], (*x.shape, rng.choice([2, 7, 20])))
        order = rng.sample(range(x.ndim), x.ndim)
        check_copy(x, order, tuple(rng.choice([1, 1, 2]) for _ in order))


@pytest.mark.parametrize(("dtype", "value"), [("float32", -0.5), ("int64", 7), ("bool", 1)])
def test_fills(dtype: str, value: float) -> None:
    run = Emitted()
    target = run.output(Type((5, 9), dtype), gaps=(1, 2))
    lower_fill(run.emit, value, target)
    run.run()
    np.testing.assert_array_equal(run.array(target), np.full((5, 9), value, dtype))


def check_op(op: Op, *operands: Array) -> None:
    run = Emitted()
    type = op.typing(*map(type_of, operands))
    result = run.output(type, gaps=(2,) * len(type.shape))
    assert LOWERINGS[op.name](run.emit, op, [run.input(x) for x in operands], result)
    run.run()
    np.testing.assert_array_equal(run.array(result), op.numpy(*operands))


@pytest.mark.parametrize(
    "op",
    [
        Pad((1, 0, 2), (0, 3, 1), 0, 2.5),
        Pad((-1, 2, 0), (1, -2, -1)),
        Pad((0, 1, -3), (2, -3, 1), (2, 0, 3), -1.0),
        Pad((-9, 0, 0), (6, 0, 0), 0, 4.0),
        Pad((-1, -1, 0), (-1, 0, -2)),
        Pad(0, 0),
    ],
)
def test_pads(op: Pad) -> None:
    check_op(op, numbers((4, 5, 6), "float32"))
    check_op(op, numbers((4, 6, 5), "float32").transpose(0, 2, 1))


def test_pads_of_empty_tensors_and_other_dtypes() -> None:
    check_op(Pad((1, 2), (0, 1), 0, 1), numbers((0, 3), "float64"))
    check_op(Pad((1, 2), (0, 1), (1, 1), 1), numbers((4, 3), "bool"))
    check_op(Pad((1, 2), (0, 1), (1, 1), -7), numbers((4, 3), "int64"))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concatenations(axis: int) -> None:
    parts = []
    for k, size in enumerate((3, 0, 1, 8)):
        shape = [4, 5, 6]
        shape[axis] = size
        parts.append(numbers(tuple(shape), "float32", k))
    check_op(Concat(axis), *parts)
    check_op(Concat(axis), parts[0], parts[0])
    check_op(Concat(axis), np.ascontiguousarray(parts[3].T).T, parts[0])
