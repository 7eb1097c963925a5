"""Copies of elements from one strided layout to another: along rows, narrow, and transposing.

Elements move as bits, so a kernel serves every dtype of its width. An iteration is one row of the
target (in `make_tiles` a band of rows); rows lie in *panels*, planes of two axes, and the axes
around a panel are words, so that one kernel serves every rank.

Argument words after the operands (source, target), strides in elements: how many rows a panel has,
then those a kernel names itself, from `OUTER` on the number of axes around a panel, and for each of
them, outermost first, its size and its strides in source and target.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..prelude import (
    JIT,
    inline,
    mark,
    operand,
    word,
)
from .kinds import BY_WIDTH

ROWS, WORDS, OUTER = 4, 5, 11


@inline
def origin(args: int, panel: int, side: int) -> int:
    """Where a panel starts, in elements: in the source (side 0) or the target (1)."""
    position = 0
    for axis in range(word(args, OUTER) - 1, -1, -1):
        place = OUTER + 1 + 3 * axis
        size = word(args, place)
        outer = panel // size
        position += (panel - outer * size) * word(args, place + 1 + side)
        panel = outer
    return position


def make_rows(width: int, source_step: int | None, target_step: int | None) -> Any:
    """A copy row by row.

    Words: elements of a row, of a panel (a last row may be shorter); the strides between rows and
    those within a row, of source and target each.

    Args:
        width: Bytes of an element.
        source_step: The source's stride within a row if it is fixed, so that the loop vectorizes.
        target_step: The same for the target.
    """
    _, load, store = BY_WIDTH[width]

    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        source, target = operand(frame, args, 0), operand(frame, args, 1)
        rows, row, length = word(args, ROWS), word(args, WORDS), word(args, WORDS + 1)
        source_row, target_row = word(args, WORDS + 2), word(args, WORDS + 3)
        s = word(args, WORDS + 4) if source_step is None else source_step
        t = word(args, WORDS + 5) if target_step is None else target_step
        at = lo
        while at < hi:
            panel = at // rows
            first = at - panel * rows
            count = min(rows - first, hi - at)
            start = origin(args, panel, 0) + first * source_row
            end = origin(args, panel, 1) + first * target_row
            for r in range(count):
                p, q = start + r * source_row, end + r * target_row
                for i in range(min(row, length - (first + r) * row)):
                    store(target, q + i * t, load(source, p + i * s, 0), 1)
            at += count

    return kernel


def make_narrow(width: int, size: int, source_row: int | None, packed: bool) -> Any:
    """A copy of rows of a few elements each: the loop along the rows vectorizes.

    Words as `make_rows`.

    Args:
        width: Bytes of an element.
        size: Elements of a row.
        source_row: The source's stride between rows if it is fixed.
        packed: Whether the target's rows follow one another without gaps.
    """
    _, load, store = BY_WIDTH[width]

    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        source, target = operand(frame, args, 0), operand(frame, args, 1)
        rows = word(args, ROWS)
        s = word(args, WORDS + 2) if source_row is None else source_row
        t = size if packed else word(args, WORDS + 3)
        source_step = word(args, WORDS + 4)
        target_step = 1 if packed else word(args, WORDS + 5)
        at = lo
        while at < hi:
            panel = at // rows
            first = at - panel * rows
            count = min(rows - first, hi - at)
            start = origin(args, panel, 0) + first * s
            end = origin(args, panel, 1) + first * t
            for r in range(count):
                for i in range(size):
                    value = load(source, start + r * s + i * source_step, 0)
                    store(target, end + r * t + i * target_step, value, 1)
            at += count

    return kernel


# -- transposing -----------------------------------------------------------------------------------

LANE_BYTES = 16


def _transpose_tile(width: int) -> Any:
    """``tile(source, p, ps, target, q, qs)`` moves 2m rows of m elements to m rows of 2m.

    m elements fill 16 bytes. Vectors hold source rows i and m + i, one in each half; log2(m) rounds
    of interleaving within halves transpose both at once.
    """
    m = LANE_BYTES // width
    if not JIT:
        _, load, store = BY_WIDTH[width]

        def plain(source: int, p: int, ps: int, target: int, q: int, qs: int) -> None:
            for i in range(2 * m):
                for j in range(m):
                    store(target, q + j * qs + i, load(source, p + i * ps + j, 0), 1)

        return plain

    element = ir.IntType(8 * width)
    half, full = ir.VectorType(element, m), ir.VectorType(element, 2 * m)

    def tile(typingctx: Any, source: Any, p: Any, ps: Any, target: Any, q: Any, qs: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            def shuffle(a: Any, b: Any, lanes: list[int]) -> Any:
                mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
                return builder.shuffle_vector(a, b, mask)

            def place(address: Any, start: Any, step: Any, row: int, kind: Any) -> Any:
                base = builder.inttoptr(address, element.as_pointer())
                shift = builder.mul(step, ir.Constant(ir.IntType(64), row))
                at = builder.gep(base, [builder.add(start, shift)], inbounds=True)
                return builder.bitcast(at, kind.as_pointer())

            address, start, step, goal, goal_start, goal_step = args
            parts = [
                builder.load(place(address, start, step, i, half), align=width)
                for i in range(2 * m)
            ]
            for part in parts:
                mark(builder, part, 0)
            vectors = [shuffle(parts[i], parts[m + i], list(range(2 * m))) for i in range(m)]
            low = [k // 2 + k % 2 * 2 * m for k in range(m)]
            masks = [
                [lane + shift for shift in (0, m) for lane in [x + part for x in low]]
                for part in (0, m // 2)
            ]
            span = m
            while span > 1:
                vectors = [
                    shuffle(vectors[i], vectors[i + m // 2], mask)
                    for i in range(m // 2)
                    for mask in masks
                ]
                span //= 2
            for j, vector in enumerate(vectors):
                stored = builder.store(
                    vector, place(goal, goal_start, goal_step, j, full), align=width
                )
                mark(builder, stored, 1)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 6), codegen

    return intrinsic(tile)


def make_tiles(width: int) -> Any:
    """A copy whose source runs along the target's rows: transposed in tiles held in registers.

    An iteration is a band of as many target rows as 64 bytes hold elements, so that cache lines of
    the source are read whole. Tiles at an edge overlap their neighbours, and write the same again.

    Words: rows and columns of a panel; the source's stride between columns (rows are 1 apart); the
    target's between rows (columns are 1 apart). A panel has at least m rows and 2m columns, where m
    elements fill 16 bytes.
    """
    m = LANE_BYTES // width
    band, wide = 4 * m, 2 * m
    tile = _transpose_tile(width)

    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        source, target = operand(frame, args, 0), operand(frame, args, 1)
        bands, rows, columns = word(args, ROWS), word(args, WORDS), word(args, WORDS + 1)
        source_column, target_row = word(args, WORDS + 2), word(args, WORDS + 3)
        for at in range(lo, hi):
            panel = at // bands
            first = (at - panel * bands) * band
            last = min(rows, first + band)
            start, end = origin(args, panel, 0), origin(args, panel, 1)
            for c in range(0, columns, wide):
                column = min(c, columns - wide)
                for r in range(first, last, m):
                    row = min(r, rows - m)
                    p = start + row + column * source_column
                    q = end + row * target_row + column
                    tile(source, p, source_column, target, q, target_row)

    return kernel
