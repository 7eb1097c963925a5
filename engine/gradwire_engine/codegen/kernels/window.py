"""Sliding windows: reducing them, and picking from them.

Windows lie on a grid over the last axes of a tensor [planes, *size]; the last of these is called
the row. A window is made of *pieces* of rows, one for each offset along the axes before. Kernels go
through window rows: all windows that lie side by side along the row axis. Tables, made when a graph
is scheduled, say where the pieces of each window row of a plane start; so a kernel serves every
rank, and its loops over windows side by side vectorize, the cells of a window unrolled.

Argument words after those of the operands, strides and positions in elements: those named below.
"""

from __future__ import annotations

from typing import Any

from ..prelude import (
    accumulate,
    inline,
    load_i64,
    maximum,
    minimum,
    operand,
    real,
    select,
    word,
)
from .kinds import KINDS, add

SCRATCH = 0  # bytes of scratch memory of a chunk
ROWS = 1  # window rows of a plane
PIECES = 2  # pieces of a window
PLANE = 3  # cells of a plane
LENGTH = 4  # cells of a row
WINDOWS = 5  # windows of a window row
CELLS = 6  # cells of a piece
STEP = 7  # cells from one window to the next
PADDING = 8  # cells of padding in front of the row
FIRST, LAST = 9, 10  # windows from FIRST to LAST have real cells
WHOLE, END = 11, 12  # windows from WHOLE to END have nothing but real cells
EXTRA = 13  # further words of a kernel

EMPTY = -2  # instead of the start of a piece

CELL, SPARE, OUT, NOTES, TEMP, SUMS = range(6)  # scopes


# -- reductions ------------------------------------------------------------------------------------


@inline
def _larger(a: Any, b: Any) -> Any:
    """The first of equals; NaN wins."""
    return select(b == b, select(b > a, b, a), b)


@inline
def _smaller(a: Any, b: Any) -> Any:
    return select(b == b, select(b < a, b, a), b)


COMBINE = {"sum": (add, accumulate), "max": (_larger, maximum), "min": (_smaller, minimum)}
"""How two cells combine, and how they do so in a long row, where the order is free."""


def make_reduce(
    dtype: str, how: str, size: int | None, cells: int | None, step: int | None, *, wide: bool
) -> Any:
    """The sum, maximum or minimum of each window; NaN wins.

    Operands: x [planes, *size], result [planes, *windows], scratch for a row and its padding, the
    table of pieces (-1: in the padding), a row of what padding counts as. Extra words: the value of
    padding and the divisor of sums, floats. The pieces of a window row are combined first,
    cell by cell, then the cells along it; windows before FIRST and from LAST on become 0, and so do
    window rows whose first piece is EMPTY.

    Args:
        dtype: Of x and the result.
        how: ``sum``, ``max`` or ``min``.
        size: Pieces of a window, if they are few.
        cells: Cells of a piece, if they are few.
        step: Cells from one window to the next, if it is small.
        wide: Whether float32 is added up in float64.
    """
    kind, load, store = KINDS[dtype]
    total, load_row, store_row = KINDS["float64"] if wide else KINDS[dtype]
    combine, free = COMBINE[how]
    free = combine if dtype == "int64" else free
    item = 4 if dtype == "float32" else 8
    at, divided = 10, how == "sum" and dtype != "int64"

    @inline
    def piece(x: int, table: int, index: int, plane: int, filler: int) -> int:
        """The address of a piece, or of what stands for it in the padding."""
        start = load_i64(table, index, NOTES)
        return filler if start < 0 else x + (plane + start) * item

    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        x, y = operand(frame, args, 0), operand(frame, args, 1)
        row = operand(frame, args, 2) + chunk * word(args, at + SCRATCH)
        table, filler = operand(frame, args, 3), operand(frame, args, 4)
        rows, length, windows = (
            word(args, at + ROWS),
            word(args, at + LENGTH),
            word(args, at + WINDOWS),
        )
        pieces = word(args, at + PIECES) if size is None else size
        n = word(args, at + CELLS) if cells is None else cells
        s = word(args, at + STEP) if step is None else step
        pad = word(args, at + PADDING)
        first, last = word(args, at + FIRST), word(args, at + LAST)
        nothing, divisor = total(real(args, at + EXTRA)), total(real(args, at + EXTRA + 1))
        for i in range(pad):
            store_row(row, i, nothing, TEMP)
        for i in range(length + pad, (windows - 1) * s + n):
            store_row(row, i, nothing, TEMP)
        for index in range(lo, hi):
            outer = index // rows
            plane = outer * word(args, at + PLANE)
            notes = (index - outer * rows) * pieces
            if size is None:
                source = piece(x, table, notes, plane, filler)
                for i in range(length):
                    store_row(row, pad + i, total(load(source, i, CELL)), TEMP)
                for p in range(1, pieces):
                    source = piece(x, table, notes + p, plane, filler)
                    for i in range(length):
                        value = combine(load_row(row, pad + i, TEMP), total(load(source, i, CELL)))
                        store_row(row, pad + i, value, TEMP)
            else:
                for i in range(length):
                    value = total(load(piece(x, table, notes, plane, filler), i, CELL))
                    for p in range(1, size):
                        source = piece(x, table, notes + p, plane, filler)
                        value = combine(value, total(load(source, i, CELL)))
                    store_row(row, pad + i, value, TEMP)
            for j in range(windows):
                value = load_row(row, j * s, TEMP)
                for k in range(1, n):
                    other = load_row(row, j * s + k, TEMP)
                    value = free(value, other) if cells is None else combine(value, other)
                store(y, index * windows + j, kind(value / divisor if divided else value), OUT)
            for j in range(windows if load_i64(table, notes, NOTES) == EMPTY else first):
                store(y, index * windows + j, kind(0), OUT)
            for j in range(last, windows):
                store(y, index * windows + j, kind(0), OUT)

    return kernel


# -- picking ---------------------------------------------------------------------------------------


@inline
def better(b: Any, best: Any) -> Any:
    """Whether a later cell takes the place of the best so far; the first NaN stays."""
    return (not (b <= best)) & (best == best)


def make_pick(dtype: str, size: int, cells: int, step: int) -> Any:
    """``v`` at the first maximum of `by` in each window; 0 where a window is all padding.

    Operands: by, v [planes, *size], result [planes, *windows], the table of pieces: those in the
    padding are replaced by the nearest real one, which changes nothing, as the same window meets it
    earlier or later; the first is -1 where there is none.

    Args:
        dtype: Of all of them.
        size: Pieces of a window.
        cells: Cells of a piece.
        step: Cells from one window to the next.
    """
    kind, load, store = KINDS[dtype]
    at = 8

    @inline
    def choose(by: int, v: int, table: int, notes: int, plane: int, left: int, right: int) -> Any:
        """What is picked from the cells `left` to `right` of a window row."""
        start = plane + load_i64(table, notes, NOTES) + left
        best, chosen = load(by, start, CELL), load(v, start, SPARE)
        for p in range(size):
            start = plane + load_i64(table, notes + p, NOTES)
            for c in range(left, right):
                b = load(by, start + c, CELL)
                win = better(b, best)
                best = select(win, b, best)
                chosen = select(win, load(v, start + c, SPARE), chosen)
        return chosen

    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        by, v = operand(frame, args, 0), operand(frame, args, 1)
        y, table = operand(frame, args, 2), operand(frame, args, 3)
        rows, length, windows = (
            word(args, at + ROWS),
            word(args, at + LENGTH),
            word(args, at + WINDOWS),
        )
        whole, end, pad = word(args, at + WHOLE), word(args, at + END), word(args, at + PADDING)
        for index in range(lo, hi):
            outer = index // rows
            plane, notes = outer * word(args, at + PLANE), (index - outer * rows) * size
            empty = load_i64(table, notes, NOTES) < 0
            begin = windows if empty else whole
            for j in range(begin, end):
                start = j * step - pad
                best = load(by, plane + load_i64(table, notes, NOTES) + start, CELL)
                chosen = load(v, plane + load_i64(table, notes, NOTES) + start, SPARE)
                for p in range(size):
                    for k in range(cells):
                        place = plane + load_i64(table, notes + p, NOTES) + start + k
                        b = load(by, place, CELL)
                        win = better(b, best)
                        best = select(win, b, best)
                        chosen = select(win, load(v, place, SPARE), chosen)
                store(y, index * windows + j, chosen, OUT)
            for side in range(2):
                for j in range(end if side else 0, windows if side else whole):
                    left = max(j * step - pad, 0)
                    right = min(j * step - pad + cells, length)
                    if empty or left >= right:
                        store(y, index * windows + j, kind(0), OUT)
                    else:
                        chosen = choose(by, v, table, notes, plane, left, right)
                        store(y, index * windows + j, chosen, OUT)
            if empty:
                for j in range(whole, end):
                    store(y, index * windows + j, kind(0), OUT)

    return kernel


# -- large windows ---------------------------------------------------------------------------------


def make_find(dtype: str) -> Any:
    """``find(by, table, notes, pieces, plane, left, right)``: where a window's winner lies.

    The window has the cells `left` to `right` of its pieces, whose starts are `table` entries from
    `notes` on. First its maximum is computed, which vectorizes; then it is looked for.
    """
    _, load, _ = KINDS[dtype]

    @inline
    def find(
        by: int, table: int, notes: int, pieces: int, plane: int, left: int, right: int
    ) -> int:
        best = load(by, plane + load_i64(table, notes, NOTES) + left, CELL)
        for p in range(pieces):
            start = plane + load_i64(table, notes + p, NOTES)
            for c in range(left, right):
                best = maximum(best, load(by, start + c, CELL))
        for p in range(pieces):
            start = plane + load_i64(table, notes + p, NOTES)
            for c in range(left, right):
                b = load(by, start + c, CELL)
                if b == best or b != b:
                    return start + c
        return plane

    return find


def make_far_pick(dtype: str) -> Any:
    """As `make_pick`, for windows of any size."""
    kind, load, store = KINDS[dtype]
    find, at = make_find(dtype), 8

    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        by, v = operand(frame, args, 0), operand(frame, args, 1)
        y, table = operand(frame, args, 2), operand(frame, args, 3)
        rows, pieces = word(args, at + ROWS), word(args, at + PIECES)
        length, windows = word(args, at + LENGTH), word(args, at + WINDOWS)
        cells, step, pad = word(args, at + CELLS), word(args, at + STEP), word(args, at + PADDING)
        for index in range(lo, hi):
            outer = index // rows
            plane, notes = outer * word(args, at + PLANE), (index - outer * rows) * pieces
            for j in range(windows):
                left, right = max(j * step - pad, 0), min(j * step - pad + cells, length)
                chosen = kind(0)
                if left < right and load_i64(table, notes, NOTES) >= 0:
                    place = find(by, table, notes, pieces, plane, left, right)
                    chosen = load(v, place, SPARE)
                store(y, index * windows + j, chosen, OUT)

    return kernel
