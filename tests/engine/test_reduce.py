"""Reductions: ties, NaN, emptiness, accuracy, and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradwire_engine import Builder, Entry, Input, Type
from gradwire_engine.ir import type_of

from .calls import check_refusal, evaluate, f64, gradients, i64
from .support import run

BOOL = Type((3,), "bool")

REFUSALS: list[tuple[str, tuple[Type, ...], dict[str, Any], str, dict[str, Any]]] = [
    ("reduce_sum", (f64(2, 3),), {"axis": 2}, "invalid_attribute", {"attribute": "axis"}),
    ("reduce_sum", (f64(2, 3),), {"axis": [0, -2]}, "invalid_attribute", {}),
    ("reduce_sum", (f64(),), {"axis": 0}, "invalid_attribute", {"value": 0}),
    ("reduce_sum", (BOOL,), {}, "dtype_mismatch", {"operand": "x", "actual": "bool"}),
    ("sum", (BOOL,), {}, "dtype_mismatch", {"operand": "x"}),
    ("reduce_mean", (f64(0, 3),), {"axis": 0}, "shape_mismatch", {"expected": [1, 3]}),
    ("reduce_mean", (i64(3),), {}, "dtype_mismatch", {"actual": "int64"}),
    ("reduce_mean", (i64(3),), {"axis": 1}, "invalid_attribute", {}),
    ("reduce_max", (f64(2, 0),), {}, "shape_mismatch", {"actual": [2, 0]}),
    ("reduce_min", (f64(2, 0),), {"axis": -1}, "shape_mismatch", {"operand": "x"}),
    ("reduce_max", (BOOL,), {}, "dtype_mismatch", {}),
    ("logsumexp", (i64(2),), {}, "dtype_mismatch", {}),
    ("mse_loss", (f64(2), f64(3)), {}, "shape_mismatch", {"operand": "target"}),
    ("mse_loss", (f64(0), f64(0)), {}, "shape_mismatch", {"operand": "yhat"}),
    ("mse_loss", (f64(2), i64(2)), {}, "dtype_mismatch", {"operand": "target"}),
    ("cumsum", (f64(2),), {}, "missing_attribute", {"attribute": "axis"}),
    ("cumsum", (f64(),), {"axis": 0}, "invalid_attribute", {}),
    ("cumsum", (BOOL,), {"axis": 0}, "dtype_mismatch", {}),
    ("argmax", (f64(2),), {}, "missing_attribute", {"attribute": "axis"}),
    ("argmax", (f64(2, 0),), {"axis": 1}, "shape_mismatch", {"expected": [2, 1]}),
    ("argmin", (BOOL,), {"axis": 0}, "dtype_mismatch", {}),
]


@pytest.mark.parametrize(
    ("op", "types", "attrs", "code", "facts"),
    REFUSALS,
    ids=[f"{i}-{r[0]}" for i, r in enumerate(REFUSALS)],
)
def test_refusals(
    op: str, types: tuple[Type, ...], attrs: dict[str, Any], code: str, facts: dict[str, Any]
) -> None:
    check_refusal(op, types, attrs, code, facts)


def test_ties_share_the_derivative() -> None:
    x = np.array([[2.0, 1.0, 2.0], [3.0, 3.0, 3.0]])
    (gradient,) = gradients("reduce_max", x, ct=[6.0, 6.0], axis=1)
    np.testing.assert_array_equal(gradient, [[3, 0, 3], [2, 2, 2]])
    (gradient,) = gradients("reduce_min", x, ct=6.0)
    np.testing.assert_array_equal(gradient, [[0, 6, 0], [0, 0, 0]])


def test_the_loser_of_a_maximum_gets_an_exact_zero() -> None:
    (gradient,) = gradients("reduce_max", np.array([1.0, 2.0]), ct=np.inf)
    np.testing.assert_array_equal(gradient, [0, np.inf])


def test_nan_wins() -> None:
    x = np.array([1.0, np.nan, np.inf, np.nan])
    assert np.isnan(evaluate("reduce_max", x))
    assert np.isnan(evaluate("reduce_min", x))
    assert evaluate("argmax", x, axis=0) == 1
    assert evaluate("argmin", x, axis=0) == 1


@pytest.mark.parametrize("op", ["reduce_max", "reduce_min"])
def test_the_derivative_of_an_extreme_that_is_nan_is_nan_both_ways(op: str) -> None:
    x = np.array([[1.0, np.nan, 2.0], [3.0, 3.0, 3.0]])
    (gradient,) = gradients(op, x, ct=np.array([0.0, 3.0]), axis=1)
    np.testing.assert_array_equal(gradient, [[np.nan] * 3, [1, 1, 1]])
    builder = Builder([Input("x", type_of(x))])
    builder.append([Entry(op, (0,), {"axis": 1}, "y")])
    moved = run(
        builder.graph(), {"inputs/x": x, "tangents/x": np.array([[0.0] * 3, [1, 2, 3]])}, mode="jvp"
    )
    np.testing.assert_array_equal(moved["tangents/y"], [np.nan, 2])


def test_the_first_of_equals_is_the_position() -> None:
    x = np.array([[3, 1, 3], [0, 0, 0]])
    y = evaluate("argmax", x, axis=1)
    assert y.dtype == np.int64
    np.testing.assert_array_equal(y, [0, 0])
    np.testing.assert_array_equal(evaluate("argmin", x, axis=1), [1, 0])
    assert evaluate("argmax", np.zeros((0, 3)), axis=1).shape == (0,)


def test_integers_wrap() -> None:
    top = np.array([2**63 - 1, 1], dtype=np.int64)
    assert evaluate("reduce_sum", top) == -(2**63)
    assert evaluate("sum", top) == -(2**63)
    assert evaluate("cumsum", top, axis=0)[1] == -(2**63)
    assert evaluate("reduce_max", top) == 2**63 - 1


def test_nothing_sums_to_zero() -> None:
    np.testing.assert_array_equal(evaluate("reduce_sum", np.ones((0, 2)), axis=0), [0, 0])
    assert evaluate("sum", np.ones(0)) == 0
    assert evaluate("logsumexp", np.ones(0)) == -np.inf
    (gradient,) = gradients("logsumexp", np.ones(0), ct=1.0)
    assert gradient.shape == (0,)


def test_the_mean_of_equal_numbers_is_that_number() -> None:
    for count in (3, 49, 1000, 12345):
        assert evaluate("reduce_mean", np.ones(count, np.float32)) == 1


def test_logsumexp_neither_overflows_nor_cancels() -> None:
    x = np.array([[1e4, 1e4], [-1e4, -1e4]], np.float32)
    y = evaluate("logsumexp", x, axis=1)
    np.testing.assert_allclose(y, np.array([1e4, -1e4]) + np.log(2), rtol=1e-6)
    (gradient,) = gradients("logsumexp", x, ct=np.ones(2, np.float32), axis=1)
    np.testing.assert_array_equal(gradient, [[0.5, 0.5], [0.5, 0.5]])


def test_logsumexp_of_infinities() -> None:
    def value(*x: float) -> Any:
        return evaluate("logsumexp", np.array(x))

    assert value(-np.inf, -np.inf) == -np.inf
    assert value(np.inf, 0.0) == np.inf
    assert value(-np.inf, 3.0) == 3.0
    assert np.isnan(value(np.nan, 0.0))
    (gradient,) = gradients("logsumexp", np.array([-np.inf, 3.0]), ct=1.0)
    np.testing.assert_array_equal(gradient, [0, 1])


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_float32_sums_stay_accurate(axis: int | None) -> None:
    shape = (1000, 2000) if axis != 0 else (500_000, 3)
    x = np.random.default_rng(0).random(shape, dtype=np.float32)
    y = evaluate("reduce_sum", x, axis=axis)
    exact = x.sum(axis=axis, dtype=np.float64)
    np.testing.assert_allclose(y, exact, rtol=3e-7)
    turned = evaluate("reduce_sum", np.asfortranarray(x), axis=axis)
    np.testing.assert_allclose(turned, exact, rtol=3e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((9001, 2), 1), ((9001, 2), 0), ((9001, 3, 4), [0, 1]), ((70, 70, 5), [0, 1]), ((4, 9000), 0)],
)
def test_sums_of_short_rows_and_of_few_terms(
    shape: tuple[int, ...], axis: Any, keepdims: bool, dtype: str
) -> None:
    x = np.random.default_rng(0).integers(-99, 99, shape).astype(dtype)
    y = evaluate("reduce_sum", x, axis=axis, keepdims=keepdims)
    axes = tuple(np.atleast_1d(axis))
    np.testing.assert_array_equal(y, x.sum(axis=axes, keepdims=keepdims))
    top = evaluate("reduce_max", x, axis=axis, keepdims=keepdims)
    np.testing.assert_array_equal(top, x.max(axis=axes, keepdims=keepdims))


def test_float32_running_sums_stay_accurate() -> None:
    x = np.full(1_000_000, 0.1, np.float32)
    y = evaluate("cumsum", x, axis=0)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y[-1], np.float64(x[0]) * x.size, rtol=1e-6)
