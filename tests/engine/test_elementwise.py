"""Elementwise ops where the laws do not look: kinks, ties, NaN, infinities and refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gradwire_engine import errors, ops, transform
from gradwire_engine.ir import GraphBuilder, Input, Type

from .single import gradients, hessian, run, single, tangent, typed, value

NAN, INF = math.nan, math.inf
LEAST = np.iinfo(np.int64).min
MOST = np.iinfo(np.int64).max

# -- values ----------------------------------------------------------------------------------------

VALUES: list[tuple[str, list[float], list[float]]] = [
    ("log", [0.0, -0.0, -1.0, INF, NAN], [-INF, -INF, NAN, INF, NAN]),
    ("log1p", [-1.0, -2.0, 1e-300], [-INF, NAN, 1e-300]),
    ("expm1", [1e-300, -INF, INF], [1e-300, -1.0, INF]),
    ("sqrt", [0.0, -1.0, INF, NAN], [0.0, NAN, INF, NAN]),
    ("rsqrt", [0.0, -1.0, INF, 4.0], [INF, NAN, 0.0, 0.5]),
    ("inv", [0.0, -0.0, INF], [INF, -INF, 0.0]),
    ("sigmoid", [-INF, INF, 0.0, NAN, -1e4, 1e4], [0.0, 1.0, 0.5, NAN, 0.0, 1.0]),
    ("softplus", [-INF, INF, 0.0, NAN, -1e4, 1e4], [0.0, INF, math.log(2), NAN, 0.0, 1e4]),
    ("tanh", [-INF, INF, NAN, 1e4], [-1.0, 1.0, NAN, 1.0]),
    ("relu", [-1.0, 0.0, NAN, INF, -INF], [0.0, 0.0, NAN, INF, 0.0]),
    ("abs", [-1.0, -0.0, NAN, -INF], [1.0, 0.0, NAN, INF]),
    ("sign", [-3.0, 0.0, 3.0, -INF, NAN], [-1.0, 0.0, 1.0, -1.0, NAN]),
    ("floor", [-0.5, 0.5, -1.0, INF, NAN], [-1.0, 0.0, -1.0, INF, NAN]),
    ("erf", [-INF, INF, 0.0, NAN], [-1.0, 1.0, 0.0, NAN]),
    ("erfc", [-INF, INF, 0.0, NAN], [2.0, 0.0, 1.0, NAN]),
    ("exp", [-INF, INF, 0.0, NAN, 1e4], [0.0, INF, 1.0, NAN, INF]),
]


@pytest.mark.parametrize(("op", "x", "expected"), VALUES, ids=[row[0] for row in VALUES])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_at_the_edges(op: str, x: list[float], expected: list[float], dtype: str) -> None:
    if dtype == "float32":
        x = [v for v in x if v == 0 or not abs(v) < 1e-30]
        expected = [v for v in expected if v == 0 or not abs(v) < 1e-30]
    y = value(op, x, dtype=dtype)
    np.testing.assert_allclose(y, np.array(expected, dtype), rtol=2e-7)


def test_tails_are_relatively_accurate() -> None:
    np.testing.assert_allclose(value("sigmoid", -700.0), math.exp(-700), rtol=1e-14)
    np.testing.assert_allclose(value("softplus", -700.0), math.exp(-700), rtol=1e-14)
    np.testing.assert_allclose(value("erfc", 20.0), 5.395865611607901e-176, rtol=1e-12)
    np.testing.assert_allclose(value("gelu", -20.0), -20.0 * 2.7536241186062337e-89, rtol=1e-12)
    np.testing.assert_allclose(value("expm1", 1e-12), 1e-12 + 0.5e-24, rtol=1e-15)
    np.testing.assert_allclose(value("log1p", 1e-12), 1e-12 - 0.5e-24, rtol=1e-15)


SMOOTH = [
    "abs", "cos", "erf", "erfc", "expm1", "gelu", "elu", "leaky_relu", "log_softmax", "relu",
    "sigmoid", "sign", "silu", "sin", "softmax", "softplus", "square", "tanh",
]  # fmt: skip


@pytest.mark.parametrize("op", SMOOTH)
def test_nothing_overflows_at_ten_thousand_in_float32(op: str) -> None:
    x = np.array([-1e4, 1e4], np.float32)
    if op == "expm1":
        x = np.minimum(x, 0)
    assert np.isfinite(value(op, x)).all()
    assert np.isfinite(tangent(op, [x], [1.0])).all()
    assert np.isfinite(gradients(op, x)[0]).all()


def test_tanh_form_of_gelu_at_ten_thousand() -> None:
    x = np.array([-1e4, 1e4], np.float32)
    np.testing.assert_array_equal(value("gelu", x, approximate=True), [0, 1e4])
    np.testing.assert_array_equal(gradients("gelu", x, approximate=True)[0], [0, 1])


# -- kinks -----------------------------------------------------------------------------------------

KINKS: list[tuple[str, dict[str, Any], list[float], list[float]]] = [
    ("abs", {}, [-2.0, -0.0, 0.0, 3.0, NAN], [-1, 0, 0, 1, 0]),
    ("relu", {}, [-2.0, -0.0, 0.0, 3.0, NAN], [0, 0, 0, 1, 1]),
    ("sign", {}, [-2.0, 0.0, 3.0, NAN], [0, 0, 0, 0]),
    ("floor", {}, [-2.0, 0.0, 0.5, NAN], [0, 0, 0, 0]),
    ("clamp", {"min": -1, "max": 1}, [-2.0, -1.0, 0.0, 1.0, 2.0, NAN], [0, 1, 1, 1, 0, 0]),
    ("clamp", {"min": -1}, [-2.0, -1.0, 5.0, NAN], [0, 1, 1, 0]),
    ("clamp", {"max": 1}, [-5.0, 1.0, 2.0, INF], [1, 1, 0, 0]),
    ("clamp", {"min": 1, "max": 1}, [0.0, 1.0, 2.0], [0, 1, 0]),
    ("clamp", {}, [0.0, INF, NAN], [1, 1, 1]),
    ("sqrt", {}, [4.0, 0.0, -1.0, INF], [0.25, INF, NAN, 0]),
    ("log", {}, [0.0, -2.0, INF], [INF, -0.5, 0]),
    ("inv", {}, [0.0, INF, 2.0], [-INF, 0, -0.25]),
    ("leaky_relu", {"slope": 0.5}, [-1.0, 0.0, 1.0], [0.5, 0.5, 1]),
    ("elu", {"alpha": 2.0}, [-INF, 0.0, 1.0, 800.0], [0, 2, 1, 1]),
    ("safe_log", {"eps": 0.5}, [0.0, -0.5], [2, INF]),
    ("detach", {}, [1.0, NAN], [0, 0]),
]


@pytest.mark.parametrize(
    ("op", "attrs", "x", "slopes"), KINKS, ids=[f"{r[0]}-{'-'.join(r[1])}" for r in KINKS]
)
def test_derivatives_at_kinks(
    op: str, attrs: dict[str, Any], x: list[float], slopes: list[float]
) -> None:
    np.testing.assert_array_equal(tangent(op, [x], [1.0], **attrs), slopes)
    np.testing.assert_array_equal(gradients(op, x, **attrs)[0], slopes)


@pytest.mark.parametrize(("op", "attrs"), [("relu", {}), ("abs", {}), ("clamp", {"min": 0})])
def test_an_infinite_cotangent_does_not_leak_through_a_closed_branch(
    op: str, attrs: dict[str, Any]
) -> None:
    x = 0.0 if op != "clamp" else -1.0
    for g in (INF, NAN):
        assert gradients(op, x, ct=g, **attrs)[0] == 0
        assert tangent(op, [x], [g], **attrs) == 0


def test_where_gives_the_branch_not_taken_an_exact_zero() -> None:
    cond = np.array([True, False])
    a, b = np.array([1.0, NAN]), np.array([INF, 2.0])
    np.testing.assert_array_equal(value("where", cond, a, b), [1, 2])
    da, db = gradients("where", cond, a, b, ct=[NAN, INF])
    np.testing.assert_array_equal(da, [NAN, 0])
    np.testing.assert_array_equal(db, [0, INF])
    np.testing.assert_array_equal(tangent("where", [cond, a, b], [None, INF, 5.0]), [INF, 5])


# -- ties ------------------------------------------------------------------------------------------

TIES = [
    ("maximum", 1.0, 1.0, 1.0, 0.5, 0.5),
    ("maximum", 0.0, -0.0, 0.0, 0.5, 0.5),
    ("maximum", 2.0, 1.0, 2.0, 1.0, 0.0),
    ("maximum", 1.0, 2.0, 2.0, 0.0, 1.0),
    ("maximum", INF, INF, INF, 0.5, 0.5),
    ("minimum", 1.0, 1.0, 1.0, 0.5, 0.5),
    ("minimum", 2.0, 1.0, 1.0, 0.0, 1.0),
    ("minimum", 1.0, 2.0, 1.0, 1.0, 0.0),
    ("maximum", NAN, 1.0, NAN, 1.0, 1.0),
    ("minimum", 1.0, NAN, NAN, 1.0, 1.0),
]


@pytest.mark.parametrize(("op", "a", "b", "y", "da", "db"), TIES)
def test_ties(op: str, a: float, b: float, y: float, da: float, db: float) -> None:
    np.testing.assert_array_equal(value(op, a, b), y)
    np.testing.assert_array_equal(gradients(op, a, b), [da, db])
    assert tangent(op, [a, b], [1.0, None]) == da
    assert tangent(op, [a, b], [None, 1.0]) == db
    assert tangent(op, [a, b], [1.0, 1.0]) == da + db


# -- pow -------------------------------------------------------------------------------------------

POW = [
    # a, b, a^b, d/da, d/db, and the second derivatives aa, ab, ba, bb
    (2.0, 3.0, 8.0, 12.0, 8 * math.log(2), None),
    (0.0, 0.0, 1.0, 0.0, 0.0, (0, 0, 0, 0)),
    (0.0, 1.0, 0.0, 1.0, 0.0, (0, 1, 0, 0)),
    (0.0, 2.0, 0.0, 0.0, 0.0, (2, 0, 0, 0)),
    (0.0, 3.0, 0.0, 0.0, 0.0, (0, 0, 0, 0)),
    (0.0, 0.5, 0.0, INF, 0.0, None),
    (0.0, -1.0, INF, -INF, -INF, None),
    (2.0, 0.0, 1.0, 0.0, math.log(2), (0, 0.5, 0.5, math.log(2) ** 2)),
    (2.0, 1.0, 2.0, 1.0, 2 * math.log(2), None),
    (-2.0, 2.0, 4.0, -4.0, NAN, None),
    (-2.0, 0.0, 1.0, 0.0, NAN, None),
    (-2.0, 0.5, NAN, NAN, NAN, None),
    (NAN, 0.0, 1.0, 0.0, NAN, None),
    (1e-200, 0.0, 1.0, 0.0, math.log(1e-200), (0, 1e200, 1e200, math.log(1e-200) ** 2)),
    (1e-310, 0.0, 1.0, 0.0, math.log(1e-310), None),
    (INF, 0.0, 1.0, 0.0, INF, None),
]


@pytest.mark.parametrize(("a", "b", "y", "da", "db", "second"), POW)
def test_corners_of_pow(
    a: float, b: float, y: float, da: float, db: float, second: tuple[float, ...] | None
) -> None:
    np.testing.assert_array_equal(value("pow", a, b), y)
    np.testing.assert_allclose(gradients("pow", a, b), [da, db], rtol=1e-14)
    np.testing.assert_allclose(tangent("pow", [a, b], [1.0, None]), da, rtol=1e-14)
    np.testing.assert_allclose(tangent("pow", [a, b], [None, 1.0]), db, rtol=1e-14)
    if second is not None:
        expected = np.reshape(second, (2, 2))
        np.testing.assert_allclose(hessian("pow", a, b), expected, rtol=1e-13)


def test_second_derivative_of_a_power_by_a_constant_exponent_is_finite() -> None:
    for b, expected in ((0.0, 0.0), (1.0, 0.0), (2.0, 2.0), (3.0, 0.0)):
        for a in (0.0, -0.0):
            assert hessian("pow", a, b)[0, 0] == expected
    assert hessian("pow", np.float32(1e-20), np.float32(0))[0, 0] == 0


@pytest.mark.parametrize("b", [-1.5, -1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 4.5])
def test_a_constant_exponent_has_the_derivatives_of_a_variable_one(b: float) -> None:
    graph = GraphBuilder()
    x = graph.input(Input("x", Type((4,), "float64")))
    fixed = graph.graph([("y", x**b)])
    point, ones = np.array([0.3, 1.0, 2.5, 7.0]), np.ones(4)
    first = transform.vjp(fixed, ["x"])
    slope = gradients("pow", point, np.full(4, b))[0]
    np.testing.assert_allclose(run(first, [point, ones])[1], slope, rtol=1e-14)
    second = run(transform.jvp(first, ["x"]), [point, ones, ones])[-1]
    expected = [hessian("pow", p, b)[0, 0] for p in point]
    np.testing.assert_allclose(second, expected, rtol=1e-13)


def test_a_constant_exponent_at_zero() -> None:
    for b, slope, bend in ((0.0, 0.0, 0.0), (1.0, 1.0, 0.0), (2.0, 0.0, 2.0), (3.0, 0.0, 0.0)):
        graph = GraphBuilder()
        x = graph.input(Input("x", Type((), "float64")))
        first = transform.vjp(graph.graph([("y", x**b)]), ["x"])
        second = transform.jvp(first, ["x"])
        assert run(second, [0.0, 1.0, 1.0])[1] == slope
        assert run(second, [0.0, 1.0, 1.0])[-1] == bend


# -- the rest --------------------------------------------------------------------------------------


def test_atan2_in_all_directions() -> None:
    y = np.array([0.0, 1.0, 0.0, -1.0, 0.0])
    x = np.array([1.0, 0.0, -1.0, 0.0, 0.0])
    half = math.pi / 2
    np.testing.assert_allclose(value("atan2", y, x), [0, half, math.pi, -half, 0])
    dy, dx = gradients("atan2", y[:4], x[:4])
    np.testing.assert_allclose(dy, x[:4])
    np.testing.assert_allclose(dx, -y[:4])
    # No square over- or underflows on the way to a derivative that does neither.
    for size in (1e-200, 1e200):
        dy, dx = gradients("atan2", size, size)
        np.testing.assert_allclose([dy, dx], [0.5 / size, -0.5 / size])


def test_atan2_at_the_origin_and_at_infinity_differentiates_as_in_pytorch() -> None:
    for y, x in ((0.0, 0.0), (0.0, -0.0), (-0.0, 0.0)):
        np.testing.assert_array_equal(gradients("atan2", y, x, ct=3.0), [0, 0])
        assert tangent("atan2", [y, x], [1.0, 2.0]) == 0
        np.testing.assert_array_equal(hessian("atan2", y, x), np.zeros((2, 2)))
    np.testing.assert_array_equal(gradients("atan2", INF, 2.0), [0, NAN])
    np.testing.assert_array_equal(gradients("atan2", 2.0, -INF), [NAN, 0])
    np.testing.assert_array_equal(gradients("atan2", INF, INF), [NAN, NAN])


def test_the_slope_of_a_logarithm_of_something_tiny() -> None:
    tiny = np.array([1e-310, 5e-324])  # 1/x is infinite
    np.testing.assert_array_equal(gradients("log", tiny, ct=tiny)[0], [1, 1])
    np.testing.assert_array_equal(tangent("log", [tiny], [tiny]), [1, 1])
    np.testing.assert_array_equal(gradients("log", tiny, ct=0.0)[0], [0, 0])


def test_gelu_of_the_largest_number() -> None:
    top = np.finfo(np.float32).max
    np.testing.assert_array_equal(value("gelu", np.array([top, -top])), [top, 0])


def test_where_over_many_elements_keeps_every_bit() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(300, 200)).astype(np.float32)
    b = np.asfortranarray(rng.normal(size=a.shape).astype(np.float32))
    a[::3], a[1::3, ::2], b[::5], b[:, ::7] = NAN, -0.0, INF, -NAN
    for cond in (a > b, np.asfortranarray(a > b), np.broadcast_to(a[:1] > 0, a.shape)):
        y = value("where", cond, a, b)
        assert y.tobytes() == np.where(cond, a, b).tobytes()


def test_comparisons_with_nan() -> None:
    a, b = np.array([NAN, 1.0, NAN]), np.array([NAN, NAN, 1.0])
    for op in ("equal", "less", "less_equal", "greater", "greater_equal"):
        assert not value(op, a, b).any()
    assert value("not_equal", a, b).all()
    np.testing.assert_array_equal(value("is_finite", [0.0, INF, -INF, NAN]), [1, 0, 0, 0])


def test_integers_wrap() -> None:
    assert value("add", MOST, 1) == LEAST
    assert value("sub", LEAST, 1) == MOST
    assert value("mul", MOST, 2) == -2
    assert value("neg", LEAST) == LEAST
    assert value("abs", LEAST) == LEAST
    assert value("square", 2**32) == 0
    assert value("scale", 2**62, c=4) == 0
    np.testing.assert_array_equal(value("sign", [-5, 0, 7]), [-1, 0, 1])
    np.testing.assert_array_equal(value("clamp", [-5, 0, 7], min=-1, max=2), [-1, 0, 2])
    np.testing.assert_array_equal(value("clamp", [2**62 + 1], max=2**62), [2**62])
    np.testing.assert_array_equal(value("maximum", [1, 5], [2, 4]), [2, 5])


CASTS = [
    ([1.9, -1.9, 0.0], "int64", [1, -1, 0]),
    ([NAN, INF, -INF, 1e300], "int64", [LEAST] * 4),
    ([2.0**62, -(2.0**63)], "int64", [2**62, LEAST]),
    ([0.0, -0.0, 0.5, NAN], "bool", [False, False, True, True]),
    ([True, False], "float32", [1.0, 0.0]),
    ([2, 0], "bool", [True, False]),
    ([2**53 + 1], "float64", [2.0**53]),
    ([1e300, 1.0], "float32", [INF, 1.0]),
]


@pytest.mark.parametrize(("x", "dtype", "expected"), CASTS)
def test_casts(x: list[Any], dtype: str, expected: list[Any]) -> None:
    y = _cast(x, dtype)
    assert y.dtype.name == dtype
    np.testing.assert_array_equal(y, np.array(expected, dtype))


def _cast(x: list[Any], dtype: str) -> np.ndarray[Any, Any]:
    array = np.asarray(x)
    return run(single("cast", [array], {"dtype": dtype}), [array])[0]


def test_scalar_attributes_take_the_operands_dtype() -> None:
    x = np.array([0.3, 1.7], np.float32)
    np.testing.assert_array_equal(value("scale", x, c=0.1), x * np.float32(0.1))
    assert value("safe_log", np.float32(0), eps=1e-6).dtype == np.float32
    assert value("scale", np.float32(3), c="Infinity") == INF


# -- refusals --------------------------------------------------------------------------------------

F32, F64, I64, B = (Type((2,), d) for d in ("float32", "float64", "int64", "bool"))

DTYPE_REFUSALS = [
    ("tanh", (I64,), {}, "x", ["float32", "float64"], "int64"),
    ("relu", (I64,), {}, "x", ["float32", "float64"], "int64"),
    ("div", (I64, I64), {}, "a", ["float32", "float64"], "int64"),
    ("pow", (F32, F64), {}, "b", "float32", "float64"),
    ("add", (B, B), {}, "a", ["float32", "float64", "int64"], "bool"),
    ("add", (F32, I64), {}, "b", "float32", "int64"),
    ("equal", (F32, F64), {}, "b", "float32", "float64"),
    ("logical_and", (B, F32), {}, "b", "bool", "float32"),
    ("logical_not", (F32,), {}, "x", "bool", "float32"),
    ("where", (F32, F32, F32), {}, "cond", "bool", "float32"),
    ("where", (B, F32, F64), {}, "b", "float32", "float64"),
    ("atan2", (F32, F64), {}, "x", "float32", "float64"),
    ("is_finite", (I64,), {}, "x", ["float32", "float64"], "int64"),
    ("scale", (B,), {"c": 2}, "x", ["float32", "float64", "int64"], "bool"),
    ("floor", (I64,), {}, "x", ["float32", "float64"], "int64"),
]


@pytest.mark.parametrize(
    ("op", "types", "attrs", "operand", "expected", "actual"),
    DTYPE_REFUSALS,
    ids=[f"{r[0]}-{r[3]}" for r in DTYPE_REFUSALS],
)
def test_wrong_dtypes(
    op: str,
    types: tuple[Type, ...],
    attrs: dict[str, Any],
    operand: str,
    expected: Any,
    actual: str,
) -> None:
    with pytest.raises(errors.DtypeMismatch) as caught:
        typed(op, *types, **attrs)
    assert caught.value.facts() == {
        "op": op,
        "operand": operand,
        "expected": expected,
        "actual": actual,
    }


@pytest.mark.parametrize(
    ("op", "types", "operand"),
    [
        ("add", (F32, Type((3,))), "b"),
        ("mul", (Type((2, 1)), Type((2, 3))), "b"),
        ("pow", (F32, Type(())), "b"),
        ("less", (F32, Type((2, 2))), "b"),
        ("where", (Type((), "bool"), F32, F32), "a"),
        ("where", (B, F32, Type((3,))), "b"),
        ("atan2", (F32, Type((1,))), "x"),
    ],
)
def test_no_op_broadcasts(op: str, types: tuple[Type, ...], operand: str) -> None:
    with pytest.raises(errors.ShapeMismatch) as caught:
        typed(op, *types)
    facts = caught.value.facts()
    position = [o.name for o in ops.CATALOGUE[op].operands].index(operand)
    assert (facts["op"], facts["operand"]) == (op, operand)
    assert facts["expected"] == list(types[0].shape)
    assert facts["actual"] == list(types[position].shape)


@pytest.mark.parametrize(
    ("op", "attrs", "type", "attribute"),
    [
        ("clamp", {"min": 2, "max": 1}, F32, "min"),
        ("clamp", {"min": 0.5}, I64, "min"),
        ("clamp", {"max": 0.5}, I64, "max"),
        ("clamp", {"min": "small"}, F32, "min"),
        ("scale", {"c": 0.5}, I64, "c"),
        ("scale", {"c": 1e39}, F32, "c"),
        ("scale", {"c": [1]}, F32, "c"),
        ("safe_log", {"eps": 1e39}, F32, "eps"),
        ("cast", {"dtype": "float16"}, F32, "dtype"),
    ],
)
def test_wrong_attributes(op: str, attrs: dict[str, Any], type: Type, attribute: str) -> None:
    with pytest.raises(errors.InvalidAttribute) as caught:
        ops.find(op).parse(attrs).typing(type)
    facts = caught.value.facts()
    assert (facts["op"], facts["attribute"]) == (op, attribute)
    assert facts["value"] == attrs[attribute]


def test_a_cast_to_the_same_dtype_is_differentiable_and_others_between_floats() -> None:
    x = np.array([1.0, 2.0], np.float32)
    graph_gradient = _gradient_of_cast(x, "float64")
    assert graph_gradient.dtype == np.float32
    np.testing.assert_array_equal(graph_gradient, [1, 1])


def _gradient_of_cast(x: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    graph = transform.vjp(single("cast", [x], {"dtype": dtype}), ["x0"])
    return run(graph, [x, np.ones(x.shape, dtype)])[1]
