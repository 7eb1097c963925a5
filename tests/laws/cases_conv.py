"""Law rows of convolution: `conv_general` and the layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from .case import Case, Draw
from .cases_shape import pad

Shape = tuple[int, ...]
CONV: dict[int, Callable[..., Any]] = {
    1: functional.conv1d,
    2: functional.conv2d,
    3: functional.conv3d,
}
CONV_TRANSPOSE: dict[int, Callable[..., Any]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def _each(value: int | Sequence[int], rank: int) -> list[int]:
    return [value] * rank if isinstance(value, int) else list(value)


def _general(x: Shape, w: Shape, label: str, **attrs: Any) -> Case:
    rank = len(x) - 2
    low, high = (_each(attrs.get(name, 0), rank) for name in ("low", "high"))
    spread = [d - 1 for d in _each(attrs.get("dilate_x", 1), rank)]

    def reference(x: Any, w: Any) -> Any:
        padded = pad(x, [0, 0, *low], [0, 0, *high], [0, 0, *spread])
        strides, dilation = attrs.get("strides", 1), attrs.get("dilate_w", 1)
        return CONV[rank](padded, w, None, strides, 0, dilation, attrs.get("groups", 1))

    return Case("conv_general", (Draw(x), Draw(w)), attrs, reference, label)


def _layer(op: str, w: Shape, x: Shape, label: str, **attrs: Any) -> Case:
    transposed = "transpose" in op
    rank = len(x) - 1
    bias = w[1] if transposed else w[0]
    stride, padding = attrs.get("stride", 1), attrs.get("padding", 0)

    def reference(w: Any, b: Any, x: Any) -> Any:
        conv = (CONV_TRANSPOSE if transposed else CONV)[rank]
        return conv(x[None], w, b, stride, padding)[0]

    return Case(op, (Draw(w), Draw((bias,)), Draw(x)), attrs, reference, label)


def _bias_only(op: str, w: Shape, x: Shape, out: Shape, **attrs: Any) -> Case:
    """Rows without a place in x: PyTorch refuses them."""
    bias = Draw((out[0],))
    ones = (1,) * (len(out) - 1)
    return Case(
        op,
        (Draw(w), bias, Draw(x)),
        attrs,
        lambda w, b, x: b.reshape(-1, *ones) + torch.zeros(out, dtype=b.dtype),
        "no-places",
    )


CASES: tuple[Case, ...] = (
    _general((2, 2, 5), (3, 2, 3), "1d"),
    _general((1, 1, 4), (1, 1, 1), "1d-pointwise"),
    _general((2, 2, 3, 3), (2, 2, 1, 1), "2d-pointwise-stride", strides=2),
    _general((1, 2, 7), (2, 2, 3), "1d-stride", strides=[2], low=[1], high=[2]),
    _general((2, 1, 4, 5), (2, 1, 3, 2), "2d-padding", low=[1, 0], high=[2, 1]),
    _general((1, 2, 4, 4), (2, 2, 2, 3), "2d-asymmetric", strides=[1, 2], low=1, high=[0, 2]),
    _general((1, 1, 3, 3, 3), (2, 1, 2, 2, 2), "3d", strides=[1, 2, 1], low=1, high=0),
    _general((1, 2, 8), (1, 2, 3), "1d-dilate-w", dilate_w=2, low=1),
    _general((1, 2, 3), (2, 2, 3), "1d-dilate-x", dilate_x=2, low=2, high=2),
    _general((2, 1, 3, 2), (2, 1, 3, 2), "2d-dilate-x", dilate_x=[2, 3], low=1, high=[2, 1]),
    _general((1, 2, 4), (1, 2, 4), "1d-all", strides=3, dilate_x=2, dilate_w=3, low=4, high=3),
    _general((1, 1, 3), (1, 1, 2), "1d-phases-missing", dilate_x=3, dilate_w=3, low=1, high=3),
    _general((1, 1, 3), (1, 1, 2), "1d-strided-phases", strides=2, dilate_x=4, low=2, high=1),
    _general((1, 2, 7), (2, 2, 2), "1d-crop", low=-2, high=-1),
    _general((1, 1, 4), (1, 1, 2), "1d-crop-dilated", low=-2, high=1, dilate_x=2),
    _general((1, 1, 3), (1, 1, 2), "1d-crop-into-padding", low=6, high=-5),
    _general((1, 1, 2, 2), (1, 1, 4, 4), "2d-kernel-larger", low=2, high=2),
    _general((2, 4, 4), (6, 2, 3), "1d-groups", groups=2, low=1, high=1),
    _general((2, 3, 5), (3, 1, 2), "1d-depthwise", groups=3, strides=2),
    _general((1, 2, 3, 4), (4, 1, 2, 2), "2d-depthwise-two", groups=2, low=[1, 0], high=0),
    _general((2, 4, 3), (2, 2, 3), "1d-groups-dilated", groups=2, dilate_x=2, low=1, high=1),
    _general((1, 4, 4, 3), (1, 4, 2, 2), "2d-few-filters", low=1, high=1),
    _general((1, 1, 1), (1, 1, 1), "1d-size-one", strides=3, dilate_x=5, dilate_w=4),
    _general((0, 2, 4), (3, 2, 2), "no-samples", low=1),
    Case("conv_general", (Draw((2, 2, 4)), Draw((0, 2, 3))), {}, None, "no-filters"),
    Case("conv_general", (Draw((2, 0, 4)), Draw((2, 0, 3))), {}, None, "no-channels"),
    Case(
        "conv_general", (Draw((1, 2, 0)), Draw((2, 2, 3))), {"low": 2, "high": 2}, None, "no-places"
    ),
    _layer("conv", (2, 2, 3), (2, 5), "1d"),
    _layer("conv", (2, 2, 3), (2, 6), "1d-stride", stride=2, padding=1),
    _layer("conv", (2, 2, 2, 3), (2, 4, 4), "2d", stride=[1, 2], padding=[0, 2]),
    _layer("conv", (2, 1, 2, 2, 2), (1, 3, 3, 2), "3d", stride=[1, 2, 1], padding=1),
    _layer("conv", (1, 1, 1, 1), (1, 2, 2), "2d-one"),
    _bias_only("conv", (2, 1, 2), (1, 0), (2, 3), padding=2),
    _layer("conv_transpose", (2, 2, 3), (2, 4), "1d"),
    _layer("conv_transpose", (2, 1, 3), (2, 3), "1d-stride", stride=3, padding=1),
    _layer("conv_transpose", (2, 1, 2, 3), (2, 3, 2), "2d", stride=[2, 1], padding=[0, 1]),
    _layer("conv_transpose", (1, 2, 2, 1, 2), (1, 2, 2, 2), "3d", stride=2, padding=[1, 0, 1]),
    _layer("conv_transpose", (1, 1, 1), (1, 3), "gaps", stride=3),
    _bias_only("conv_transpose", (1, 2, 4), (1, 0), (2, 2), stride=2),
    _layer("conv2d", (2, 2, 3, 2), (2, 4, 3), ""),
    _layer("conv2d", (2, 1, 2, 3), (1, 5, 4), "pairs", stride=[2, 1], padding=[1, 2]),
    _layer("conv2d", (2, 1, 3, 3), (1, 5, 5), "numbers", stride=2, padding=1),
    _layer("conv_transpose2d", (2, 2, 2, 2), (2, 3, 2), ""),
    _layer("conv_transpose2d", (1, 2, 3, 2), (1, 2, 3), "pairs", stride=[2, 1], padding=[1, 0]),
    _layer("conv_transpose2d", (2, 1, 4, 4), (2, 2, 2), "numbers", stride=2, padding=1),
)
