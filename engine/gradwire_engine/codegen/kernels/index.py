"""Reading rows at positions, and adding rows to positions.

Tensors are seen as [blocks, n, inner]: rows of `inner` elements at n positions, in independent
blocks of which so many in a row share their positions. Positions out of range, negative ones too,
read as 0 and are not added.
"""

from __future__ import annotations

from typing import Any

from ..prelude import (
    f32,
    f64,
    i64,
    inline,
    load_f32,
    load_f64,
    load_i64,
    operand,
    select,
    store_f32,
    store_f64,
    word,
)
from .kinds import BY_WIDTH, KINDS, add

TABLE, INDEX, OUT, UPDATE, SUMS = range(5)  # scopes


def make_pick_each(width: int) -> Any:
    """One element of each row of x; an iteration is an element of the result.

    Operands: x, positions [rows], result [rows]. Words: elements of a row, and the strides of x
    between rows and within one.

    Args:
        width: Bytes of an element.
    """
    kind, load, store = BY_WIDTH[width]

    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        x, at, y = operand(frame, args, 0), operand(frame, args, 1), operand(frame, args, 2)
        n, apart, step = word(args, 6), word(args, 7), word(args, 8)
        for r in range(lo, hi):
            position = load_i64(at, r, INDEX)
            inside = (position >= 0) & (position < n)
            value = load(x, r * apart + select(inside, position, i64(0)) * step, TABLE)
            store(y, r, select(inside, value, kind(0)), OUT)

    return kernel


def make_take(width: int, inner: int | None, step: int | None) -> Any:
    """Rows of x at positions; an iteration is a row of the result.

    Operands: x, positions [samples, k], result [samples, blocks of a sample, k, inner]. Words: k,
    blocks of a sample, n, inner, and the strides of x between samples, blocks, positions and within
    a row.

    Args:
        width: Bytes of an element.
        inner: Elements of a row if it is 1.
        step: The stride of x within a row if it is 1.
    """
    kind, load, store = BY_WIDTH[width]

    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        x, at, y = operand(frame, args, 0), operand(frame, args, 1), operand(frame, args, 2)
        k, blocks, n = word(args, 6), word(args, 7), word(args, 8)
        size = word(args, 9) if inner is None else inner
        apart = word(args, 12)
        s = word(args, 13) if step is None else step
        row = lo
        while row < hi:
            block = row // k
            first = row - block * k
            count = min(k - first, hi - row)
            sample = block // blocks
            start = sample * word(args, 10) + (block - sample * blocks) * word(args, 11)
            for r in range(count):
                position = load_i64(at, sample * k + first + r, INDEX)
                inside = (position >= 0) & (position < n)
                source = start + select(inside, position, i64(0)) * apart
                for c in range(size):
                    value = load(x, source + c * s, TABLE)
                    store(y, (row + r) * size + c, select(inside, value, kind(0)), OUT)
            row += count

    return kernel


@inline
def _either(a: Any, b: Any) -> Any:
    return a | b


def make_scatter_add(dtype: str, uniform: bool) -> Any:
    """A copy of x to whose rows others are added; an iteration is a row of the result.

    Every chunk looks at all positions and adds what falls into its own rows, in their order.

    Operands: x and result [blocks, n, inner], positions [samples, k], updates [blocks, k, inner].
    Words: n, inner, k, blocks of a sample.

    Args:
        dtype: Of x, updates and result. For bool, adding is "or".
        uniform: Whether x is one element, which stands for all.
    """
    _, load, store = KINDS[dtype]
    join = _either if dtype == "bool" else add

    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        x, at = operand(frame, args, 0), operand(frame, args, 1)
        updates, y = operand(frame, args, 2), operand(frame, args, 3)
        n, inner, k, blocks = word(args, 8), word(args, 9), word(args, 10), word(args, 11)
        for i in range(lo * inner, hi * inner):
            store(y, i, load(x, 0 if uniform else i, TABLE), OUT)
        row = lo
        while row < hi:
            block = row // n
            first = row - block * n
            count = min(n - first, hi - row)
            here = block // blocks * k
            for j in range(k):
                r = load_i64(at, here + j, INDEX) - first
                if r >= 0 and r < count:
                    source, target = (block * k + j) * inner, (row + r) * inner
                    for c in range(inner):
                        value = join(load(y, target + c, OUT), load(updates, source + c, UPDATE))
                        store(y, target + c, value, OUT)
            row += count

    return kernel


def make_scatter_sum(uniform: bool) -> Any:
    """As `make_scatter_add` for float32, every element added up in float64.

    Operands as there, then scratch memory for the sums of so many rows at a time as the last word
    says. Words as there, then how many bytes of scratch a chunk has, and that.
    """

    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        x, at = operand(frame, args, 0), operand(frame, args, 1)
        updates, y = operand(frame, args, 2), operand(frame, args, 3)
        sums = operand(frame, args, 4) + chunk * word(args, 14)
        n, inner, k, blocks = word(args, 10), word(args, 11), word(args, 12), word(args, 13)
        row = lo
        while row < hi:
            block = row // n
            first = row - block * n
            count = min(n - first, hi - row, word(args, 15))
            here = block // blocks * k
            for i in range(count * inner):
                value = load_f32(x, 0 if uniform else row * inner + i, TABLE)
                store_f64(sums, i, f64(value), SUMS)
            for j in range(k):
                r = load_i64(at, here + j, INDEX) - first
                if r >= 0 and r < count:
                    source, target = (block * k + j) * inner, r * inner
                    for c in range(inner):
                        value = load_f64(sums, target + c, SUMS)
                        value += f64(load_f32(updates, source + c, UPDATE))
                        store_f64(sums, target + c, value, SUMS)
            for i in range(count * inner):
                store_f32(y, row * inner + i, f32(load_f64(sums, i, SUMS)), OUT)
            row += count

    return kernel
