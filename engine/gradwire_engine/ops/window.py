"""Sliding windows (`unfold`, `fold`, `window_pick`, `window_unpick`) and the pools made of them.

A window along one axis starts at ``i * stride - padding`` and holds ``kernel`` cells. Max pooling
is `window_pick`, linear in what it picks from, so no index tensor is ever kept; average and smooth
max pooling reduce over `unfold`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..ir import Type, Value
from . import checks
from .attributes import Natural, NaturalOrNaturals, Naturals, Positive, PositiveOrPositives, Real
from .base import Array, Composite, Op
from .elementwise import Scale, detach, exp, is_finite, log, select, spread
from .reduce import ReduceMax, ReduceMin, ReduceSum
from .shape import Pad, Reshape, check_rank_limit
from .window_numpy import Grid, overlap_add, pick, unpick, windows

IntOrInts = int | Sequence[int]


class Windowed(Op):
    """Base of ops with windows over the last axes.

    `kernel` as a list fixes how many there are; as a number it holds for all axes but the first.
    """

    kernel: PositiveOrPositives
    stride: PositiveOrPositives | None = None
    padding: NaturalOrNaturals = 0

    def check(self) -> None:
        if self.kernel == ():
            raise self.invalid("kernel", "at least one entry is needed")

    def grid(self, size: Sequence[int]) -> Grid:
        """The windows over spatial sizes `size`."""
        return grid_of(self, size, self.kernel, self.stride, self.padding)

    def over(self, operand: str, x: Type) -> Grid:
        """The windows over an operand [*lead, *size]; refuses ranks and sizes that hold none."""
        if isinstance(self.kernel, int):
            lead, pattern = 1, ["C", "s0", "..."]
        else:
            lead, pattern = x.rank - len(self.kernel), ["...", *_symbols("s", len(self.kernel))]
        if lead < 0 or x.rank <= lead:
            raise self.mismatch(operand, pattern, x)
        grid = self.grid(x.shape[lead:])
        fit(self, operand, x, grid)
        return grid

    def fixed(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """kernel, stride and padding with one entry for each of `rank` spatial axes."""
        grid = self.grid((0,) * max(rank, 0))
        return grid.kernel, grid.stride, grid.padding

    def spatial(self, rank: int) -> int:
        """The number of spatial axes of an operand [*lead, *size] of `rank` axes."""
        return rank - 1 if isinstance(self.kernel, int) else len(self.kernel)


def grid_of(
    op: Op, size: Sequence[int], kernel: IntOrInts, stride: IntOrInts | None, padding: IntOrInts
) -> Grid:
    """The windows of `op` over spatial sizes; `stride` None means: as the kernel."""
    rank = len(size)
    cells = checks.per_axis(op, "kernel", kernel, rank)
    steps = cells if stride is None else checks.per_axis(op, "stride", stride, rank)
    return Grid(tuple(size), cells, steps, checks.per_axis(op, "padding", padding, rank))


def fit(op: Op, operand: str, x: Type, grid: Grid) -> None:
    """Every axis holds at least one window."""
    if min(grid.out) >= 1:
        return
    lead = x.shape[: x.rank - grid.rank]
    for i, (n, p, k) in enumerate(zip(grid.size, grid.padding, grid.kernel, strict=True)):
        if n + 2 * p < k:
            expected = [*lead, *_symbols("s", grid.rank)]
            reason = f"spatial axis {i} has {n + 2 * p} cells with padding, the window {k}"
            raise op.mismatch(operand, expected, x, reason)


def _symbols(stem: str, count: int) -> list[str]:
    return [f"{stem}{i}" for i in range(count)]


# -- primitives ------------------------------------------------------------------------------------


class Unfold(Windowed, inputs=("x",), linear_in=("x",)):
    """The windows of x: [*lead, *spatial] as [*lead, *kernel, *out].

    out = floor((in + 2 padding - kernel) / stride) + 1 along each axis; ``stride`` is ``kernel`` by
    default; cells in the padding are 0. ``kernel`` as a list fixes the number of spatial axes, as a
    number it holds for all axes but the first. The transpose is `fold`.
    """

    @property
    def view(self) -> bool:  # type: ignore[override] # a view only where nothing is padded
        """Whether NumPy answers with a view of ``x``."""
        padding = self.padding
        return not (padding if isinstance(padding, int) else any(padding))

    def typing(self, x: Type) -> Type:
        grid = self.over("x", x)
        check_rank_limit(self, "x", x, x.rank + grid.rank)
        return x.with_shape((*x.shape[: x.rank - grid.rank], *grid.kernel, *grid.out))

    def numpy(self, x: Array) -> Array:
        return windows(x, self.grid(x.shape[x.ndim - self.spatial(x.ndim) :]))

    def workspace(self, x: Type) -> int:
        grid = self.over("x", x)
        if not any(grid.padding) or x.size == 0:
            return 0
        padded = (n + 2 * p for n, p in zip(grid.size, grid.padding, strict=True))
        return x.nbytes // math.prod(grid.size) * math.prod(padded)

    def transpose_x(self, ct: Value, x: Type) -> Value:
        rank = self.spatial(x.rank)
        return Fold(*self.fixed(rank), x.shape[x.rank - rank :])(ct)

    def vmap(self, size: int, mapped: tuple[bool, ...], x: Value) -> Value:
        return Unfold(*self.fixed(self.spatial(x.rank - 1)))(x)


class Fold(Windowed, inputs=("windows",), linear_in=("windows",)):
    """Windows [*lead, *kernel, *out] added back to [*lead, *spatial]: overlapping cells sum up.

    The transpose of `unfold` with the same attributes; what lies in the padding is dropped.
    ``size`` gives the spatial sizes; by default (out - 1) stride + kernel - 2 padding.
    """

    size: Naturals | None = None

    def spatial(self, rank: int) -> int:
        return (rank - 1) // 2 if isinstance(self.kernel, int) else len(self.kernel)

    def target(self, w: Type) -> Grid:
        """The windows over the result."""
        rank = self.spatial(w.rank)
        pattern = ["C"] if isinstance(self.kernel, int) else ["..."]
        pattern += [*_symbols("k", rank or 1), *_symbols("out", rank or 1)]
        odd = isinstance(self.kernel, int) and w.rank % 2 == 0
        if rank < 1 or odd or w.rank < 2 * rank:
            raise self.mismatch("windows", pattern, w)
        out = w.shape[w.rank - rank :]
        blank = self.grid((0,) * rank)
        if self.size is None:
            parts = zip(out, blank.kernel, blank.stride, blank.padding, strict=True)
            size = tuple((o - 1) * s + k - 2 * p for o, k, s, p in parts)
        else:
            size = checks.per_axis(self, "size", self.size, rank)
        return self.grid(size)

    def typing(self, windows: Type) -> Type:
        grid = self.target(windows)
        checks.numeric(self, windows=windows)
        lead = windows.shape[: windows.rank - 2 * grid.rank]
        if min(grid.size) < 0:
            raise self.mismatch(
                "windows",
                [*lead, *grid.kernel, *_symbols("out", grid.rank)],
                windows,
                f"the result would have sizes {list(grid.size)}",
            )
        expected = (*lead, *grid.kernel, *grid.out)
        if min(grid.out) < 1 or windows.shape != expected:
            shown = [
                *lead,
                *grid.kernel,
                *(o if o > 0 else f"out{i}" for i, o in enumerate(grid.out)),
            ]
            reason = f"the result has sizes {list(grid.size)}"
            raise self.mismatch("windows", shown, windows, reason)
        return windows.with_shape((*lead, *grid.size))

    def numpy(self, windows: Array) -> Array:
        return overlap_add(windows, self.target(Type(windows.shape)))

    def transpose_windows(self, ct: Value, windows: Type) -> Value:
        return Unfold(*self.fixed(self.spatial(windows.rank)))(ct)

    def vmap(self, size: int, mapped: tuple[bool, ...], windows: Value) -> Value:
        return Fold(*self.fixed(self.spatial(windows.rank - 1)), self.size)(windows)


class WindowPick(Windowed, inputs=("by", "v"), linear_in=("v",), nondiff=("by",)):
    """``v`` at the first maximum of ``by`` in each window: [*lead, *spatial] -> [*lead, *out].

    Only real cells compete, so a real -inf beats padding; the first in row-major order wins a tie,
    the first NaN wins over all, and a window of padding only gives 0. Linear in ``v``; the
    transpose is `window_unpick`.
    """

    def typing(self, by: Type, v: Type) -> Type:
        self.fixed(self.spatial(by.rank))  # attributes are checked before dtypes
        checks.floats(self, by=by, v=v)
        grid = self.over("by", by)
        checks.same_shape(self, by=by, v=v)
        return v.with_shape((*by.shape[: by.rank - grid.rank], *grid.out))

    def numpy(self, by: Array, v: Array) -> Array:
        return pick(by, v, self.grid(by.shape[by.ndim - self.spatial(by.ndim) :]))

    def workspace(self, by: Type, v: Type) -> int:
        return by.nbytes + self.typing(by, v).nbytes

    def transpose_v(self, ct: Value, by: Value, v: Type) -> Value:
        return WindowUnpick(*self.fixed(self.spatial(v.rank)))(by, ct)

    def vmap(self, size: int, mapped: tuple[bool, ...], by: Value, v: Value) -> Value:
        operands = spread(size, mapped, by, v)
        return WindowPick(*self.fixed(self.spatial(operands[0].rank - 1)))(*operands)


class WindowUnpick(Windowed, inputs=("by", "ct"), linear_in=("ct",), nondiff=("by",)):
    """Each element of ``ct`` added at the first maximum of ``by`` in its window, zeros elsewhere.

    ct: [*lead, *out] and by: [*lead, *spatial] -> [*lead, *spatial]. Winners are those of
    `window_pick`, whose transpose this is; linear in ``ct``.
    """

    def typing(self, by: Type, ct: Type) -> Type:
        self.fixed(self.spatial(by.rank))
        checks.floats(self, by=by, ct=ct)
        grid = self.over("by", by)
        expected = (*by.shape[: by.rank - grid.rank], *grid.out)
        if ct.shape != expected:
            raise self.mismatch("ct", expected, ct)
        return by

    def numpy(self, by: Array, ct: Array) -> Array:
        return unpick(by, ct, self.grid(by.shape[by.ndim - self.spatial(by.ndim) :]))

    def workspace(self, by: Type, ct: Type) -> int:
        return by.nbytes + 2 * ct.nbytes

    def transpose_ct(self, ct: Value, by: Value, ct_type: Type) -> Value:
        return WindowPick(*self.fixed(self.spatial(by.rank)))(by, ct)

    def vmap(self, size: int, mapped: tuple[bool, ...], by: Value, ct: Value) -> Value:
        operands = spread(size, mapped, by, ct)
        return WindowUnpick(*self.fixed(self.spatial(operands[0].rank - 1)))(*operands)


# -- pools -----------------------------------------------------------------------------------------


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
            pattern = ["C", *_symbols("s", spatial)] if spatial > 0 else ["C", "s0", "..."]
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
