"""Windows and pools: errors, ties, NaN, padding, and the edges of smooth pooling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradwire_engine import Type
from gradwire_engine.ops import window_numpy
from gradwire_engine.ops.window import Unfold, WindowPick, WindowUnpick
from gradwire_engine.ops.window_numpy import Grid

from .calls import check_refusal, evaluate, f64, gradients, i64

INF, NAN = np.inf, np.nan

REFUSALS: list[tuple[str, tuple[Type, ...], dict[str, Any], str, dict[str, Any]]] = [
    ("max_pool", (f64(1, 4),), {}, "missing_attribute", {"attribute": "kernel"}),
    ("max_pool", (f64(1, 4),), {"kernel": 0}, "invalid_attribute", {"attribute": "kernel"}),
    ("max_pool", (f64(1, 4),), {"kernel": 2, "stride": 0}, "invalid_attribute", {}),
    ("max_pool", (f64(1, 4),), {"kernel": 2, "padding": -1}, "invalid_attribute", {}),
    (
        "max_pool",
        (f64(1, 4),),
        {"kernel": [2, 2]},
        "invalid_attribute",
        {"attribute": "kernel", "value": [2, 2]},
    ),
    (
        "avg_pool",
        (f64(1, 4, 4),),
        {"kernel": 2, "stride": [1]},
        "invalid_attribute",
        {"attribute": "stride"},
    ),
    (
        "max_pool",
        (f64(3, 4, 2),),
        {"kernel": 3},
        "shape_mismatch",
        {"operand": "x", "expected": [3, "s0", "s1"], "actual": [3, 4, 2]},
    ),
    ("max_pool", (f64(4),), {"kernel": 2}, "shape_mismatch", {"expected": ["C", "s0", "..."]}),
    ("max_pool", (i64(1, 4),), {"kernel": 2}, "dtype_mismatch", {"operand": "x"}),
    ("max_pool2d", (f64(1, 4),), {"kernel": 2}, "shape_mismatch", {"expected": ["C", "s0", "s1"]}),
    ("max_pool2d", (f64(1, 4, 4),), {"kernel": [2]}, "invalid_attribute", {"value": [2]}),
    ("max_pool2d", (f64(1, 4, 4),), {"kernel": 2, "stride": [2, 2]}, "invalid_attribute", {}),
    (
        "max_pool2d",
        (f64(1, 4, 4),),
        {"kernel": 2, "padding": 1},
        "unknown_attribute",
        {"attribute": "padding"},
    ),
    ("avg_pool2d_pad", (f64(1, 4, 4),), {"kernel": 2, "padding": [1, 1]}, "invalid_attribute", {}),
    (
        "smooth_max_pool",
        (f64(1, 4),),
        {"kernel": 2, "beta": 0},
        "invalid_attribute",
        {"attribute": "beta", "value": 0},
    ),
    ("smooth_max_pool", (f64(1, 4),), {"kernel": 2}, "missing_attribute", {"attribute": "beta"}),
    (
        "smooth_max_pool2d",
        (f64(1, 4, 4),),
        {"kernel": 2, "beta": "Infinity"},
        "invalid_attribute",
        {"attribute": "beta"},
    ),
    (
        "smooth_max_pool",
        (Type((1, 4), "float32"),),
        {"kernel": 2, "beta": 1e-60},
        "invalid_attribute",
        {"attribute": "beta"},
    ),
    ("unfold", (f64(4),), {"kernel": 2}, "shape_mismatch", {"operand": "x"}),
    ("unfold", (f64(4),), {"kernel": []}, "invalid_attribute", {"attribute": "kernel"}),
    (
        "unfold",
        (f64(4),),
        {"kernel": [2, 2]},
        "shape_mismatch",
        {"expected": ["...", "s0", "s1"], "actual": [4]},
    ),
    ("unfold", (f64(2, 1),), {"kernel": 2}, "shape_mismatch", {"expected": [2, "s0"]}),
    (
        "fold",
        (f64(1, 3, 4),),
        {"kernel": 2},
        "shape_mismatch",
        {"operand": "windows", "expected": [1, 2, 4], "actual": [1, 3, 4]},
    ),
    (
        "fold",
        (f64(1, 2, 4),),
        {"kernel": 2, "size": [10]},
        "shape_mismatch",
        {"operand": "windows", "expected": [1, 2, 5]},
    ),
    ("fold", (f64(1, 2, 4),), {"kernel": 2, "size": [8, 8]}, "invalid_attribute", {}),
    ("fold", (f64(1, 2),), {"kernel": 2}, "shape_mismatch", {"expected": ["C", "k0", "out0"]}),
    ("fold", (f64(1, 1, 1),), {"kernel": 1, "padding": 1}, "shape_mismatch", {}),
    (
        "window_pick",
        (f64(1, 4), f64(1, 5)),
        {"kernel": 2},
        "shape_mismatch",
        {"operand": "v", "expected": [1, 4]},
    ),
    (
        "window_unpick",
        (f64(1, 4), f64(1, 3)),
        {"kernel": 2},
        "shape_mismatch",
        {"operand": "ct", "expected": [1, 2]},
    ),
    ("window_pick", (i64(1, 4), f64(1, 4)), {"kernel": 2}, "dtype_mismatch", {"operand": "by"}),
    (
        "window_pick",
        (i64(1, 4), f64(1, 4)),
        {"kernel": 2, "stride": [1, 1]},
        "invalid_attribute",
        {"attribute": "stride"},
    ),
]


@pytest.mark.parametrize(("op", "types", "attrs", "code", "facts"), REFUSALS)
def test_refusals(
    op: str, types: tuple[Type, ...], attrs: dict[str, Any], code: str, facts: dict[str, Any]
) -> None:
    check_refusal(op, types, attrs, code, facts)


WINNERS: list[tuple[str, list[float], dict[str, Any], list[float], list[float]]] = [
    # x of one channel, attributes, maxima, gradient for a cotangent of ones
    ("tie", [3, 3, 1, 3], {"kernel": 4}, [3], [1, 0, 0, 0]),
    ("signed-zeros", [-0.0, 0.0], {"kernel": 2}, [0], [1, 0]),
    ("overlap", [1, 5, 2], {"kernel": 2, "stride": 1}, [5, 5], [0, 2, 0]),
    ("nan", [1, NAN, 5, NAN], {"kernel": 4}, [NAN], [0, 1, 0, 0]),
    ("nan-beats-inf", [INF, NAN], {"kernel": 2}, [NAN], [0, 1]),
    ("nan-shared", [7, NAN, 2], {"kernel": 2, "stride": 1}, [NAN, NAN], [0, 2, 0]),
    ("inf", [1, INF, INF], {"kernel": 3}, [INF], [0, 1, 0]),
    ("real-minus-inf", [-INF], {"kernel": 2, "stride": 1, "padding": 1}, [-INF, -INF], [2]),
    ("negative", [-3, -2], {"kernel": 2, "padding": 1}, [-3, -2], [1, 1]),
    ("padding-only", [4], {"kernel": 1, "padding": 1}, [0, 4, 0], [1]),
    ("no-limit", [4, -1], {"kernel": 2, "stride": 2, "padding": 3}, [0, 4, -1, 0], [1, 1]),
    ("skipped", [1, 2, 9], {"kernel": 1, "stride": 2}, [1, 9], [1, 0, 1]),
]


@pytest.mark.parametrize("route", ["few places", "few cells"])
@pytest.mark.parametrize(("label", "x", "attrs", "y", "g"), WINNERS, ids=[w[0] for w in WINNERS])
def test_winners(
    label: str,
    x: list[float],
    attrs: dict[str, Any],
    y: list[float],
    g: list[float],
    route: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Grid, "few_places", lambda self, axis: route == "few places")
    data = np.array([x], np.float64)
    np.testing.assert_array_equal(evaluate("max_pool", data, **attrs), [y])
    (pulled,) = gradients("max_pool", data, ct=np.ones((1, len(y))), **attrs)
    np.testing.assert_array_equal(pulled, [g])
    # The general way, where the values that are picked are others than those that compete.
    values = np.arange(1.0, 1 + len(x))[None]
    picked = evaluate("window_pick", data, values, **attrs)
    back = evaluate("window_unpick", data, np.ones((1, len(y))), **attrs)
    np.testing.assert_array_equal(back, [g])
    assert np.sum(picked) == np.sum(back * values)


def test_the_first_winner_is_first_in_row_major_order() -> None:
    x = np.array([[[0.0, 7.0, 7.0], [7.0, 0.0, 7.0], [7.0, 7.0, 7.0]]])
    (g,) = gradients("max_pool2d", x, ct=np.ones((1, 1, 1)), kernel=3)
    expected = np.zeros((1, 3, 3))
    expected[0, 0, 1] = 1
    np.testing.assert_array_equal(g, expected)
    overlapping = gradients("max_pool2d", x, ct=np.ones((1, 2, 2)), kernel=2, stride=1)[0]
    np.testing.assert_array_equal(overlapping, [[[0, 2, 0], [1, 0, 1], [0, 0, 0]]])


def test_an_infinite_cotangent_goes_to_the_winner_alone() -> None:
    x = np.array([[1.0, 2.0, 0.0]])
    (g,) = gradients("max_pool", x, ct=np.array([[INF]]), kernel=3)
    np.testing.assert_array_equal(g, [[0.0, INF, 0.0]])


def test_other_values_do_not_leak_into_what_is_picked() -> None:
    by, v = np.array([[1.0, 2.0, 0.0]]), np.array([[NAN, 5.0, INF]])
    np.testing.assert_array_equal(evaluate("window_pick", by, v, kernel=3), [[5.0]])
    np.testing.assert_array_equal(evaluate("window_pick", by, v, kernel=2, stride=1), [[5.0, 5.0]])


def test_blocks_of_channels_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    by, v = rng.integers(-2, 3, (3, 4, 6, 5)).astype(float), rng.normal(size=(3, 4, 6, 5))
    pick = WindowPick((3, 2), (2, 1), (1, 1))
    ct: Any = rng.normal(size=pick.numpy(by, v).shape)
    unpick = WindowUnpick((3, 2), (2, 1), (1, 1))
    whole: list[Any] = [pick.numpy(by, v), unpick.numpy(by, ct)]
    monkeypatch.setattr(window_numpy, "CACHE_BYTES", 600)
    np.testing.assert_array_equal(pick.numpy(by, v), whole[0])
    np.testing.assert_array_equal(unpick.numpy(by, ct), whole[1])


def test_unfolding_without_padding_is_a_view() -> None:
    x = np.arange(12.0).reshape(2, 6)
    assert np.shares_memory(Unfold((3,), (1,)).numpy(x), x)
    assert Unfold((3,), (1,)).view
    assert not Unfold((3,), (1,), (1,)).view


def test_unfold_takes_every_dtype() -> None:
    x = np.array([[True, True, True]])
    y = evaluate("unfold", x, kernel=2, stride=1, padding=1)
    assert y.dtype == np.bool_
    np.testing.assert_array_equal(y, [[[False, True, True, True], [True, True, True, False]]])


def test_the_average_counts_padding_and_divides() -> None:
    x = np.array([[3.0, 3.0]])
    np.testing.assert_array_equal(evaluate("avg_pool", x, kernel=2, padding=1), [[1.5, 1.5]])
    # A true division: the mean of three equal numbers is that number.
    x = np.full((1, 3), 0.1)
    np.testing.assert_array_equal(evaluate("avg_pool", x, kernel=3), [[0.1 * 3 / 3]])
    large = evaluate("avg_pool", np.ones((1, 3000, 1100), np.float32), kernel=[3000, 1100])
    np.testing.assert_array_equal(large, [[[1.0]]])


@pytest.mark.parametrize("beta", [1.0, -1.0, 30.0])
def test_smooth_pooling_does_not_overflow(beta: float) -> None:
    x = np.array([[1e4, -1e4, 1e4, 1e4, -1e4, -1e4]], np.float32)
    y = evaluate("smooth_max_pool", x, kernel=2, beta=beta)
    hard = (np.maximum if beta > 0 else np.minimum).reduce(x.reshape(3, 2), axis=1)
    ties = np.array([0, 1, 1]) * np.log(2) / beta
    np.testing.assert_allclose(y[0], hard + ties, rtol=1e-6)
    (g,) = gradients("smooth_max_pool", x, ct=np.ones((1, 3), np.float32), kernel=2, beta=beta)
    first = [1, 0] if beta > 0 else [0, 1]
    np.testing.assert_array_equal(g, [[*first, 0.5, 0.5, 0.5, 0.5]])


def test_smooth_pooling_of_infinities() -> None:
    x = np.array([[INF, 1.0, -INF, 1.0, -INF, -INF, NAN, 1.0]])
    y = evaluate("smooth_max_pool", x, kernel=2, beta=2.0)
    np.testing.assert_array_equal(y, [[INF, 1.0, -INF, NAN]])
    (g,) = gradients("smooth_max_pool", np.array([[-INF, 1.0]]), ct=[[1.0]], kernel=2, beta=2.0)
    np.testing.assert_array_equal(g, [[0.0, 1.0]])


def test_smooth_pooling_counts_padding_as_zeros() -> None:
    y = evaluate("smooth_max_pool", np.array([[3.0]]), kernel=2, beta=1.0, stride=1, padding=1)
    np.testing.assert_allclose(y, [[np.log(1 + np.exp(3.0))] * 2], rtol=1e-14)


def test_pools_of_no_cells_see_padding_only() -> None:
    empty = np.zeros((2, 0))
    attrs: dict[str, Any] = {"kernel": 2, "padding": 1}
    np.testing.assert_array_equal(evaluate("max_pool", empty, **attrs), np.zeros((2, 1)))
    np.testing.assert_array_equal(evaluate("avg_pool", empty, **attrs), np.zeros((2, 1)))
    smooth = evaluate("smooth_max_pool", empty, beta=1.0, **attrs)
    np.testing.assert_allclose(smooth, np.full((2, 1), np.log(2)))
    for op in ("max_pool", "avg_pool"):
        assert gradients(op, empty, ct=np.ones((2, 1)), **attrs)[0].shape == (2, 0)
