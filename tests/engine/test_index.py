"""Gathers and scatters: positions out of range, duplicates, and who refuses what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradwire_engine import Type, transform
from gradwire_engine.runtime import interpret

from .calls import check_refusal, evaluate, f64, gradients, graph_of, i64

POSITIONS = np.array([0, 1], dtype=np.int64)

REFUSALS: list[tuple[str, tuple[Type, ...], dict[str, Any], str, dict[str, Any]]] = [
    ("take", (f64(3), i64(2)), {}, "missing_attribute", {"attribute": "axis"}),
    ("take", (f64(3), i64(2)), {"axis": 1}, "invalid_attribute", {"attribute": "axis"}),
    ("take", (f64(), i64(2)), {"axis": 0}, "invalid_attribute", {"attribute": "axis"}),
    ("take", (f64(3), f64(2)), {"axis": 0}, "dtype_mismatch", {"operand": "indices"}),
    ("take", (f64(3, 2), i64(3)), {"axis": 0, "batch": 1}, "invalid_attribute", {"value": 1}),
    ("take", (f64(3, 2), i64()), {"axis": 1, "batch": 1}, "invalid_attribute", {}),
    (
        "take",
        (f64(3, 2), i64(4, 5)),
        {"axis": 1, "batch": 1},
        "shape_mismatch",
        {"operand": "indices", "expected": [3, 5], "actual": [4, 5]},
    ),
    (
        "scatter_add",
        (f64(3, 2), i64(4), f64(4, 3)),
        {"axis": 0},
        "shape_mismatch",
        {"operand": "updates", "expected": [4, 2], "actual": [4, 3]},
    ),
    (
        "scatter_add",
        (f64(3), i64(1), Type((1,), "float32")),
        {"axis": 0},
        "dtype_mismatch",
        {"operand": "updates", "expected": "float64", "actual": "float32"},
    ),
    ("take_along_axis", (f64(3, 2), i64(3)), {"axis": 1}, "shape_mismatch", {"actual": [3]}),
    (
        "take_along_axis",
        (f64(3, 2), i64(1, 4)),
        {"axis": 1},
        "shape_mismatch",
        {"expected": [3, 4], "actual": [1, 4]},
    ),
    ("gather_scalar", (f64(3),), {"index": 3}, "index_out_of_bounds", {"index": 3, "high": 2}),
    ("gather_scalar", (f64(3),), {"index": -1}, "index_out_of_bounds", {"index": -1, "low": 0}),
    ("gather_scalar", (f64(3, 2),), {"index": 0}, "shape_mismatch", {"expected": ["n"]}),
    ("gather_row", (f64(3, 2),), {"index": 5}, "index_out_of_bounds", {"attribute": "index"}),
    ("gather_row", (f64(3),), {"index": 0}, "shape_mismatch", {"expected": ["r", "c"]}),
    ("gather_scalar_nat", (f64(3),), {}, "missing_attribute", {"attribute": "index"}),
    ("gather_scalar_nat", (f64(3), i64()), {"index": 1}, "invalid_attribute", {"value": 1}),
    ("gather_scalar_nat", (f64(3), i64(1)), {}, "shape_mismatch", {"operand": "i"}),
    ("gather_scalar_nat", (f64(3), f64()), {}, "dtype_mismatch", {"expected": "int64"}),
    ("gather_vec_nat", (f64(3),), {}, "missing_attribute", {"attribute": "indices"}),
    ("gather_vec_nat", (f64(3), i64(2)), {"indices": POSITIONS}, "invalid_attribute", {}),
    ("gather_vec_nat", (f64(3),), {"indices": POSITIONS[None]}, "invalid_attribute", {}),
    ("gather_vec_nat", (f64(3),), {"indices": np.ones(2)}, "invalid_attribute", {}),
    ("gather_vec_nat", (f64(3), i64(2, 2)), {}, "shape_mismatch", {"operand": "idx"}),
    ("gather_rows_nat", (f64(3), i64(2)), {}, "shape_mismatch", {"operand": "x"}),
    ("scatter_add_vec", (f64(3), f64()), {"index": 3}, "index_out_of_bounds", {"high": 2}),
    ("scatter_add_vec", (f64(3), f64(1)), {"index": 0}, "shape_mismatch", {"operand": "v"}),
    ("scatter_add_vec", (f64(3), i64()), {"index": 0}, "dtype_mismatch", {"operand": "v"}),
    ("scatter_add_row", (f64(3, 2), f64(3)), {"index": 0}, "shape_mismatch", {"expected": [2]}),
    ("scatter_add_row", (f64(3, 2), f64(2)), {"index": -1}, "index_out_of_bounds", {"index": -1}),
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


FAR = np.array([2, -1, 0, 3, 2, 2**62, -(2**63)], dtype=np.int64)


def test_out_of_range_reads_zero_whatever_is_there() -> None:
    x = np.array([np.nan, np.inf, 5.0])
    y = evaluate("take", x, FAR, axis=0)
    np.testing.assert_array_equal(y, [5, 0, np.nan, 0, 5, 0, 0])


def test_duplicates_accumulate_and_out_of_range_has_no_gradient() -> None:
    ct = np.array([1.0, np.nan, 2.0, np.inf, 4.0, np.nan, np.nan])
    (gradient,) = gradients("gather_vec_nat", np.ones(3), FAR, ct=ct)
    np.testing.assert_array_equal(gradient, [2, 0, 5])
    (gradient,) = gradients("gather_vec_nat", np.ones(3), ct=ct, indices=FAR)
    np.testing.assert_array_equal(gradient, [2, 0, 5])


def test_scatter_drops_what_is_out_of_range() -> None:
    x = np.array([10.0, 20.0, 30.0])
    updates = np.array([1.0, np.nan, 2.0, np.inf, 4.0, np.nan, np.nan])
    y = evaluate("scatter_add", x, FAR, updates, axis=0)
    np.testing.assert_array_equal(y, [12, 20, 35])


def test_each_sample_is_in_range_on_its_own() -> None:
    """An index that is out of range in its sample must not land in the next one."""
    x = np.arange(6.0).reshape(2, 3) + 1
    indices = np.array([[3, 0], [-1, 2]])
    np.testing.assert_array_equal(evaluate("take", x, indices, axis=1, batch=1), [[0, 1], [0, 6]])
    batched = transform.vmap(graph_of("take", x[0], indices[0], axis=0), 2, {"x0": 0, "x1": 0})
    np.testing.assert_array_equal(interpret(batched, [x, indices])[0], [[0, 1], [0, 6]])


def test_integers_wrap_and_booleans_or() -> None:
    top = np.array([2**63 - 1], dtype=np.int64)
    y = evaluate("scatter_add", top, np.array([0, 0]), np.array([1, 1]), axis=0)
    np.testing.assert_array_equal(y, [-(2**63) + 1])
    flags = np.array([False, False, True])
    y = evaluate("scatter_add", flags, np.array([0, 0, 2]), np.ones(3, bool), axis=0)
    np.testing.assert_array_equal(y, [True, False, True])
    y = evaluate("scatter_add_vec", flags, np.array(True), index=1)
    np.testing.assert_array_equal(y, [False, True, True])


@pytest.mark.parametrize("rows", [3, 1000], ids=["dense", "large-table"])
def test_float32_accumulates_many_small_numbers(rows: int) -> None:
    count = 100_000 if rows == 3 else 200
    x = np.zeros((rows, 2), np.float32)
    updates = np.full((count, 2), 0.1, np.float32)
    y = evaluate("scatter_add", x, np.full(count, 1), updates, axis=0)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y[1], np.float64(np.float32(0.1)) * count, rtol=1e-7)
    assert not y[[0, 2]].any()


def test_a_scalar_index_may_be_chosen_by_the_run() -> None:
    x = np.array([1.0, 2.0])
    for i, expected in [(0, 1.0), (1, 2.0), (2, 0.0), (-1, 0.0)]:
        assert evaluate("gather_scalar_nat", x, np.array(i)) == expected
        assert evaluate("gather_scalar_nat", x, index=i) == expected
