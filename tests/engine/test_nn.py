"""Neural-network ops where the laws do not look: shifts, blocked rows, labels, edges, refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gradwire_engine import errors, ops, transform
from gradwire_engine.ir import Type

from .single import Array, gradients, run, single, tangent, typed, value

NAN, INF = math.nan, math.inf
RNG = np.random.default_rng(3)

# -- softmax ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmaxes_do_not_overflow(dtype: str) -> None:
    x = np.array([[1e4, 0.0, -1e4], [-1e4, -1e4, -1e4]], dtype)
    np.testing.assert_allclose(value("softmax", x), np.array([[1, 0, 0], [1 / 3] * 3]), rtol=1e-6)
    expected = np.array([[0, -1e4, -2e4], [-math.log(3)] * 3])
    np.testing.assert_allclose(value("log_softmax", x), expected, rtol=1e-6)
    for op in ("softmax", "log_softmax"):
        assert np.isfinite(gradients(op, x)[0]).all()
        assert np.isfinite(tangent(op, [x], [RNG.normal(size=x.shape)])).all()


def test_softmaxes_with_infinities() -> None:
    np.testing.assert_array_equal(value("softmax", [0.0, -INF]), [1, 0])
    np.testing.assert_array_equal(value("log_softmax", [0.0, -INF]), [0, -INF])
    for op in ("softmax", "log_softmax"):
        assert np.isnan(value(op, [-INF, -INF])).all()
        assert np.isnan(value(op, [INF, 0.0])).any()
        assert np.isnan(value(op, [NAN, 0.0])).all()
    # A class ruled out by -inf has no share in the derivative, and leaves the others theirs.
    np.testing.assert_allclose(gradients("log_softmax", [1.0, 1.0, -INF], ct=[1, 0, 0])[0], [
        0.5, -0.5, 0.0,
    ])  # fmt: skip


def test_softmax_of_a_scalar_is_constant() -> None:
    for x in (3.0, NAN, INF):
        assert value("softmax", x) == 1
        assert value("log_softmax", x) == 0
        for op in ("softmax", "log_softmax"):
            assert gradients(op, x)[0] == 0
            assert tangent(op, [x], [1.0]) == 0
    graph = transform.vmap(single("log_softmax", [np.asarray(1.0)], {}), 3, {"x0": 0})
    np.testing.assert_array_equal(run(graph, [np.arange(3.0)])[0], [0, 0, 0])


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
def test_softmax_over_nothing_is_empty(op: str) -> None:
    assert value(op, np.zeros((2, 0))).shape == (2, 0)
    assert gradients(op, np.zeros((2, 0)))[0].shape == (2, 0)
    assert value(op, np.zeros((0, 3))).shape == (0, 3)


def test_log_softmax_is_relatively_accurate_near_zero() -> None:
    x = np.array([0.0, -40.0])
    np.testing.assert_allclose(value("log_softmax", x)[0], -math.exp(-40), rtol=1e-12, atol=1e-16)


# -- norms -----------------------------------------------------------------------------------------


def test_layer_norm_of_a_constant_row_is_beta() -> None:
    x, gamma, beta = np.full((2, 3), 7.0), np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0])
    np.testing.assert_array_equal(value("layer_norm", x, gamma, beta), [beta, beta])
    dx, dgamma, dbeta = gradients("layer_norm", x, gamma, beta)
    assert np.isfinite(dx).all()
    np.testing.assert_array_equal(dgamma, [0, 0, 0])
    np.testing.assert_array_equal(dbeta, [2, 2, 2])


def test_layer_norm_keeps_its_accuracy_far_from_zero() -> None:
    x = (1e4 + np.arange(4.0)).astype(np.float32)
    y = value("layer_norm", x, np.ones(4, np.float32), np.zeros(4, np.float32))
    np.testing.assert_allclose(y, (np.arange(4) - 1.5) / math.sqrt(1.25), rtol=1e-4)


def test_layer_norm_over_nothing_is_empty() -> None:
    nothing = np.zeros(0)
    assert value("layer_norm", np.zeros((2, 0)), nothing, nothing).shape == (2, 0)
    shapes = [g.shape for g in gradients("layer_norm", np.zeros((2, 0)), nothing, nothing)]
    assert shapes == [(2, 0), (0,), (0,)]


def test_batchnorm_of_one_cell_is_beta() -> None:
    x, gamma, beta = RNG.normal(size=(3, 1, 1)), RNG.normal(size=3), RNG.normal(size=3)
    y = value("batchnorm_channel_first", x, gamma, beta)
    np.testing.assert_array_equal(y, beta[:, None, None])
    dx, dgamma, dbeta = gradients("batchnorm_channel_first", x, gamma, beta)
    np.testing.assert_array_equal(dx, np.zeros((3, 1, 1)))
    np.testing.assert_array_equal(dgamma, np.zeros(3))
    np.testing.assert_array_equal(dbeta, np.ones(3))
    still = value("batchnorm_channel_first", np.full((3, 1, 1), np.inf), gamma, beta, eps=0)
    np.testing.assert_array_equal(still, beta[:, None, None])


def test_batchnorm_has_statistics_of_its_own_per_sample() -> None:
    x = RNG.normal(size=(4, 2, 3, 3))
    gamma, beta = np.ones(2), np.zeros(2)
    graph = single("batchnorm_channel_first", [x[0], gamma, beta], {})
    (y,) = run(transform.vmap(graph, 4, {"x0": 0}), [x, gamma, beta])
    np.testing.assert_allclose(y.mean((2, 3)), np.zeros((4, 2)), atol=1e-12)
    np.testing.assert_allclose(y.var((2, 3)), np.ones((4, 2)), rtol=1e-4)


# -- attention -------------------------------------------------------------------------------------


def _attention_operands(n: int = 3, width: int = 4, inner: int = 4) -> list[Array]:
    wide = [RNG.normal(size=(width, inner)) for _ in range(3)]
    return [*wide, RNG.normal(size=(inner, width)), RNG.normal(size=(n, width))]


def test_a_fully_blocked_row_yields_zeros_and_no_gradient() -> None:
    operands = _attention_operands()
    mask = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 1]], bool)
    y = value("multi_head_attention", *operands, mask, num_heads=2)
    np.testing.assert_array_equal(y[1], np.zeros(4))
    assert (y[[0, 2]] != 0).all()
    ct = np.zeros((3, 4))
    ct[1] = 1.0
    for g in gradients("multi_head_attention", *operands, mask, num_heads=2, ct=ct):
        np.testing.assert_array_equal(g, np.zeros_like(g))
    blocked = gradients("multi_head_attention", *operands, np.zeros((3, 3), bool), num_heads=2)
    for g in blocked:
        np.testing.assert_array_equal(g, np.zeros_like(g))


def test_second_derivatives_through_a_blocked_row_are_finite() -> None:
    operands = _attention_operands()
    mask = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]], bool)
    graph = single("multi_head_attention", [*operands, mask], {"num_heads": 2})
    wrt = [f"x{i}" for i in range(5)]
    second = transform.vjp(transform.vjp(graph, wrt), [*wrt, "cotangent.y"])
    arrays = [*operands, mask, RNG.normal(size=(3, 4)), np.zeros((3, 4))]
    results = run(second, [*arrays, *(RNG.normal(size=a.shape) for a in operands)])
    assert all(np.isfinite(r).all() for r in results)


def test_attention_mask_as_attribute_or_operand_is_the_same() -> None:
    operands = _attention_operands()
    mask = np.tril(np.ones((3, 3), bool))
    by_operand = value("multi_head_attention", *operands, mask, num_heads=4)
    by_attribute = value("multi_head_attention", *operands, num_heads=4, mask=mask)
    np.testing.assert_array_equal(by_operand, by_attribute)
    everything = value("multi_head_attention", *operands, np.ones((3, 3), bool), num_heads=4)
    plain = value("multi_head_attention", *operands, num_heads=4)
    np.testing.assert_allclose(everything, plain, rtol=1e-14)
    np.testing.assert_allclose(by_operand[2], plain[2], rtol=1e-13)


def test_attention_does_not_overflow() -> None:
    operands = [100 * a.astype(np.float32) for a in _attention_operands()]
    mask = np.eye(3, dtype=bool)
    for extra in ([], [mask]):
        y = value("multi_head_attention", *operands, *extra, num_heads=1)
        assert y.dtype == np.float32
        assert np.isfinite(y).all()
        for g in gradients("multi_head_attention", *operands, *extra, num_heads=1):
            assert np.isfinite(g).all()


def test_attention_over_no_rows_and_without_depth() -> None:
    empty = _attention_operands(n=0)
    assert value("multi_head_attention", *empty, num_heads=2).shape == (0, 4)
    mask = np.zeros((0, 0), bool)
    assert value("multi_head_attention", *empty, mask, num_heads=2).shape == (0, 4)
    shallow = _attention_operands(inner=0)
    y = value("multi_head_attention", *shallow, num_heads=2)
    np.testing.assert_array_equal(y, np.zeros((3, 4)))


# -- cross entropy ---------------------------------------------------------------------------------


def test_cross_entropy_counts_labels_out_of_range_but_they_contribute_nothing() -> None:
    logits = RNG.normal(size=(4, 3))
    labels = np.array([0, -1, 3, 2])
    none = value("cross_entropy", logits, labels, reduction="none")
    np.testing.assert_array_equal(none[[1, 2]], [0, 0])
    assert (none[[0, 3]] > 0).all()
    np.testing.assert_allclose(value("cross_entropy", logits, labels), none.sum() / 4)
    np.testing.assert_allclose(value("cross_entropy", logits, labels, reduction="sum"), none.sum())
    (g,) = gradients("cross_entropy", logits, labels)
    np.testing.assert_array_equal(g[[1, 2]], np.zeros((2, 3)))


def test_cross_entropy_is_zero_plus_for_a_certain_class_and_inf_for_an_impossible_one() -> None:
    logits = np.array([[1e4, 0.0], [-INF, 0.0]], np.float32)
    none = {"reduction": "none"}
    np.testing.assert_array_equal(value("cross_entropy", logits, [0, 1], **none), [0, 0])
    np.testing.assert_array_equal(value("cross_entropy", logits, [1, 0], **none), [1e4, INF])
    (g,) = gradients("cross_entropy", logits, [1, 1], reduction="sum")
    np.testing.assert_array_equal(g, [[1, -1], [0, 0]])


def test_cross_entropy_over_nothing() -> None:
    assert typed("cross_entropy", Type((0, 3)), Type((0,), "int64"), reduction="none").shape == (0,)
    logits, labels = np.zeros((0, 3)), np.zeros(0, np.int64)
    assert value("cross_entropy", logits, labels, reduction="sum") == 0
    with pytest.raises(errors.ShapeMismatch) as caught:
        value("cross_entropy", logits, labels)
    assert caught.value.facts()["op"] == "cross_entropy"
    no_class = np.zeros((2, 0))
    assert value("cross_entropy", no_class, np.array([0, 1])) == 0


# -- refusals --------------------------------------------------------------------------------------

W, X = Type((4, 6)), Type((3, 4))
HEADS = {"num_heads": 2}
LABELS = Type((2,), "int64")

SHAPES: list[tuple[str, tuple[Type, ...], dict[str, Any], str, Any]] = [
    ("layer_norm", (Type(()), Type((1,)), Type((1,))), {}, "x", ["...", "E"]),
    ("layer_norm", (X, Type((3,)), Type((4,))), {}, "gamma", [4]),
    ("layer_norm", (X, Type((4,)), Type((1, 4))), {}, "beta", [4]),
    ("batchnorm_channel_first", (X, Type((3,)), Type((3,))), {}, "x", ["C", "H", "W"]),
    ("batchnorm_channel_first", (Type((2, 3, 3)), Type((3,)), Type((2,))), {}, "gamma", [2]),
    ("batchnorm_channel_first", (Type((2, 3, 3)), Type((2,)), Type((3,))), {}, "beta", [2]),
    ("multi_head_attention", (W, W, W, Type((6, 4)), X), {"num_heads": 4}, "wq", ["D", "H*hd"]),
    ("multi_head_attention", (Type((4,)), W, W, Type((6, 4)), X), HEADS, "wq", ["D", "H*hd"]),
    ("multi_head_attention", (W, Type((4, 5)), W, Type((6, 4)), X), HEADS, "wk", [4, 6]),
    ("multi_head_attention", (W, W, Type((5, 6)), Type((6, 4)), X), HEADS, "wv", [4, 6]),
    ("multi_head_attention", (W, W, W, Type((4, 6)), X), HEADS, "wo", [6, 4]),
    ("multi_head_attention", (W, W, W, Type((6, 4)), Type((3, 5))), HEADS, "x", ["n", 4]),
    (
        "multi_head_attention",
        (W, W, W, Type((6, 4)), X, Type((3, 4), "bool")),
        HEADS,
        "mask",
        [3, 3],
    ),
    (
        "multi_head_attention",
        (W, W, W, Type((6, 4)), X),
        {**HEADS, "mask": np.ones((2, 2), bool)},
        "mask",
        [3, 3],
    ),
    ("cross_entropy", (Type(()), Type((), "int64")), {}, "logits", ["...", "C"]),
    ("cross_entropy", (Type((3, 4)), LABELS), {}, "labels", [3]),
]


@pytest.mark.parametrize(
    ("op", "types", "attrs", "operand", "expected"), SHAPES, ids=[f"{r[0]}-{r[3]}" for r in SHAPES]
)
def test_wrong_shapes(
    op: str, types: tuple[Type, ...], attrs: dict[str, Any], operand: str, expected: Any
) -> None:
    with pytest.raises(errors.ShapeMismatch) as caught:
        typed(op, *types, **attrs)
    facts = caught.value.facts()
    assert (facts["op"], facts["operand"], facts["expected"]) == (op, operand, expected)


@pytest.mark.parametrize(
    ("op", "types", "attrs", "operand"),
    [
        ("softmax", (Type((2,), "int64"),), {}, "x"),
        ("log_softmax", (Type((2,), "bool"),), {}, "x"),
        ("gelu", (Type((2,), "int64"),), {}, "x"),
        ("layer_norm", (X, Type((4,), "float64"), Type((4,))), {}, "gamma"),
        ("cross_entropy", (Type((2, 3)), Type((2,))), {}, "labels"),
        ("cross_entropy", (Type((2, 3), "int64"), LABELS), {}, "logits"),
        ("multi_head_attention", (W, W, W, Type((6, 4)), X, Type((3, 3))), HEADS, "mask"),
    ],
)
def test_wrong_dtypes(
    op: str, types: tuple[Type, ...], attrs: dict[str, Any], operand: str
) -> None:
    with pytest.raises(errors.DtypeMismatch) as caught:
        typed(op, *types, **attrs)
    assert (caught.value.op, caught.value.operand) == (op, operand)


@pytest.mark.parametrize(
    ("op", "attrs", "attribute"),
    [
        ("multi_head_attention", {"num_heads": 0}, "num_heads"),
        ("multi_head_attention", {"num_heads": 1, "mask": np.ones((3, 3))}, "mask"),
        ("cross_entropy", {"reduction": "max"}, "reduction"),
        ("gelu", {"approximate": 1}, "approximate"),
        ("elu", {"alpha": "big"}, "alpha"),
    ],
)
def test_wrong_attributes(op: str, attrs: dict[str, Any], attribute: str) -> None:
    with pytest.raises(errors.InvalidAttribute) as caught:
        ops.find(op).parse(attrs)
    assert caught.value.attribute == attribute


def test_attention_needs_num_heads_and_takes_one_mask() -> None:
    with pytest.raises(errors.MissingAttribute):
        ops.find("multiHeadAttention").parse({})
    mask = np.ones((3, 3), bool)
    with pytest.raises(errors.InvalidAttribute) as caught:
        typed(
            "multi_head_attention",
            *(W, W, W, Type((6, 4)), X, Type((3, 3), "bool")),
            num_heads=2,
            mask=mask,
        )
    assert caught.value.attribute == "mask"
