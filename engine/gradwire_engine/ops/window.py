"""Sliding windows: `unfold` and `fold`, `window_pick` and `window_unpick`; pools are made of them.

A window along one axis starts at ``i * stride - padding`` and holds ``kernel`` cells. The two pairs
are each other's transposes. What a window picks is found anew from `by` each time, so that no index
tensor is ever kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..ir import Type, Value
from . import checks
from .attributes import NaturalOrNaturals, Naturals, PositiveOrPositives
from .base import Array, Op
from .logic import spread
from .window_numpy import (
    Grid,
    overlap_add,
    pick,
    picking_scratch,
    unpick,
    unpicking_scratch,
    windows,
)

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
            lead, pattern = x.rank - len(self.kernel), ["...", *symbols("s", len(self.kernel))]
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
            expected = [*lead, *symbols("s", grid.rank)]
            reason = f"spatial axis {i} has {n + 2 * p} cells with padding, the window {k}"
            raise op.mismatch(operand, expected, x, reason)


def symbols(stem: str, count: int) -> list[str]:
    """Names for sizes that are free, in errors."""
    return [f"{stem}{i}" for i in range(count)]


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
        pattern += [*symbols("k", rank or 1), *symbols("out", rank or 1)]
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
                [*lead, *grid.kernel, *symbols("out", grid.rank)],
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
        return picking_scratch(self.over("by", by), by.shape, by.nbytes)

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
        return unpicking_scratch(self.over("by", by), by.shape, by.nbytes)

    def transpose_ct(self, ct: Value, by: Value, ct_type: Type) -> Value:
        return WindowPick(*self.fixed(self.spatial(by.rank)))(by, ct)

    def vmap(self, size: int, mapped: tuple[bool, ...], by: Value, ct: Value) -> Value:
        operands = spread(size, mapped, by, ct)
        return WindowUnpick(*self.fixed(self.spatial(operands[0].rank - 1)))(*operands)
