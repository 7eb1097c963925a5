"""Sliding windows: how `unfold`, `fold`, `window_pick` and `window_unpick` run.

`lower_window_reduce` and `lower_window_spread` are for fusion, which calls them where
`window_match` found a sum or an extreme over windows, or the transpose of a sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir import ITEMSIZE
from ...ops.base import Array
from ...ops.window_numpy import Grid
from ..emit import Emitter
from ..program import Kernel, Layout, Operand, chunks_for
from .move import lower_fill, pad_into
from .window_grid import band_table, cover_table, piece_table

FEW_CELLS, SMALL_STEP = 25, 8  # up to so many are unrolled where windows are compared,
FEW_PIECES, SHORT_PIECE = 4, 8  # and up to so many where they are added up
LONG_SUM = 256
BAND_BYTES = 1 << 17
BYTES_PER_NANOSECOND = 8


# -- reductions ------------------------------------------------------------------------------------


def lower_window_reduce(
    emit: Emitter,
    how: str,
    x: Layout,
    grid: Grid,
    result: Layout,
    *,
    divisor: float = 1.0,
    filler: float = 0.0,
) -> None:
    """The sum, maximum or minimum of each window: x [*lead, *size] to [*lead, *out].

    Args:
        emit: Where calls go.
        how: ``sum``, ``max`` or ``min``; in a maximum or minimum NaN wins.
        x: float32, float64 or int64.
        grid: The windows.
        result: Of the dtype of x; further axes of size 1 do not matter.
        divisor: What sums are divided by; 1 for int64.
        filler: What cells in the padding count as; 0 in sums. If it is infinite, a window of
            padding only gives 0.
    """
    if _trivial(emit, x, result):
        return
    pieces, cells, step = math.prod(grid.kernel[:-1]), grid.kernel[-1], grid.stride[-1]
    wide = x.dtype == "float32" and how == "sum" and pieces * cells > LONG_SUM
    row = max(grid.size[-1] + grid.padding[-1], (grid.out[-1] - 1) * step + cells)
    start, _, real = piece_table(grid)
    ends = math.isinf(filler)  # whether windows of padding only differ from what they would give
    table = np.where(real, start, -1 - (ends & (start < 0)))  # -2: see `kernels.window.EMPTY`
    fixed = (
        pieces if pieces <= FEW_PIECES else None,
        cells if cells <= SHORT_PIECE else None,
        step if step <= SMALL_STEP else None,
    )
    _call(
        emit,
        f"make_reduce({x.dtype!r}, {how!r}, {', '.join(map(str, fixed))}, wide={wide})",
        [x],
        result,
        grid,
        count=result.type.size // grid.out[-1],
        scratch=row * (8 if wide else ITEMSIZE[x.dtype]),
        tables=[table, np.full(grid.size[-1], filler, x.dtype)],
        extra=(float(filler), float(divisor)),
        zero_ends=ends,
    )


def lower_window_pick(emit: Emitter, op: Any, operands: Sequence[Layout], result: Layout) -> bool:
    """``v`` at the first maximum of `by` in each window; the maximum itself if they are one."""
    by, v = operands
    grid = _grid(op, by)
    if by == v:
        lower_window_reduce(emit, "max", by, grid, result, filler=-math.inf)
    elif not _trivial(emit, by, result):
        pieces, cells, step = math.prod(grid.kernel[:-1]), grid.kernel[-1], grid.stride[-1]
        kernel = f"make_pick({by.dtype!r}, {pieces}, {cells}, {step})"
        _call(
            emit,
            kernel if _unrolls(grid) else f"make_far_pick({by.dtype!r})",
            [by, v],
            result,
            grid,
            count=result.type.size // grid.out[-1],
            tables=[piece_table(grid)[0]],
        )
    return True


# -- adding back -----------------------------------------------------------------------------------


def lower_window_unpick(emit: Emitter, op: Any, operands: Sequence[Layout], result: Layout) -> bool:
    """Each cotangent at the first maximum of `by` in its window, added up; 0 elsewhere."""
    by, ct = operands
    grid = _grid(op, by)
    if _trivial(emit, ct, result):
        return True
    pieces, cells, step = math.prod(grid.kernel[:-1]), grid.kernel[-1], grid.stride[-1]
    start, which, _ = piece_table(grid)
    planes = by.type.size // math.prod(grid.size)
    if not _unrolls(grid):
        kernel = f"make_far_unpick({by.dtype!r})"
        _call(emit, kernel, [by, ct], result, grid, count=planes, tables=[start])
        return True
    window, piece = cover_table(grid)
    groups, span = _groups(grid)
    fitting = BAND_BYTES // (2 * span * ITEMSIZE[by.dtype] * math.prod(grid.out[1:-1]))
    shared = grid.size[0] * planes // (grid.stride[0] * 2 * emit.threads)
    bands = band_table(grid, max(4, min(16, fitting, shared)))
    room = int((bands[:, 3] - bands[:, 2]).max())
    _call(
        emit,
        f"make_unpick({by.dtype!r}, {pieces}, {cells}, {step}, {window.shape[1]})",
        [by, ct],
        result,
        grid,
        count=planes * len(bands),
        scratch=(groups * step + 2 * room * span) * ITEMSIZE[by.dtype],
        tables=[bands, np.stack([start, which], 1), np.stack([window, piece], 2)],
        extra=(len(bands), room),
    )
    return True


def lower_window_spread(
    emit: Emitter, ct: Layout, grid: Grid, result: Layout, *, divisor: float = 1.0
) -> None:
    """The transpose of a sum over windows: each cell gets the sum of all windows that cover it.

    Args:
        emit: Where calls go.
        ct: [*lead, *out], further axes of size 1 do not matter; float32, float64 or int64.
        grid: The windows.
        result: [*lead, *size], of the dtype of ct.
        divisor: What everything is divided by; 1 for int64.
    """
    if _trivial(emit, ct, result):
        return
    window, _ = cover_table(grid)
    groups, span = _groups(grid)
    over, cells, step = window.shape[1], grid.kernel[-1], grid.stride[-1]
    short = cells <= SHORT_PIECE and step <= SMALL_STEP
    fixed = (cells, step) if short else (None, None)
    _call(
        emit,
        f"make_spread({ct.dtype!r}, {', '.join(map(str, fixed))}, {min(over, FEW_PIECES + 1)})",
        [ct],
        result,
        grid,
        count=result.type.size // grid.size[-1],
        scratch=(groups * step + span) * ITEMSIZE[ct.dtype],
        tables=[window, np.zeros(grid.out[-1], ct.dtype)],
        extra=(len(window), over, 1 / divisor),
    )


def lower_fold(emit: Emitter, op: Any, operands: Sequence[Layout], result: Layout) -> bool:
    """Windows added back to their cells."""
    (windows,) = operands
    grid = op.target(windows.type)
    if _trivial(emit, windows, result):
        return True
    window, piece = cover_table(grid)
    groups, _ = _groups(grid)
    step = grid.stride[-1]
    _call(
        emit,
        f"make_fold({windows.dtype!r}, {step if step <= FEW_PIECES else None})",
        [windows],
        result,
        grid,
        count=result.type.size // grid.size[-1],
        scratch=2 * groups * step * ITEMSIZE[windows.dtype],
        tables=[np.stack([window, piece], 2)],
        extra=(len(window), window.shape[1]),
    )
    return True


# -- windows as they are ---------------------------------------------------------------------------


def lower_unfold(emit: Emitter, op: Any, operands: Sequence[Layout], result: Layout) -> bool:
    """A copy of the view that windows are; where there is padding, of the padded operand."""
    (x,) = operands
    grid = _grid(op, x)
    if 0 in result.shape:
        return True
    lead = len(x.shape) - grid.rank
    if any(grid.padding):
        margins = [(0, 0, 0)] * lead + [(p, p, 0) for p in grid.padding]
        shape = [n + low + high for n, (low, high, _) in zip(x.shape, margins, strict=True)]
        padded = emit.value(x.type.with_shape(shape))
        pad_into(emit, x, margins, 0, padded)
        x = padded
    steps = x.strides[lead:]
    shape = [*x.shape[:lead], *grid.kernel, *grid.out]
    strides = [*x.strides, *(a * s for a, s in zip(steps, grid.stride, strict=True))]
    emit.copy(Layout(x.buffer, x.offset, tuple(shape), tuple(strides), x.dtype), result)
    return True


# -- what they share -------------------------------------------------------------------------------


def _grid(op: Any, x: Layout) -> Grid:
    """The windows of an op over an operand [*lead, *size]."""
    grid: Grid = op.grid(x.shape[len(x.shape) - op.spatial(len(x.shape)) :])
    return grid


def _trivial(emit: Emitter, source: Layout, result: Layout) -> bool:
    """There is nothing to compute from: whatever there is of a result is 0."""
    if 0 not in source.shape and 0 not in result.shape:
        return False
    lower_fill(emit, 0, result)
    return True


def _unrolls(grid: Grid) -> bool:
    """Whether windows are small enough for kernels with their cells unrolled."""
    return math.prod(grid.kernel) <= FEW_CELLS and grid.stride[-1] <= SMALL_STEP


def _groups(grid: Grid) -> tuple[int, int]:
    """Windows of a row that begin before its cells end; and those with a margin in front."""
    step = grid.stride[-1]
    groups = (grid.size[-1] + grid.padding[-1] - 1) // step + 1
    return groups, -(-grid.kernel[-1] // step) - 1 + groups


def _words(grid: Grid, scratch: int, *, zero_ends: bool) -> list[int | float]:
    """The argument words that the kernels have in common."""
    n, k, s, p = (part[-1] for part in (grid.size, grid.kernel, grid.stride, grid.padding))
    count = grid.out[-1]
    first, last = grid.real_places(grid.rank - 1) if zero_ends else (0, count)
    whole = min(-(-p // s), count)
    end = max(min((n + p - k) // s + 1, count), whole)
    rows, pieces = math.prod(grid.out[:-1]), math.prod(grid.kernel[:-1])
    sizes = [scratch, rows, pieces, math.prod(grid.size), n, count, k, s, p]
    return [*sizes, first, last, whole, end]


def _call(
    emit: Emitter,
    kernel: str,
    operands: Sequence[Layout],
    result: Layout,
    grid: Grid,
    *,
    count: int,
    tables: Sequence[Array],
    scratch: int = 0,
    extra: tuple[float, ...] = (),
    zero_ends: bool = False,
) -> None:
    """Call a kernel on dense operands, a dense result, scratch memory (if any) and tables.

    Args:
        emit: Where it goes.
        kernel: How it is made.
        operands: Any layouts; those that are not dense are copied.
        result: Any layout; to one that is not dense the result is copied.
        grid: The windows.
        count: How many iterations there are.
        tables: Arrays for the kernel to read.
        scratch: Bytes of scratch memory of a chunk.
        extra: Further words.
        zero_ends: Whether windows of padding only, at the ends of a row, are set to 0.
    """
    dense = [emit.densify(x) for x in operands]
    target = result if result.is_dense else emit.value(result.type)
    moved = sum(x.type.nbytes for x in (*dense, result))
    overlap = max(1.0, math.prod(grid.kernel) / math.prod(grid.stride))
    chunks = chunks_for(count, moved * overlap / BYTES_PER_NANOSECOND, emit.threads)
    name = kernel.partition("(")[0]
    module = "window" if name in ("make_reduce", "make_pick", "make_far_pick") else "window_add"
    scratch = -(-scratch // 64) * 64  # so that no two chunks share a cache line
    room = [Operand(emit.scratch(chunks * scratch))] if scratch else []
    emit.call(
        Kernel(
            f"from gradwire_engine.codegen.kernels.{module} import {name}\nkernel = {kernel}\n",
            title=f"{name.removeprefix('make_')} windows {result.type}",
        ),
        [*dense, target, *room, *(Operand(emit.const(table)) for table in tables)],
        [*_words(grid, scratch, zero_ends=zero_ends), *extra],
        count=count,
        chunks=chunks,
        writes=range(len(dense), len(dense) + 1 + len(room)),
    )
    if target is not result:
        emit.copy(target, result)


LOWERINGS = {
    "fold": lower_fold,
    "unfold": lower_unfold,
    "window_pick": lower_window_pick,
    "window_unpick": lower_window_unpick,
}
