"""Pools over one sample x: [C, *spatial], each channel on its own.

Max pooling is `window_pick`, linear in what it picks from; average and smooth max pooling reduce
over `unfold`, which is a view.
"""

from __future__ import annotations

import math

import numpy as np

from ..ir import Type, Value
from . import checks
from .attributes import Natural, NaturalOrNaturals, Positive, PositiveOrPositives, Real
from .base import Composite, Op
from .elementwise import Scale, detach, exp, is_finite, log
from .logic import select
from .reduce import ReduceMax, ReduceMin, ReduceSum
from .shape import Pad, Reshape
from .window import IntOrInts, Unfold, WindowPick, fit, grid_of, symbols
from .window_numpy import Grid


class Pool(Composite):
    """Base of pools over one sample x: [C, *spatial], each channel on its own."""

    def pooled(
        self,
        x: Type,
        kernel: IntOrInts,
        stride: IntOrInts | None,
        padding: IntOrInts,
        rank: int | None = None,
    ) -> Type:
        """The result's type; `rank` is the number of spatial axes where the op fixes it."""
        spatial = x.rank - 1 if rank is None else rank
        grid = grid_of(self, (0,) * spatial, kernel, stride, padding) if spatial > 0 else None
        checks.floats(self, x=x)
        if grid is None or x.rank != spatial + 1:
            pattern = ["C", *symbols("s", spatial)] if spatial > 0 else ["C", "s0", "..."]
            raise self.mismatch("x", pattern, x)
        grid = Grid(x.shape[1:], grid.kernel, grid.stride, grid.padding)
        fit(self, "x", x, grid)
        return x.with_shape((x.shape[0], *grid.out))

    def cells(
        self, x: Value, kernel: IntOrInts, stride: IntOrInts | None, padding: IntOrInts
    ) -> Value:
        """The windows of x as [C, *kernel, *out]; padded first, so that unfolding is a view."""
        grid = grid_of(self, x.shape[1:], kernel, stride, padding)
        if any(grid.padding):
            margin = (0, *grid.padding)
            x = Pad(margin, margin)(x)
        return Unfold(grid.kernel, grid.stride)(x)


class MaxPool(Pool, inputs=("x",), graphm="maxPool"):
    """The maximum of each window of x: [C, *spatial]; one, two, three or more spatial axes.

    Padding never competes, not even with -inf; the first maximum in row-major order takes the
    whole derivative, the first NaN wins over all, and a window of padding only gives 0 without
    gradient. ``kernel``, ``stride`` (default: kernel) and ``padding``: one number or one per axis.
    """

    kernel: PositiveOrPositives
    stride: PositiveOrPositives | None = None
    padding: NaturalOrNaturals = 0

    def typing(self, x: Type) -> Type:
        return self.pooled(x, self.kernel, self.stride, self.padding)

    def expand(self, x: Value) -> Value:
        grid = grid_of(self, x.shape[1:], self.kernel, self.stride, self.padding)
        return WindowPick(grid.kernel, grid.stride, grid.padding)(detach(x), x)


class AvgPool(Pool, inputs=("x",), graphm="avgPool"):
    """The mean of each window of x: [C, *spatial]; one, two, three or more spatial axes.

    The sum is divided by the product of the kernel always, so padding counts as zeros. ``kernel``,
    ``stride`` (default: kernel) and ``padding``: one number or one per axis.
    """

    kernel: PositiveOrPositives
    stride: PositiveOrPositives | None = None
    padding: NaturalOrNaturals = 0

    def typing(self, x: Type) -> Type:
        return self.pooled(x, self.kernel, self.stride, self.padding)

    def expand(self, x: Value) -> Value:
        axes = tuple(range(1, x.rank))
        cells = self.cells(x, self.kernel, self.stride, self.padding)
        return ReduceSum(axes)(cells) / float(math.prod(cells.shape[a] for a in axes))


class SmoothMaxPool(Pool, inputs=("x",), graphm="smoothMaxPool"):
    """(1/beta) log(sum(exp(beta * window))) of each window of x: [C, *spatial], max-shifted.

    A differentiable maximum; with negative ``beta`` a minimum. Cells in the padding take part with
    value 0. The derivative is the softmax of the window. ``kernel``, ``stride`` (default: kernel)
    and ``padding``: one number or one per axis.
    """

    kernel: PositiveOrPositives
    beta: Real
    stride: PositiveOrPositives | None = None
    padding: NaturalOrNaturals = 0

    def check(self) -> None:
        check_beta(self, self.beta)

    def typing(self, x: Type) -> Type:
        result = self.pooled(x, self.kernel, self.stride, self.padding)
        check_scale(self, self.beta, x.dtype)
        return result

    def expand(self, x: Value) -> Value:
        cells = self.cells(x, self.kernel, self.stride, self.padding)
        axes = tuple(range(1, x.rank))
        extreme = ReduceMax(axes, True) if self.beta > 0 else ReduceMin(axes, True)
        # The shift cancels exactly, so it carries no derivative. A non-finite one would make NaN.
        shift = detach(extreme(detach(cells)))
        shift = select(is_finite(shift), shift, 0.0)
        total = ReduceSum(axes, True)(exp(Scale(self.beta)(cells - shift)))
        y = log(total) / self.beta + shift
        return Reshape(self.typing(x.type).shape)(y)


def check_beta(op: Op, beta: float) -> None:
    """The sharpness of a smooth maximum is finite and not 0."""
    if beta == 0 or not math.isfinite(beta):
        raise op.invalid("beta", "it must be finite and not 0")


def check_scale(op: Op, beta: float, dtype: str) -> None:
    """`beta` survives the operand's dtype."""
    checks.scalar(op, "beta", dtype)
    if dtype == "float32" and np.float32(beta) == 0:
        raise op.invalid("beta", "it is 0 in float32")


class MaxPool2d(Pool, inputs=("x",), graphm="maxPool2d"):
    """`max_pool` for two spatial axes, one ``stride`` for both (default: kernel), no padding."""

    kernel: PositiveOrPositives
    stride: Positive | None = None

    def typing(self, x: Type) -> Type:
        return self.pooled(x, self.kernel, self.stride, 0, 2)

    def expand(self, x: Value) -> Value:
        return MaxPool(self.kernel, self.stride)(x)


class MaxPool2dPad(Pool, inputs=("x",), graphm="maxPool2dPad"):
    """`max_pool` for two spatial axes, one ``stride`` (default: kernel) and one ``padding``."""

    kernel: PositiveOrPositives
    stride: Positive | None = None
    padding: Natural = 0

    def typing(self, x: Type) -> Type:
        return self.pooled(x, self.kernel, self.stride, self.padding, 2)

    def expand(self, x: Value) -> Value:
        return MaxPool(self.kernel, self.stride, self.padding)(x)


class AvgPool2d(Pool, inputs=("x",), graphm="avgPool2d"):
    """`avg_pool` for two spatial axes, one ``stride`` for both (default: kernel), no padding."""

    kernel: PositiveOrPositives
    stride: Positive | None = None

    def typing(self, x: Type) -> Type:
        return self.pooled(x, self.kernel, self.stride, 0, 2)

    def expand(self, x: Value) -> Value:
        return AvgPool(self.kernel, self.stride)(x)


class AvgPool2dPad(Pool, inputs=("x",), graphm="avgPool2dPad"):
    """`avg_pool` for two spatial axes, one ``stride`` (default: kernel) and one ``padding``."""

    kernel: PositiveOrPositives
    stride: Positive | None = None
    padding: Natural = 0

    def typing(self, x: Type) -> Type:
        return self.pooled(x, self.kernel, self.stride, self.padding, 2)

    def expand(self, x: Value) -> Value:
        return AvgPool(self.kernel, self.stride, self.padding)(x)


class SmoothMaxPool2d(Pool, inputs=("x",), graphm="smoothMaxPool2d"):
    """`smooth_max_pool` for two spatial axes, one ``stride`` (default: kernel), no padding."""

    kernel: PositiveOrPositives
    beta: Real
    stride: Positive | None = None

    def check(self) -> None:
        check_beta(self, self.beta)

    def typing(self, x: Type) -> Type:
        result = self.pooled(x, self.kernel, self.stride, 0, 2)
        check_scale(self, self.beta, x.dtype)
        return result

    def expand(self, x: Value) -> Value:
        return SmoothMaxPool(self.kernel, self.beta, self.stride)(x)
