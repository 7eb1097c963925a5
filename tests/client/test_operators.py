"""Operators on handles mean what they mean in NumPy: compared on the real service, in float64."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gradwire as gw
from gradwire import errors

RNG = np.random.default_rng(7)
Shapes = tuple[tuple[int, ...], ...]


def numbers(*shape: int) -> Any:
    return RNG.uniform(0.5, 2.0, size=shape)


def compare(real: gw.Client, expression: Callable[..., Any], *arrays: Any) -> gw.Tensor:
    """Evaluates an expression on arrays and on handles of inputs of their types."""
    names = [f"x{k}" for k in range(len(arrays))]
    g = real.session({n: (a.shape, a.dtype.name) for n, a in zip(names, arrays, strict=True)})
    with g.batch():
        y: gw.Tensor = expression(*g.args)
        predicted = y.shape
    expected = expression(*arrays)
    assert y.shape == predicted == np.shape(expected)
    got = g.function(y)(dict(zip(names, arrays, strict=True)))
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    assert got.dtype == np.asarray(expected).dtype
    return y


BINARY = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]


@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 3), (2, 3)),
        ((2, 3), (3,)),
        ((), (4,)),
        ((2, 1), (1, 3)),
        ((4, 1, 2), (3, 1)),
        ((1,), ()),
    ],
)
def test_binary_operators_broadcast(real: gw.Client, op: Any, shapes: Shapes) -> None:
    compare(real, op, *(numbers(*shape) for shape in shapes))


@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize(
    "other", [2, 3.5, np.float32(0.5), np.float64(1.5), numbers(3), numbers(2, 1), np.ones(3, "f4")]
)
def test_numbers_and_arrays_on_either_side(real: gw.Client, op: Any, other: Any) -> None:
    compare(real, lambda x: op(x, other), numbers(2, 3))
    compare(real, lambda x: op(other, x), numbers(2, 3))


@pytest.mark.parametrize("op", [operator.neg, operator.pos, operator.abs, lambda x: x**2])
def test_unary_operators(real: gw.Client, op: Any) -> None:
    compare(real, op, numbers(2, 3) - 1.0)


def test_integers_stay_integers(real: gw.Client) -> None:
    compare(real, lambda x, y: -(x * 3 + y - 2) * y, np.array([[1, -2]]), np.array([3, 4]))


def test_a_constant_takes_the_dtype_of_its_handle(real: gw.Client) -> None:
    x = numbers(3).astype(np.float32)
    y = compare(real, lambda v: v + 1.0 + np.float32(2), x)
    assert y.dtype == "float32"


@pytest.mark.parametrize(
    "shapes",
    [
        ((3,), (3,)),
        ((2, 3), (3,)),
        ((3,), (3, 4)),
        ((2, 3), (3, 4)),
        ((5, 2, 3), (5, 3, 4)),
        ((5, 2, 3), (3, 4)),
        ((2, 3), (5, 3, 4)),
        ((3,), (5, 3, 4)),
        ((5, 2, 3), (3,)),
        ((6, 1, 2, 3), (5, 3, 4)),
        ((6, 5, 2, 3), (6, 5, 3, 4)),
        ((2, 3), (6, 5, 3, 4)),
        ((1, 2, 3), (5, 3, 4)),
        ((0, 3), (3, 4)),
    ],
)
def test_matmul_of_every_rank(real: gw.Client, shapes: Shapes) -> None:
    compare(real, operator.matmul, *(numbers(*shape) for shape in shapes))


def test_matmul_with_an_array_on_the_left(real: gw.Client) -> None:
    left = numbers(4, 2)
    compare(real, lambda x: left @ x, numbers(2, 3))


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        (operator.add, ((2,), (3,))),
        (operator.matmul, ((2, 3), (2, 3))),
        (operator.matmul, ((), (3,))),
        (operator.matmul, ((2, 2, 3), (3, 3, 4))),
    ],
)
def test_what_does_not_fit_is_refused_by_the_server(
    real: gw.Client, op: Any, shapes: Shapes
) -> None:
    g = real.session({"a": shapes[0], "b": shapes[1]})
    with pytest.raises(errors.ShapeMismatch) as caught:
        op(g.a, g.b)
    assert caught.value.source is not None
    assert "test_operators.py" in caught.value.source
    assert g.refresh().version == 0


def test_indexing(real: gw.Client) -> None:
    x = numbers(4, 5, 3)
    for key in (
        2,
        -1,
        (slice(1, 3), ..., 0),
        (None, slice(None, None, -2), 1),
        (slice(3, 0, -2), None, slice(1, 1)),
        (...,),
        (0, 0, 0),
    ):
        compare(real, lambda v, key=key: v[key], x)
    compare(real, lambda v: v[3:1], numbers(5))


def test_a_handle_iterates_over_its_first_axis(real: gw.Client) -> None:
    compare(real, lambda x: sum(row for row in x) if len(x) else 0, numbers(3, 2))
    with pytest.raises(TypeError, match="no length"):
        len(real.session({"s": ()}).s)


def test_methods_that_mean_reductions(real: gw.Client) -> None:
    x = numbers(2, 3, 4)
    compare(real, lambda v: v.sum(), x)
    compare(real, lambda v: v.sum(axis=1), x)
    compare(real, lambda v: v.mean(axis=(0, 2), keepdims=True), x)
    compare(real, lambda v: v.max(axis=0) - v.min(axis=0) + v.mean(), x)
    compare(real, lambda v: v.T, x)
    compare(real, lambda v: v.T, numbers(3))
    g = real.session({"x": (2, 3)})
    assert (g.x.ndim, g.x.size) == (2, 6)


def test_generated_methods_are_called_on_the_first_operand(real: gw.Client) -> None:
    x = numbers(2, 3)
    compare(real, lambda v: np.tanh(v) if isinstance(v, np.ndarray) else v.tanh(), x)
    g = real.session({"x": ((2, 3), "float64")})
    y = g.x.take(np.array([2, 0]), axis=1, name="y").reshape((4,)).cumsum(axis=0)
    assert [node["op"] for node in g.nodes()] == ["const", "take", "reshape", "cumsum"]
    np.testing.assert_allclose(g.function(y)(x=x), np.cumsum(x[:, [2, 0]].ravel()))


def test_operators_take_no_names(real: gw.Client) -> None:
    g = real.session({"x": (2,)})
    with pytest.raises(TypeError, match="no names"):
        _ = g.x + "x"


@pytest.mark.parametrize("op", [operator.lt, operator.le, operator.gt, operator.ge])
def test_comparisons(real: gw.Client, op: Any) -> None:
    x = np.array([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]])
    compare(real, op, x, np.array([1.0, 1.0, 0.5]))
    compare(real, lambda v: op(v, 1), x)
    compare(real, lambda v: op(np.ones(3), v), x)


def test_equality_is_of_handles_not_of_values(real: gw.Client) -> None:
    g = real.session({"x": (3,), "y": (3,)})
    same: Any = g["x"]
    assert g.x == same
    assert g.x != g.y
    assert g.x in [g.y, g.x]
    assert {g.x: 1}[same] == 1
    for other in (0, 1.5, np.zeros(3)):
        with pytest.raises(TypeError, match="compares handles, not values"):
            _ = g.x == other
    with pytest.raises(TypeError, match=r"an operand of where is False"):
        g.where(g.x == g.y, g.x, 0)
    assert g.version == 0


def test_a_number_takes_shape_and_dtype_where_all_operands_have_one(real: gw.Client) -> None:
    x = numbers(2, 3) - 1.0
    for dtype in ("float32", "float64"):
        g = real.session({"x": ((2, 3), dtype), "k": ((3,), "int64")})
        with g.batch():
            y = g.where(g.x.greater(0), g.x.maximum(0.25), g.minimum(-1, "x"))
            z = g.add(g.x, np.ones((2, 3)))
            k = g.k.maximum(1)
            assert (y.shape, z.shape, k.shape) == ((2, 3), (2, 3), (3,))
        assert (y.dtype, z.dtype, k.dtype) == (dtype, dtype, "int64")
        expected = np.where(x > 0, np.maximum(x, 0.25), np.minimum(-1, x))
        np.testing.assert_allclose(g.function(y)(x=x), expected, rtol=1e-6)
    with pytest.raises(errors.ShapeMismatch):
        g.add(g.x, np.ones(3))  # the ops do not broadcast, the operators do
    with pytest.raises(errors.DtypeMismatch):
        g.k.maximum(0.5)


def test_an_array_takes_the_dtype_of_the_floats_beside_it(real: gw.Client) -> None:
    g = real.session({"x": (3,)})
    with g.batch():
        y = g.linear(np.ones((2, 3)), np.zeros(2), g.x.exp())
        picked = g.take(y, np.array([1, 0]), axis=0)  # integers are indices here
    assert (y.dtype, picked.dtype) == ("float32", "float32")
    assert [node["op"] for node in g.nodes()].count("const") == 3
    wide = real.session({"x": ((3,), "float64")})
    assert wide.linear(np.ones((2, 3), np.float32), np.zeros(2), "x").dtype == "float64"
