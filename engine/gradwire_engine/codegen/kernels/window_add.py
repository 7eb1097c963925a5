"""Sliding windows backwards: what belongs to the cells of windows is added back to the cells.

Nothing is scattered where windows are small: every cell gathers from the windows that cover it, so
that rows of cells are independent. The cell at ``j * step + r - padding`` of a row is covered by
windows j, j - 1 and so on, as their cell r, r + step and so on; so a loop over j vectorizes, with
one sum for each r, over rows of windows in scratch memory with a margin in front.

Argument words as in `window`; rows, though, are rows of cells wherever cells gather.
"""

from __future__ import annotations

from typing import Any

from ..prelude import inline, load_i64, operand, real, select, word
from .kinds import KINDS
from .window import (
    CELL,
    CELLS,
    END,
    EXTRA,
    LENGTH,
    NOTES,
    OUT,
    PADDING,
    PIECES,
    PLANE,
    ROWS,
    SCRATCH,
    SPARE,
    STEP,
    SUMS,
    TEMP,
    WHOLE,
    WINDOWS,
    better,
    make_find,
)


def make_unpick(dtype: str, size: int, cells: int, step: int, over: int) -> Any:
    """Each cotangent at the first maximum of `by` in its window, added up; 0 elsewhere.

    An iteration is a band of rows of a plane: the winners of all windows that meet it are noted in
    scratch memory beside their cotangents, then its cells gather.

    Operands: by [planes, *size], ct [planes, *windows], result [planes, *size], scratch, and three
    tables. For each band: its first row and the one past its last, and the same of its window rows.
    For each window row: its pieces as in `window.make_pick`, then which piece of the window each
    really is. For each row of cells: `over` pairs, a window row that covers it and as which piece;
    where there are fewer, window row -1 and piece -2, which nobody wins. Extra words: how many
    bands a plane has, and how many window rows scratch memory has room for.

    Args:
        dtype: Of all but the tables.
        size: Pieces of a window.
        cells: Cells of a piece.
        step: Cells from one window to the next.
        over: Window rows that cover a row of cells, at most.
    """
    kind, load, store = KINDS[dtype]
    at, ways = 14, (cells + step - 1) // step

    @inline
    def winner(
        by: int, table: int, notes: int, plane: int, left: int, right: int, gone: int
    ) -> int:
        """Who wins among the cells `left` to `right`, where `gone` are missing before `left`."""
        best = load(by, plane + load_i64(table, notes, NOTES) + left, CELL)
        won = load_i64(table, notes + size, NOTES) * cells + gone
        for p in range(size):
            start = plane + load_i64(table, notes + p, NOTES)
            base = load_i64(table, notes + size + p, NOTES) * cells + gone - left
            for c in range(left, right):
                b = load(by, start + c, CELL)
                win = better(b, best)
                best = select(win, b, best)
                won = base + c if win else won
        return won

    @inline
    def given(row: int, where: int, half: int, cell: int) -> Any:
        """The cotangent of a window if `cell` won it, else 0."""
        mine = load(row, where, TEMP) == kind(cell)
        return select(mine, load(row, where + half, TEMP), kind(0))

    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        by, ct, y = operand(frame, args, 0), operand(frame, args, 1), operand(frame, args, 2)
        row = operand(frame, args, 3) + chunk * word(args, at + SCRATCH)
        bands, pieces = operand(frame, args, 4), operand(frame, args, 5)
        covers = operand(frame, args, 6)
        length, windows = word(args, at + LENGTH), word(args, at + WINDOWS)
        whole, end, pad = word(args, at + WHOLE), word(args, at + END), word(args, at + PADDING)
        many, room = word(args, at + EXTRA), word(args, at + EXTRA + 1)
        groups = (length + pad - 1) // step + 1
        wide, span = groups * step, ways - 1 + groups
        half, seen = room * span, min(windows, groups)
        for index in range(lo, hi):
            outer = index // many
            band = 4 * (index - outer * many)
            front, back = load_i64(bands, band + 2, NOTES), load_i64(bands, band + 3, NOTES)
            plane, ct_plane = outer * word(args, at + PLANE), outer * word(args, at + ROWS)
            for i in range(wide, wide + half):
                store(row, i, kind(-1), TEMP)
            for w in range(front, back):
                notes = 2 * size * w
                where = wide + (w - front) * span + ways - 1
                for j in range(seen):
                    here = load(ct, (ct_plane + w) * windows + j, SPARE)
                    store(row, half + where + j, here, TEMP)
                if load_i64(pieces, notes, NOTES) < 0:
                    continue
                for j in range(whole, end):
                    start = plane + j * step - pad
                    best = load(by, start + load_i64(pieces, notes, NOTES), CELL)
                    won = kind(load_i64(pieces, notes + size, NOTES) * cells)
                    for p in range(size):
                        base = load_i64(pieces, notes + size + p, NOTES) * cells
                        for k in range(cells):
                            b = load(by, start + load_i64(pieces, notes + p, NOTES) + k, CELL)
                            win = better(b, best)
                            best = select(win, b, best)
                            won = select(win, kind(base + k), won)
                    store(row, where + j, won, TEMP)
                for side in range(2):
                    for j in range(end if side else 0, seen if side else whole):
                        left, right = max(j * step - pad, 0), min(j * step - pad + cells, length)
                        if left < right:
                            gone = left - j * step + pad
                            first = winner(by, pieces, notes, plane, left, right, gone)
                            store(row, where + j, kind(first), TEMP)
            for r in range(load_i64(bands, band, NOTES), load_i64(bands, band + 1, NOTES)):
                notes = 2 * over * r
                for j in range(groups):
                    for lane in range(step):
                        here = kind(0)
                        for way in range(over):
                            window = load_i64(covers, notes + 2 * way, NOTES) - front
                            where = wide + max(window, 0) * span + ways - 1 + j
                            base = load_i64(covers, notes + 2 * way + 1, NOTES) * cells
                            for t in range((cells - lane + step - 1) // step):
                                cell = base + lane + t * step
                                here += given(row, where - t, half, cell)
                        store(row, j * step + lane, here, SUMS)
                for i in range(length):
                    here = load(row, pad + i, SUMS)
                    store(y, plane + r * length + i, here, OUT)

    return kernel


def make_far_unpick(dtype: str) -> Any:
    """As `make_unpick`, for windows of any size; an iteration is a plane.

    Operands: by [planes, *size], ct [planes, *windows], result [planes, *size], table of pieces.
    """
    kind, load, store = KINDS[dtype]
    find, at = make_find(dtype), 8

    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        by, ct = operand(frame, args, 0), operand(frame, args, 1)
        y, table = operand(frame, args, 2), operand(frame, args, 3)
        rows, pieces, plane = word(args, at + ROWS), word(args, at + PIECES), word(args, at + PLANE)
        length, windows = word(args, at + LENGTH), word(args, at + WINDOWS)
        cells, step, pad = word(args, at + CELLS), word(args, at + STEP), word(args, at + PADDING)
        for index in range(lo, hi):
            for i in range(plane):
                store(y, index * plane + i, kind(0), OUT)
            for w in range(rows):
                notes = w * pieces
                if load_i64(table, notes, NOTES) < 0:
                    continue
                for j in range(windows):
                    left, right = max(j * step - pad, 0), min(j * step - pad + cells, length)
                    if left < right:
                        place = find(by, table, notes, pieces, index * plane, left, right)
                        here = load(ct, (index * rows + w) * windows + j, SPARE)
                        store(y, place, load(y, place, OUT) + here, OUT)

    return kernel


# -- adding windows back ---------------------------------------------------------------------------


def make_spread(dtype: str, cells: int | None, step: int | None, over: int) -> Any:
    """Each cotangent added to all cells of its window; an iteration is a row of cells.

    Operands: ct [planes, *windows], result [planes, *size], scratch, the window rows that cover a
    row of cells (-1 where there are fewer), a row of zeros. Extra words: rows of cells of a plane,
    how many window rows cover one at most, and a factor, a float.

    Args:
        dtype: Of ct and the result.
        cells: Cells of a piece, if they are few.
        step: Cells from one window to the next, if it is small.
        over: As many of the covering window rows are added at once.
    """
    kind, load, store = KINDS[dtype]
    item = 4 if dtype == "float32" else 8
    at, scaled = 10, dtype != "int64"

    @inline
    def cover(ct: int, table: int, index: int, plane: int, windows: int, zeros: int) -> int:
        """The address of a window row that covers a row of cells, or of zeros."""
        w = load_i64(table, index, NOTES)
        return zeros if w < 0 else ct + (plane + w) * windows * item

    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        ct, y = operand(frame, args, 0), operand(frame, args, 1)
        row = operand(frame, args, 2) + chunk * word(args, at + SCRATCH)
        table, zeros = operand(frame, args, 3), operand(frame, args, 4)
        length, windows = word(args, at + LENGTH), word(args, at + WINDOWS)
        n = word(args, at + CELLS) if cells is None else cells
        s = word(args, at + STEP) if step is None else step
        pad, rows, most = (
            word(args, at + PADDING),
            word(args, at + EXTRA),
            word(args, at + EXTRA + 1),
        )
        factor = kind(real(args, at + EXTRA + 2)) if scaled else kind(1)
        groups = (length + pad - 1) // s + 1
        start, seen = groups * s + (n + s - 1) // s - 1, min(windows, groups)
        for i in range(groups * s, start + groups):
            store(row, i, kind(0), TEMP)
        for index in range(lo, hi):
            outer = index // rows
            notes, plane = (index - outer * rows) * most, outer * word(args, at + ROWS)
            for j in range(seen):
                here = load(cover(ct, table, notes, plane, windows, zeros), j, SPARE)
                for way in range(1, over):
                    here += load(cover(ct, table, notes + way, plane, windows, zeros), j, SPARE)
                store(row, start + j, here * factor, TEMP)
            for way in range(over, most):
                source = cover(ct, table, notes + way, plane, windows, zeros)
                for j in range(seen):
                    here = load(row, start + j, TEMP) + load(source, j, SPARE) * factor
                    store(row, start + j, here, TEMP)
            for j in range(groups):
                for lane in range(s):
                    here = kind(0)
                    for t in range((n - lane + s - 1) // s):
                        here += load(row, start + j - t, TEMP)
                    store(row, j * s + lane, here, SUMS)
            for i in range(length):
                store(y, index * length + i, load(row, pad + i, SUMS), OUT)

    return kernel


def make_fold(dtype: str, step: int | None) -> Any:
    """Every cell of every window added to where it came from; an iteration is a row of cells.

    Operands: windows [planes, pieces, cells, window rows, windows], result [planes, *size],
    scratch, for each row of cells pairs of a window row that covers it (or -1) and as which piece.
    Extra words: rows of cells of a plane, how many window rows cover one at most.

    Args:
        dtype: Of windows and result.
        step: Cells from one window to the next, if it is small.
    """
    kind, load, store = KINDS[dtype]
    at = 8

    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        x, y = operand(frame, args, 0), operand(frame, args, 1)
        row = operand(frame, args, 2) + chunk * word(args, at + SCRATCH)
        table = operand(frame, args, 3)
        length, windows, cells = (
            word(args, at + LENGTH),
            word(args, at + WINDOWS),
            word(args, at + CELLS),
        )
        s = word(args, at + STEP) if step is None else step
        pad, rows, most = (
            word(args, at + PADDING),
            word(args, at + EXTRA),
            word(args, at + EXTRA + 1),
        )
        groups = (length + pad - 1) // s + 1
        lanes = groups * s
        for index in range(lo, hi):
            outer = index // rows
            for i in range(lanes, 2 * lanes):
                store(row, i, kind(0), TEMP)
            for way in range(most):
                notes = 2 * ((index - outer * rows) * most + way)
                w, piece = load_i64(table, notes, NOTES), load_i64(table, notes + 1, NOTES)
                if w < 0:
                    continue
                for k in range(cells):
                    part = (outer * word(args, at + PIECES) + piece) * cells + k
                    source = (part * word(args, at + ROWS) + w) * windows
                    t = k // s
                    target = lanes + (k - t * s) * groups + t
                    for j in range(min(windows, groups - t)):
                        here = load(row, target + j, TEMP) + load(x, source + j, CELL)
                        store(row, target + j, here, TEMP)
            for j in range(groups):
                for lane in range(s):
                    here = load(row, lanes + lane * groups + j, TEMP)
                    store(row, j * s + lane, here, SUMS)
            for i in range(length):
                store(y, index * length + i, load(row, pad + i, SUMS), OUT)

    return kernel
