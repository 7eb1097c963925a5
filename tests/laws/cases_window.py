"""Law rows of sliding windows and pools.

The reference lays every window out cell by cell; values are drawn apart, so that no window ties.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from .case import Case, Draw

Shape = tuple[int, ...]
Each = int | Sequence[int]


def _each(value: Each, rank: int) -> list[int]:
    return [value] * rank if isinstance(value, int) else list(value)


class Window:
    """Kernel, stride and padding over the last axes of an operand."""

    def __init__(
        self, rank: int, kernel: Each, stride: Each | None = None, padding: Each = 0
    ) -> None:
        self.rank = rank
        self.kernel = _each(kernel, rank)
        self.stride = self.kernel if stride is None else _each(stride, rank)
        self.padding = _each(padding, rank)

    def cells(self, x: Any, value: float = 0.0) -> Any:
        """[*lead, *kernel, *out], padded with `value`."""
        lead = x.ndim - self.rank
        x = functional.pad(x, [p for p in reversed(self.padding) for _ in "ab"], value=value)
        for axis in range(self.rank):
            x = x.unfold(lead + axis, self.kernel[axis], self.stride[axis])
        places = range(lead, lead + self.rank)
        return x.permute(*range(lead), *range(lead + self.rank, x.ndim), *places)

    def flat(self, x: Any, value: float = 0.0) -> Any:
        """[*lead, cells of a window, *out]."""
        lead = x.ndim - self.rank
        return self.cells(x, value).flatten(lead, lead + self.rank - 1)

    def pick(self, by: Any, v: Any) -> Any:
        """`v` at the maximum of `by`; 0 in windows of padding only."""
        axis = by.ndim - self.rank
        winner = self.flat(by, -math.inf).argmax(axis, keepdim=True)
        return self.flat(v).gather(axis, winner).squeeze(axis)

    def unpick(self, by: Any, ct: Any) -> Any:
        """`ct` added where the maximum of `by` is."""
        lead = by.ndim - self.rank
        numbers = torch.arange(by.numel(), dtype=by.dtype).reshape(by.shape)
        real = self.flat(torch.ones_like(by)).amax(lead) > 0
        target = self.pick(by, numbers).long()
        total = torch.zeros(by.numel(), dtype=ct.dtype)
        kept = torch.where(real, ct, 0.0)
        return total.index_add(0, target.flatten(), kept.flatten()).reshape(by.shape)

    def mean(self, x: Any) -> Any:
        """The mean of each window, padding counted."""
        return self.flat(x).mean(x.ndim - self.rank)

    def smooth(self, x: Any, beta: float) -> Any:
        """(1/beta) logsumexp(beta * window)."""
        return (beta * self.flat(x)).logsumexp(x.ndim - self.rank) / beta


def _window(attrs: dict[str, Any], rank: int) -> Window:
    return Window(rank, attrs["kernel"], attrs.get("stride"), attrs.get("padding", 0))


def _spatial(attrs: dict[str, Any], shape: Shape) -> int:
    kernel = attrs["kernel"]
    return len(shape) - 1 if isinstance(kernel, int) else len(kernel)


def _apart(shape: Shape) -> Draw:
    return Draw(shape, low=-3.0, high=3.0, distinct=True)


def _unfold(shape: Shape, label: str, **attrs: Any) -> Case:
    w = _window(attrs, _spatial(attrs, shape))
    return Case("unfold", (Draw(shape),), attrs, w.cells, label, integers=True)


def _fold(windows: Shape, result: Shape, label: str, /, **attrs: Any) -> Case:
    """The reference is the gradient of unfolding."""
    w = _window(attrs, len(windows) - len(result))

    def reference(windows: Any) -> Any:
        x = torch.zeros(result, dtype=windows.dtype, requires_grad=True)
        (ct,) = torch.autograd.grad(w.cells(x), x, windows, create_graph=True)
        return ct

    return Case("fold", (Draw(windows),), attrs, reference, label, integers=True)


def _pick(shape: Shape, label: str, **attrs: Any) -> Case:
    w = _window(attrs, _spatial(attrs, shape))
    return Case("window_pick", (_apart(shape), Draw(shape)), attrs, w.pick, label)


def _unpick(shape: Shape, out: Shape, label: str, **attrs: Any) -> Case:
    w = _window(attrs, _spatial(attrs, shape))
    return Case("window_unpick", (_apart(shape), Draw(out)), attrs, w.unpick, label)


def _pool(op: str, shape: Shape, label: str, **attrs: Any) -> Case:
    w = _window(attrs, len(shape) - 1)
    if op.startswith("max"):
        return Case(op, (_apart(shape),), attrs, lambda x: w.pick(x, x), label)
    if op.startswith("avg"):
        return Case(op, (Draw(shape),), attrs, w.mean, label)
    return Case(op, (Draw(shape),), attrs, lambda x: w.smooth(x, attrs["beta"]), label)


CASES: tuple[Case, ...] = (
    _unfold((2, 5), "1d", kernel=2),
    _unfold((2, 5), "1d-overlap", kernel=3, stride=1, padding=1),
    _unfold((6,), "1d-bare", kernel=[3], stride=2),
    _unfold((2, 1, 4, 3), "2d-lead", kernel=[2, 3], stride=[1, 2], padding=[1, 0]),
    _unfold((1, 3, 2, 3), "3d", kernel=2, stride=1, padding=[0, 1, 0]),
    _unfold((2, 3), "padding-only", kernel=[2], padding=[3]),
    _unfold((0, 4), "empty", kernel=2),
    _unfold((2, 0), "no-cells", kernel=2, padding=1),
    _fold((2, 2, 3), (2, 6), "1d", kernel=2),
    _fold((2, 3, 3), (2, 3), "1d-overlap", kernel=3, stride=1, padding=1),
    _fold((3, 2), (6,), "1d-size", kernel=[3], stride=2, size=[6]),
    _fold((2, 2, 3, 5, 1), (2, 4, 3), "2d", kernel=[2, 3], stride=[1, 2], padding=[1, 0]),
    _fold((4, 1), (7,), "one-place", kernel=[4], size=[7]),
    _fold((0, 2, 2), (0, 4), "empty", kernel=2),
    _pick((2, 5), "1d", kernel=2),
    _pick((2, 6), "1d-overlap", kernel=3, stride=1, padding=1),
    _pick((6,), "1d-bare", kernel=[3], stride=2),
    _pick((2, 1, 4, 3), "2d-lead", kernel=[2, 3], stride=[1, 2], padding=[1, 0]),
    _pick((1, 2, 3, 2), "3d", kernel=2, stride=1),
    _pick((2, 4, 3), "global", kernel=[4, 3]),
    _pick((2, 3), "padding-only", kernel=[2], padding=[3]),
    _pick((0, 4), "empty", kernel=2),
    _unpick((2, 5), (2, 2), "1d", kernel=2),
    _unpick((2, 6), (2, 6), "1d-overlap", kernel=3, stride=1, padding=1),
    _unpick((2, 4, 3), (2, 5, 1), "2d", kernel=[2, 3], stride=[1, 2], padding=[1, 0]),
    _unpick((2, 4, 3), (2, 1, 1), "global", kernel=[4, 3]),
    _unpick((2, 3), (2, 4), "padding-only", kernel=[2], padding=[3]),
    _pool("max_pool", (2, 6), "1d", kernel=2),
    _pool("max_pool", (2, 4, 5), "2d", kernel=[2, 3], stride=[2, 1], padding=[1, 0]),
    _pool("max_pool", (1, 3, 2, 3), "3d", kernel=2, stride=1, padding=1),
    _pool("max_pool", (2, 3), "wide-padding", kernel=2, stride=1, padding=2),
    _pool("max_pool", (0, 4), "no-channels", kernel=2),
    _pool("avg_pool", (2, 6), "1d", kernel=3),
    _pool("avg_pool", (2, 4, 5), "2d", kernel=[2, 3], stride=[2, 1], padding=[1, 0]),
    _pool("avg_pool", (1, 3, 2, 3), "3d", kernel=2, stride=1, padding=1),
    _pool("avg_pool", (2, 3, 2), "global", kernel=[3, 2]),
    _pool("avg_pool", (0, 4), "no-channels", kernel=2),
    _pool("smooth_max_pool", (2, 6), "1d", kernel=2, beta=1.5),
    _pool("smooth_max_pool", (2, 3, 4), "2d", kernel=[2, 3], stride=1, padding=[1, 0], beta=2),
    _pool("smooth_max_pool", (1, 3, 2, 2), "3d-min", kernel=2, stride=1, beta=-0.5),
    _pool("smooth_max_pool", (0, 4), "no-channels", kernel=2, beta=1.0),
    _pool("max_pool2d", (2, 4, 5), "", kernel=2),
    _pool("max_pool2d", (1, 4, 5), "pair", kernel=[2, 3], stride=1),
    _pool("max_pool2d", (1, 4, 6), "pair-apart", kernel=[2, 3]),
    _pool("max_pool2d_pad", (2, 3, 4), "", kernel=3, stride=2, padding=1),
    _pool("max_pool2d_pad", (1, 3, 3), "wide-padding", kernel=[2, 1], stride=1, padding=2),
    _pool("avg_pool2d", (2, 4, 5), "", kernel=2),
    _pool("avg_pool2d", (1, 4, 5), "pair", kernel=[2, 3], stride=1),
    _pool("avg_pool2d_pad", (2, 3, 4), "", kernel=3, stride=2, padding=1),
    _pool("smooth_max_pool2d", (2, 4, 4), "", kernel=2, beta=1.0),
    _pool("smooth_max_pool2d", (1, 3, 4), "pair", kernel=[2, 3], stride=1, beta=-2.0),
)
