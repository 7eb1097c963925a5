"""Running along an axis: cumulative sums, and positions of extremes.

Tensors are seen as [outer, n, inner]. Along the last axis (inner is 1) an iteration is a row.
Otherwise it is a block of columns, which go along together, so that loops vectorize.

Argument words of all kernels: n, inner, and the strides of x between outer places, along the axis
and between inner places, in elements; columns of a block (there is scratch for 8 bytes for each).
"""

from __future__ import annotations

from typing import Any

from ..prelude import (
    f64,
    inline,
    load_i64,
    maximum,
    minimum,
    operand,
    select,
    store_i64,
    word,
)
from .kinds import KINDS, larger, smaller

X, OUT, SUMS = range(3)  # scopes


# -- cumulative sums -------------------------------------------------------------------------------


def make_cumsum_row(dtype: str, reverse: bool) -> Any:
    """Running sums along the last axis; with `reverse`, from the end to the front.

    Operands: x, result [outer, n]. float32 adds up in float64.
    """
    kind, load, store = KINDS[dtype]
    wide = f64 if dtype == "float32" else kind

    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        x, y = operand(frame, args, 0), operand(frame, args, 1)
        n, apart, step = word(args, 4), word(args, 6), word(args, 7)
        for row in range(lo, hi):
            total = wide(0)
            for k in range(n):
                i = n - 1 - k if reverse else k
                total += wide(load(x, row * apart + i * step, X))
                store(y, row * n + i, kind(total), OUT)

    return kernel


def make_cumsum(dtype: str, reverse: bool, step: int | None) -> Any:
    """Running sums along another axis than the last.

    Operands: x, result [outer, n, inner], scratch. float32 adds up in float64.

    Args:
        dtype: Of x and the result.
        reverse: Whether sums run from the end to the front.
        step: The stride of x along inner places if it is 1.
    """
    kind, load, store = KINDS[dtype]
    wide, load_sum, store_sum = KINDS["float64" if dtype == "float32" else dtype]

    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        x, y = operand(frame, args, 0), operand(frame, args, 1)
        columns = word(args, 11)
        sums = operand(frame, args, 2) + chunk * 8 * columns
        n, inner, apart, along = word(args, 6), word(args, 7), word(args, 8), word(args, 9)
        s = word(args, 10) if step is None else step
        blocks = (inner + columns - 1) // columns
        for index in range(lo, hi):
            outer = index // blocks
            first = (index - outer * blocks) * columns
            count = min(columns, inner - first)
            for c in range(count):
                store_sum(sums, c, wide(0), SUMS)
            for k in range(n):
                i = n - 1 - k if reverse else k
                source, target = (
                    outer * apart + i * along + first * s,
                    (outer * n + i) * inner + first,
                )
                for c in range(count):
                    total = load_sum(sums, c, SUMS) + wide(load(x, source + c * s, X))
                    store_sum(sums, c, total, SUMS)
                    store(y, target + c, kind(total), OUT)

    return kernel


# -- positions of extremes -------------------------------------------------------------------------


@inline
def _above(a: Any, b: Any) -> Any:
    return a > b


@inline
def _below(a: Any, b: Any) -> Any:
    return a < b


EXTREMES = {"max": (_above, maximum, larger), "min": (_below, minimum, smaller)}
"""Which of two beats the other, and the better of two: for floats, where NaN wins; for integers."""

GLANCE = 64
"""So many elements are searched at once."""


def make_position_row(dtype: str, how: str) -> Any:
    """The position of the first extreme of each row; the first NaN wins.

    Operands: x [outer, n], result [outer].
    First the extreme is computed, then looked for; both vectorize.

    Args:
        dtype: Of x.
        how: ``max`` or ``min``.
    """
    _, load, _ = KINDS[dtype]
    better = EXTREMES[how][2 if dtype == "int64" else 1]

    @inline
    def meets(v: Any, best: Any) -> Any:
        return (v == best) | (v != v)  # where the extreme is no NaN, nothing is

    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        x, y = operand(frame, args, 0), operand(frame, args, 1)
        n, apart, step = word(args, 4), word(args, 6), word(args, 7)
        for row in range(lo, hi):
            start = row * apart
            best = load(x, start, X)
            for i in range(1, n):
                best = better(best, load(x, start + i * step, X))
            first = 0
            while first < n:
                found = 0
                for i in range(first, min(first + GLANCE, n)):
                    found |= select(meets(load(x, start + i * step, X), best), 1, 0)
                if found:
                    break
                first += GLANCE
            while not meets(load(x, start + first * step, X), best):
                first += 1
            store_i64(y, row, first, OUT)

    return kernel


def make_position(dtype: str, how: str, step: int | None) -> Any:
    """The position of the first extreme along another axis than the last; the first NaN wins.

    Operands: x [outer, n, inner], result [outer, inner], scratch.

    Args:
        dtype: Of x.
        how: ``max`` or ``min``.
        step: The stride of x along inner places if it is 1.
    """
    _, load, store = KINDS[dtype]
    beats = EXTREMES[how][0]

    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        x, y = operand(frame, args, 0), operand(frame, args, 1)
        columns = word(args, 11)
        bests = operand(frame, args, 2) + chunk * 8 * columns
        n, inner, apart, along = word(args, 6), word(args, 7), word(args, 8), word(args, 9)
        s = word(args, 10) if step is None else step
        blocks = (inner + columns - 1) // columns
        for index in range(lo, hi):
            outer = index // blocks
            first = (index - outer * blocks) * columns
            source, target = outer * apart + first * s, outer * inner + first
            count = min(columns, inner - first)
            for c in range(count):
                store(bests, c, load(x, source + c * s, X), SUMS)
                store_i64(y, target + c, 0, OUT)
            for i in range(1, n):
                for c in range(count):
                    best, v = load(bests, c, SUMS), load(x, source + i * along + c * s, X)
                    win = (beats(v, best) | (v != v)) & (best == best)
                    store(bests, c, select(win, v, best), SUMS)
                    store_i64(y, target + c, select(win, i, load_i64(y, target + c, OUT)), OUT)

    return kernel
