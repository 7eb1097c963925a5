"""Convolution: errors, edges, the ways it runs in NumPy, and the memory it says it needs."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import numpy as np
import pytest

from gradwire_engine import Type
from gradwire_engine.ir import type_of
from gradwire_engine.ops import conv_geometry, conv_numpy
from gradwire_engine.ops.conv import ConvGeneral

from .calls import check_refusal, evaluate, f64, gradients, i64

REFUSALS: list[tuple[str, tuple[Type, ...], dict[str, Any], str, dict[str, Any]]] = [
    ("conv", (f64(2, 1, 3), f64(2), f64(1, 5)), {"stride": 0}, "invalid_attribute", {"value": 0}),
    ("conv", (f64(2, 1, 3), f64(2), f64(1, 5)), {"padding": -1}, "invalid_attribute", {}),
    (
        "conv",
        (f64(2, 1, 3), f64(2), f64(1, 5)),
        {"stride": [1, 1]},
        "invalid_attribute",
        {"attribute": "stride", "value": [1, 1]},
    ),
    ("conv", (f64(2, 3), f64(2), f64(1, 5)), {}, "shape_mismatch", {"operand": "w"}),
    (
        "conv",
        (f64(2, 1, 3), f64(3), f64(1, 5)),
        {},
        "shape_mismatch",
        {"operand": "b", "expected": [2], "actual": [3]},
    ),
    (
        "conv",
        (f64(2, 1, 3), f64(2), f64(2, 5)),
        {},
        "shape_mismatch",
        {"operand": "x", "expected": [1, "s0"], "actual": [2, 5]},
    ),
    ("conv", (f64(2, 1, 3), f64(2), f64(1, 5, 5)), {}, "shape_mismatch", {"operand": "x"}),
    (
        "conv",
        (f64(2, 1, 3, 3), f64(2), f64(1, 4, 2)),
        {},
        "shape_mismatch",
        {"operand": "x", "expected": [1, 4, "s1"], "actual": [1, 4, 2]},
    ),
    ("conv", (f64(2, 1, 0), f64(2), f64(1, 5)), {}, "shape_mismatch", {"expected": [2, 1, "k0"]}),
    ("conv", (i64(2, 1, 3), i64(2), i64(1, 5)), {}, "dtype_mismatch", {"operand": "w"}),
    (
        "conv_transpose",
        (f64(1, 2, 2), f64(2), f64(1, 2)),
        {"padding": 2},
        "shape_mismatch",
        {"operand": "x", "expected": [1, "s0"]},
    ),
    (
        "conv_transpose",
        (f64(1, 2, 2), f64(1), f64(1, 2)),
        {},
        "shape_mismatch",
        {"operand": "b", "expected": [2]},
    ),
    (
        "conv2d",
        (f64(2, 1, 3), f64(2), f64(1, 5)),
        {},
        "shape_mismatch",
        {"operand": "w", "expected": ["O", "I", "k0", "k1"]},
    ),
    (
        "conv_transpose2d",
        (f64(2, 1, 3, 3, 3), f64(1), f64(2, 5, 5, 5)),
        {},
        "shape_mismatch",
        {"operand": "w", "expected": ["I", "O", "k0", "k1"]},
    ),
    (
        "conv_general",
        (f64(1, 3, 5), f64(2, 1, 3)),
        {"groups": 2},
        "shape_mismatch",
        {"operand": "x", "expected": ["N", 2, 5]},
    ),
    (
        "conv_general",
        (f64(1, 4, 5), f64(3, 2, 3)),
        {"groups": 2},
        "shape_mismatch",
        {"operand": "w", "expected": ["O", 2, 3]},
    ),
    ("conv_general", (f64(1, 4), f64(3, 4)), {}, "shape_mismatch", {"operand": "x"}),
    (
        "conv_general",
        (f64(1, 4, 5), f64(3, 4, 1, 1)),
        {},
        "shape_mismatch",
        {"operand": "w", "expected": ["O", 4, "k0"]},
    ),
    (
        "conv_general",
        (f64(1, 1, 5), f64(1, 1, 3)),
        {"low": -3},
        "shape_mismatch",
        {"operand": "x", "expected": [1, 1, "s0"]},
    ),
    ("conv_general", (f64(1, 1, 5), f64(1, 1, 3)), {"groups": 0}, "invalid_attribute", {}),
    ("conv_general", (f64(1, 1, 5), f64(1, 1, 3)), {"strides": [0]}, "invalid_attribute", {}),
    ("conv_general", (f64(1, 1, 5), f64(1, 1, 3)), {"dilate_x": 0}, "invalid_attribute", {}),
    (
        "conv_general",
        (f64(1, 1, 5), f64(1, 1, 3)),
        {"high": [1, 2]},
        "invalid_attribute",
        {"attribute": "high"},
    ),
]


@pytest.mark.parametrize(("op", "types", "attrs", "code", "facts"), REFUSALS)
def test_refusals(
    op: str, types: tuple[Type, ...], attrs: dict[str, Any], code: str, facts: dict[str, Any]
) -> None:
    check_refusal(op, types, attrs, code, facts)


def test_it_is_a_cross_correlation() -> None:
    x, w = np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[[1.0, 10.0]]])
    y = evaluate("conv", w, np.array([0.5]), x)
    np.testing.assert_array_equal(y, [[21.5, 32.5, 43.5]])


def test_the_transposed_layer_is_the_transpose() -> None:
    rng = np.random.default_rng(3)
    w, x = rng.normal(size=(3, 2, 3, 2)), rng.normal(size=(2, 5, 5))
    attrs: dict[str, Any] = {"stride": [2, 1], "padding": [1, 0]}
    ct = rng.normal(size=evaluate("conv", w, np.zeros(3), x, **attrs).shape)
    pulled = gradients("conv", w, np.zeros(3), x, ct=ct, **attrs)[2]
    # conv's [O, I] is conv_transpose's [I, O].
    back = evaluate("conv_transpose", w, np.zeros(2), ct, **attrs)
    np.testing.assert_allclose(pulled, back, rtol=1e-12)


def test_infinite_cells_reach_their_windows_only() -> None:
    x = np.array([[np.inf, 1.0, 1.0, np.nan]])
    y = evaluate("conv", np.ones((1, 1, 2)), np.zeros(1), x)
    np.testing.assert_array_equal(y, [[np.inf, 2.0, np.nan]])


def _direct(x: Any, w: Any, g: conv_geometry.Geometry) -> Any:
    """The defining sum, one product at a time."""
    y = np.zeros((g.samples, g.groups * g.filters, *g.out))
    for place, offset in itertools.product(np.ndindex(*g.out), np.ndindex(*g.kernel)):
        cell = [
            p * s + k * dw - lo
            for p, s, k, dw, lo in zip(place, g.strides, offset, g.dilate_w, g.low, strict=True)
        ]
        if any(
            c % d or not 0 <= c // d < n for c, d, n in zip(cell, g.dilate_x, g.size, strict=True)
        ):
            continue
        at = tuple(c // d for c, d in zip(cell, g.dilate_x, strict=True))
        seen = x[(slice(None), slice(None), *at)].reshape(g.samples, g.groups, g.channels)
        used = w[(slice(None), slice(None), *offset)].reshape(g.groups, g.filters, g.channels)
        part = np.einsum("ngi,goi->ngo", seen, used).reshape(g.samples, -1)
        y[(slice(None), slice(None), *place)] += part
    return y


ROUTES: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("columns/places", (2, 2, 12, 12), (3, 2, 3, 3), {"low": 1, "high": 1}),
    ("columns/places", (2, 6, 9, 40), (3, 2, 3, 3), {"groups": 3}),
    ("columns/cells", (3, 2, 9, 20), (2, 2, 7, 18), {}),
    ("columns/cells", (2, 1, 30, 60), (2, 1, 18, 48), {}),
    ("columns/channels", (2, 64, 14, 14), (20, 64, 3, 3), {"low": 1, "high": 1}),
    ("columns/cells", (2, 3, 9, 20), (2, 3, 9, 20), {}),
    ("columns/channels", (9, 40, 4, 4), (20, 40, 3, 3), {"low": 1, "high": 1}),
    ("columns/channels", (2, 64, 8, 8), (20, 32, 3, 3), {"groups": 2, "dilate_w": 2}),
    ("shifts/", (3, 8, 7, 9), (2, 8, 3, 2), {"low": [1, -1], "high": [2, 1]}),
    ("depthwise/", (3, 5, 8, 8), (10, 1, 3, 3), {"groups": 5, "strides": 2}),
    ("phases/", (2, 3, 5, 4), (2, 3, 4, 3), {"dilate_x": [2, 3], "low": 1, "high": 2}),
    ("phases/", (2, 4, 5, 4), (4, 1, 4, 3), {"dilate_x": 2, "low": 3, "high": 2, "groups": 4}),
    ("phases/", (1, 2, 6), (2, 2, 9), {"dilate_x": 4, "strides": 6, "dilate_w": 2, "low": 5}),
]


@pytest.mark.parametrize("block", [8 << 20, 32 << 10])
@pytest.mark.parametrize(("route", "x_shape", "w_shape", "attrs"), ROUTES)
def test_every_route_gives_the_defining_sum(
    route: str,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    attrs: dict[str, Any],
    block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conv_geometry, "BLOCK_BYTES", block)
    monkeypatch.setattr(conv_numpy, "CACHE_BYTES", block // 16)
    rng = np.random.default_rng(5)
    x, w = rng.normal(size=x_shape), rng.normal(size=w_shape)
    op = ConvGeneral.parse(attrs)
    assert isinstance(op, ConvGeneral)
    g = op.geometry(type_of(x), type_of(w))
    method, _, innermost = route.partition("/")
    assert g.method == method
    assert not innermost or g.innermost == innermost
    y = op.numpy(x, w)
    assert y.flags.c_contiguous
    np.testing.assert_allclose(y, _direct(x, w, g), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "attrs"),
    [
        ((1, 16, 64, 64), (16, 16, 3, 3), {"low": 1, "high": 1}),
        ((32, 16, 32, 32), (16, 16, 3, 3), {"low": 1, "high": 1}),
        ((16, 64, 7, 7), (64, 64, 3, 3), {"low": 1, "high": 1}),
        ((64, 4, 30, 30), (8, 4, 28, 28), {}),
        ((1, 32, 64, 64), (2, 32, 3, 3), {}),
        ((2, 64, 64, 64), (64, 1, 3, 3), {"groups": 64, "low": 1, "high": 1}),
        ((1, 16, 64, 64), (16, 16, 4, 4), {"dilate_x": 2, "low": 2, "high": 2}),
        ((1, 64, 64, 64), (64, 64, 1, 1), {}),
    ],
)
def test_workspace_is_what_it_takes(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], attrs: dict[str, Any]
) -> None:
    x, w = np.ones(x_shape, np.float32), np.ones(w_shape, np.float32)
    op = ConvGeneral.parse(attrs)
    peaks = []
    for _ in range(3):  # other threads of the process may be at work, too
        tracemalloc.start()
        y = op.numpy(x, w)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    peak = min(peaks)
    promised = op.workspace(type_of(x), type_of(w))
    assert peak <= 1.1 * (y.nbytes + promised) + w.nbytes + 64 * 1024
    assert promised <= 3 * max(peak, y.nbytes)
