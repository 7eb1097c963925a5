"""Python values as tensors, attributes and input specs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradwire._values import Input, Reference, as_tensor, input_specs, literal, plain


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (1.5, None, "float32"),
        ([1, 2], None, "int64"),
        ([1, 2.5], None, "float32"),
        (True, None, "bool"),
        (np.float64(1.5), None, "float64"),
        (np.zeros(2), None, "float64"),
        (np.zeros(2, np.float16), None, "float32"),
        (np.zeros(2, np.longdouble), None, "float64"),
        (np.zeros(2, np.int8), None, "int64"),
        (np.zeros(2, np.uint64), None, "int64"),
        (np.zeros(2), "float32", "float32"),
        (np.zeros(2, np.float32), "float64", "float64"),
        (np.zeros(2, np.int64), "float32", "float32"),
        ([1, 2], "float64", "float64"),
        (True, "int64", "int64"),
        (np.zeros(2, np.float32), "int64", "float32"),
        ([1.0], "int64", "float32"),
        ([1], "bool", "int64"),
        (np.zeros(2, ">f8"), None, "float64"),
        (np.zeros(2), "float16", "float64"),
    ],
)
def test_dtypes_follow_the_graph_where_numpy_calls_it_the_same_kind(
    value: Any, dtype: str | None, expected: str
) -> None:
    array = as_tensor(value, dtype)
    assert array.dtype.name == expected
    np.testing.assert_array_equal(array, np.asarray(value))


@pytest.mark.parametrize("value", ["x", None, [1j], [object()], np.zeros(2, "M8[s]")])
def test_what_is_no_tensor(value: Any) -> None:
    with pytest.raises(TypeError, match="made of real numbers or bools"):
        as_tensor(value)


def test_an_unsigned_integer_beyond_int64_is_not_wrapped() -> None:
    with pytest.raises(OverflowError, match="does not fit int64"):
        as_tensor(np.array([2**63], np.uint64))


def test_an_array_of_the_right_dtype_is_not_copied() -> None:
    array = np.zeros(3, np.float32)
    assert as_tensor(array, "float32") is array


def test_literals_are_tensors_and_none_stays_absent() -> None:
    assert literal(None) is None
    made = literal([[1, 0]], "bool")
    assert made is not None
    assert not isinstance(made.array, Reference)
    assert made.array.dtype.name == "int64"
    stays = literal(w := Reference("w"), "bool")
    assert stays is not None
    assert stays.array is w


def test_plain_attributes() -> None:
    given = {"a": np.int64(3), "b": (1, np.float32(0.5)), "c": np.array([[1, 2]]), "d": np.inf}
    assert plain(given) == {"a": 3, "b": [1, 0.5], "c": [[1, 2]], "d": "Infinity"}
    assert plain(float("nan")) == "NaN"
    assert plain(-np.inf) == "-Infinity"
    assert plain("text") == "text"
    assert (plain(np.float32), plain(np.dtype("int64"))) == ("float32", "int64")
    assert plain(range(2)) == [0, 1]
    with pytest.raises(TypeError, match="not of type object"):
        plain([object()])


def test_the_spellings_of_an_input() -> None:
    specs = input_specs(
        {
            "x": (3,),
            "s": (),
            "m": [2, 3],
            "d": ((3,), "float64"),
            "i": Input((np.int64(4),), "int64", differentiable=False),  # type: ignore[arg-type] # NumPy sizes are common
        }
    )
    assert specs == [
        {"name": "x", "shape": [3], "dtype": "float32"},
        {"name": "s", "shape": [], "dtype": "float32"},
        {"name": "m", "shape": [2, 3], "dtype": "float32"},
        {"name": "d", "shape": [3], "dtype": "float64"},
        {"name": "i", "shape": [4], "dtype": "int64", "differentiable": False},
    ]


@pytest.mark.parametrize(
    ("given", "shape", "dtype"),
    [
        ((), [], "float32"),
        ([2, 3], [2, 3], "float32"),
        ((np.int64(2), 3), [2, 3], "float32"),
        (((3,), "float64"), [3], "float64"),
        (((3,), np.float64), [3], "float64"),
        (([3], np.dtype("int64")), [3], "int64"),
        (Input((2,), np.bool_), [2], "bool"),
    ],
)
def test_an_input_is_declared_in_many_ways(given: Any, shape: list[int], dtype: str) -> None:
    assert input_specs({"x": given}) == [{"name": "x", "shape": shape, "dtype": dtype}]


@pytest.mark.parametrize("given", [3, (None, 3), (2.5,), np.zeros((2, 3)), "abc", ((3,), None)])
def test_what_declares_no_input(given: Any) -> None:
    with pytest.raises(TypeError, match="input 'x' is declared by a shape such as"):
        input_specs({"x": given})
    with pytest.raises(TypeError, match="inputs are given by name"):
        input_specs([("x", given)])  # type: ignore[arg-type] # that is the point
