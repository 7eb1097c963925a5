"""Structural ops: errors, and edges that are exact rather than lawful."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradwire_engine import Type

from .calls import check_refusal, evaluate, f64, gradients, i64

BOOL = Type((3,), "bool")

REFUSALS: list[tuple[str, tuple[Type, ...], dict[str, Any], str, dict[str, Any]]] = [
    ("broadcast_to", (f64(2),), {"shape": [3]}, "shape_mismatch", {"actual": [2]}),
    ("broadcast_to", (f64(2, 3),), {"shape": [3]}, "shape_mismatch", {"expected": [3]}),
    ("broadcast_to", (f64(2),), {"shape": [-1]}, "invalid_attribute", {"attribute": "shape"}),
    ("broadcast_to", (f64(2, 2),), {"shape": [2, 2], "axes": [1, 0]}, "invalid_attribute", {}),
    ("broadcast_to", (f64(2),), {"shape": [2, 2], "axes": [2]}, "invalid_attribute", {}),
    ("broadcast_to", (f64(2),), {"shape": [2, 2], "axes": [0, 1]}, "invalid_attribute", {}),
    ("reshape", (f64(2, 3),), {"shape": [4]}, "shape_mismatch", {"actual": [2, 3]}),
    ("reshape", (f64(2, 3),), {"shape": [-1, -1]}, "invalid_attribute", {"value": [-1, -1]}),
    ("reshape", (f64(2, 3),), {"shape": [-2, 3]}, "invalid_attribute", {}),
    ("reshape", (f64(0, 3),), {"shape": [-1, 0]}, "shape_mismatch", {}),
    ("transpose", (f64(2, 3),), {"perm": [0]}, "invalid_attribute", {"attribute": "perm"}),
    ("transpose", (f64(2, 3),), {"perm": [0, 0]}, "invalid_attribute", {}),
    ("transpose", (f64(2, 3),), {"perm": [0, 2]}, "invalid_attribute", {}),
    ("transpose2d", (f64(2),), {}, "shape_mismatch", {"expected": ["m", "n"], "actual": [2]}),
    ("transpose3d_last_two", (f64(2, 3),), {}, "shape_mismatch", {"expected": ["a", "b", "c"]}),
    ("swap_adjacent_at_depth", (f64(2, 3),), {"depth": 1}, "invalid_attribute", {"value": 1}),
    ("swap_adjacent_at_depth", (f64(2, 3),), {"depth": -1}, "invalid_attribute", {}),
    ("squeeze", (f64(2, 1),), {"axis": 0}, "shape_mismatch", {"expected": [1, 1]}),
    ("squeeze", (f64(2, 1),), {"axis": 2}, "invalid_attribute", {"attribute": "axis"}),
    ("squeeze", (f64(1, 1),), {"axis": [0, -2]}, "invalid_attribute", {}),
    ("expand_dims", (f64(2),), {"axis": 2}, "invalid_attribute", {}),
    (
        "slice",
        (f64(3),),
        {"starts": [0], "limits": [4]},
        "index_out_of_bounds",
        {"attribute": "limits", "index": 4, "low": 0, "high": 3},
    ),
    (
        "slice",
        (f64(3),),
        {"starts": [4], "limits": [3]},
        "index_out_of_bounds",
        {"attribute": "starts", "index": 4, "high": 3},
    ),
    ("slice", (f64(3),), {"starts": [-1], "limits": [3]}, "invalid_attribute", {}),
    (
        "slice",
        (f64(3),),
        {"starts": [0], "limits": [3], "strides": [0]},
        "invalid_attribute",
        {"attribute": "strides"},
    ),
    ("slice", (f64(3, 2),), {"starts": [0], "limits": [3]}, "invalid_attribute", {}),
    (
        "slice_range0",
        (f64(5, 2),),
        {"start": 3, "len": 3},
        "index_out_of_bounds",
        {"index": 6, "low": 0, "high": 5},
    ),
    ("slice_range0", (f64(5),), {"start": -1, "len": 3}, "invalid_attribute", {}),
    ("slice_range0", (f64(),), {"start": 0, "len": 0}, "shape_mismatch", {"actual": []}),
    ("pad", (f64(2, 2),), {"low": [1], "high": [1, 1]}, "invalid_attribute", {"attribute": "low"}),
    ("pad", (f64(2),), {"low": [0], "high": [0], "interior": [-1]}, "invalid_attribute", {}),
    ("pad", (f64(2),), {"low": [-2], "high": [-1]}, "shape_mismatch", {"expected": [3]}),
    ("pad", (i64(2),), {"low": 0, "high": 0, "value": 0.5}, "invalid_attribute", {"value": 0.5}),
    ("pad", (BOOL,), {"low": 0, "high": 0, "value": 2}, "invalid_attribute", {}),
    ("flip", (f64(2),), {"axes": [1]}, "invalid_attribute", {"attribute": "axes"}),
    ("flip", (f64(2, 2),), {"axes": [0, 0]}, "invalid_attribute", {}),
    ("concat", (f64(2), f64(2, 1)), {}, "shape_mismatch", {"operand": "xs[1]"}),
    ("concat", (f64(2, 3), f64(2, 4)), {}, "shape_mismatch", {"expected": [2, 3]}),
    ("concat", (f64(2), i64(2)), {}, "dtype_mismatch", {"operand": "xs[1]", "actual": "int64"}),
    ("concat", (f64(), f64()), {}, "invalid_attribute", {"attribute": "axis"}),
    ("stack", (f64(2), f64(3)), {}, "shape_mismatch", {"operand": "xs[1]"}),
    ("stack", (f64(2),), {"axis": 2}, "invalid_attribute", {}),
    ("concat_vectors", (f64(2), f64(2, 1)), {}, "shape_mismatch", {"operand": "b"}),
    ("concat_vectors", (f64(2), i64(2)), {}, "dtype_mismatch", {"operand": "b"}),
    ("concat_dim0", (f64(2, 3), f64(2)), {}, "shape_mismatch", {"expected": ["m", 3]}),
    ("concat_dim0", (f64(), f64()), {}, "shape_mismatch", {"operand": "a"}),
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


def test_pad_as_a_picture() -> None:
    x = np.array([1.0, 2.0, 3.0])
    y = evaluate("pad", x, low=[1], high=[2], interior=[1], value=9)
    np.testing.assert_array_equal(y, [9, 1, 9, 2, 9, 3, 9, 9])
    # The crop is of the spread-out axis [1 9 9 2 9 9 3], as in XLA.
    y = evaluate("pad", x, low=[-2], high=[-3], interior=[2], value=9)
    np.testing.assert_array_equal(y, [9, 2])
    y = evaluate("pad", x, low=[-7], high=[7], interior=[2], value=9)
    np.testing.assert_array_equal(y, [9] * 7)


def test_pad_takes_every_dtype_and_keeps_it() -> None:
    for value in (np.array([True]), np.array([3]), np.array([2], np.float32)):
        y = evaluate("pad", value, low=1, high=0, value=1)
        assert y.dtype == value.dtype
        np.testing.assert_array_equal(y, [1, value[0]])


def test_every_pad_and_its_gradient_by_brute_force() -> None:
    for size in range(4):
        for interior in range(3):
            spread = size + max(size - 1, 0) * interior
            for low in range(-spread - 2, 3):
                for high in range(-spread - low, 3):
                    x = np.arange(1.0, size + 1)
                    margins = {"low": [low], "high": [high], "interior": [interior]}
                    y = evaluate("pad", x, **margins, value=-1)
                    places = low + np.arange(size) * (interior + 1)
                    expected = np.full(spread + low + high, -1.0)
                    inside = (places >= 0) & (places < expected.size)
                    expected[places[inside]] = x[inside]
                    np.testing.assert_array_equal(y, expected)
                    ct = np.arange(10.0, 10 + y.size)
                    (gradient,) = gradients("pad", x, ct=ct, **margins, value=-1)
                    wanted = np.zeros(size)
                    wanted[inside] = ct[places[inside]]
                    np.testing.assert_array_equal(gradient, wanted)


def test_every_slice_is_numpys_and_its_gradient_lands_where_it_came_from() -> None:
    x = np.arange(1.0, 7.0)
    for start in range(7):
        for limit in range(7):
            for stride in (1, 2, 3, 9):
                attrs = {"starts": [start], "limits": [limit], "strides": [stride]}
                y = evaluate("slice", x, **attrs)
                np.testing.assert_array_equal(y, x[start:limit:stride])
                (gradient,) = gradients("slice", x, ct=y, **attrs)
                wanted = np.zeros(6)
                wanted[start:limit:stride] = y
                np.testing.assert_array_equal(gradient, wanted)


def test_structure_moves_bits_unchanged() -> None:
    x = np.array([[np.nan, -0.0], [np.inf, 5e-324]])
    calls: list[tuple[str, dict[str, Any]]] = [
        ("transpose", {"perm": [1, 0]}),
        ("flip", {}),
        ("concat", {}),
        ("pad", {"low": 0, "high": 0}),
        ("reshape", {"shape": [4]}),
    ]
    for op, attrs in calls:
        y = evaluate(op, x, **attrs)
        assert sorted(y.reshape(-1).view(np.int64)) == sorted(x.reshape(-1).view(np.int64))


def test_stretching_one_to_none_has_gradient_zero() -> None:
    (gradient,) = gradients("broadcast_to", np.ones((2, 1)), ct=np.ones((2, 0)), shape=[2, 0])
    np.testing.assert_array_equal(gradient, np.zeros((2, 1)))
