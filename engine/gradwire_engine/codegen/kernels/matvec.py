"""Products of a matrix P with a few vectors: every element of P is read once, as fast as memory is.

Which kernel serves depends on how P lies: `make_dots` where the summed axis runs along memory,
`make_sums` where the other one does. Either may cut the depth into slices, whose sums
`make_combine` adds up in float64.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ...ir import ITEMSIZE
from ..prelude import f64, inline, operand, real, word
from .gemm import origin
from .kinds import KINDS
from .tiles import SCALARS
from .vectors import I64, Vectors, own, view

CHAINS = 8
"""Sums that `make_dots` keeps in registers: enough to hide how long an addition takes."""

STREAMS = 4
"""Rows of P that `make_sums` reads at a time."""

BLOCK = 4096
"""Products that are added before their sum is added to Y."""

(
    COUNT,
    LENGTH,
    DEPTH,
    SLICES,
    FEW,
    FEW_PIECES,
    P_STEP,
    X_STEP,
    X_FEW,
    Y_STEP,
    Y_FEW,
    Y_SLICE,
    ADD,
    ALPHA,
    OUTER,
) = range(6, 21)
"""Words after the operands P, X, Y.

Sums for each vector, and how many of them an iteration has; products in each; slices of the depth;
vectors, and among how many iterations they are shared out. Strides in elements: of P along the axis
that does not run along memory, of X along the depth, of X from vector to vector; of Y along the
sums, from vector to vector, from slice to slice. Then whether Y is added to, and the factor; outer
axes as in `gemm`.
"""


def _make_dots(dtype: str, group: int) -> Any:
    """``dots(p, p_row, x, y, y_row, rows, depth, alpha, add)``.

    y[r] = alpha sum of p[r] x, or y[r] + that, for at most `group` rows r.
    """

    def plain(
        p: int,
        p_row: int,
        x: int,
        y: int,
        y_row: int,
        rows: int,
        depth: int,
        alpha: Any,
        add: int,
    ) -> None:
        matrix = view(p, dtype, (rows, depth), (p_row, 1))
        product = alpha * (matrix @ view(x, dtype, (depth,), (1,)))
        total = view(y, dtype, (rows,), (y_row,))
        total[...] = total + product if add else product

    def body(builder: Any, args: Any) -> None:
        p, p_row, x, y, y_row, rows, depth, alpha, add = args
        v = Vectors(builder, dtype)
        last = builder.sub(rows, I64(1))
        starts = [
            v.at(
                v.pointer(p),
                builder.mul(
                    p_row, builder.select(builder.icmp_signed("<", I64(r), rows), I64(r), last)
                ),
            )
            for r in range(group)
        ]
        vector = v.pointer(x)

        def step(state: Any, mask: Any = None) -> list[Any]:
            k, *sums = state
            factor = v.load(v.at(vector, k), mask)
            added = [
                v.fma(factor, v.load(v.at(start, k), mask), total)
                for start, total in zip(starts, sums, strict=True)
            ]
            return [builder.add(k, I64(v.lanes)), *added]

        def steps(state: Any) -> list[Any]:
            k, *sums = state
            for i in range(0, CHAINS, group):
                k, *sums[i : i + group] = step([k, *sums[i : i + group]])
            return [k, *sums]

        whole = builder.sdiv(depth, I64(CHAINS // group * v.lanes))
        k, *sums = v.repeat(whole, [I64(0), *[v.zero] * CHAINS], steps)
        while len(sums) > group:
            half = len(sums) // 2
            sums = [builder.fadd(a, b) for a, b in zip(sums[:half], sums[half:], strict=True)]
        _, *sums = v.repeat(
            v.count(builder.sub(depth, k)),
            [k, *sums],
            lambda state: step(state, v.first(builder.sub(depth, state[0]))),
        )
        adding = builder.icmp_signed("!=", add, I64(0))
        nothing = ir.Constant(v.element, -0.0)
        done = builder.append_basic_block("done")
        for r, total in enumerate(sums):
            present = builder.append_basic_block("row")
            builder.cbranch(builder.icmp_signed("<", I64(r), rows), present, done)
            builder.position_at_end(present)
            place = v.at(v.pointer(y), builder.mul(y_row, I64(r)))
            base = builder.select(adding, builder.load(place), nothing)
            builder.store(builder.fadd(builder.fmul(alpha, v.total(total)), base), place)
        builder.branch(done)
        builder.position_at_end(done)

    return own(f"dots_{dtype}_{group}", plain, body, alpha=SCALARS[dtype])


@inline
def strips(args: int) -> int:
    """How many iterations share a slice of the depth at one index of the outer axes."""
    return (word(args, COUNT) + word(args, LENGTH) - 1) // word(args, LENGTH)


@inline
def locate(args: int, at: int) -> tuple[int, int, int, int, int]:
    """First sum and number of sums of an iteration, the same of products, and its outer index."""
    at //= word(args, FEW_PIECES)
    panel = at // strips(args)
    first = (at - panel * strips(args)) * word(args, LENGTH)
    count = min(word(args, LENGTH), word(args, COUNT) - first)
    index = panel // word(args, SLICES)
    part = panel - index * word(args, SLICES)
    start = part * word(args, DEPTH) // word(args, SLICES)
    depth = (part + 1) * word(args, DEPTH) // word(args, SLICES) - start
    return first, count, start, depth, index


@inline
def vectors(args: int, at: int) -> tuple[int, int]:
    """The vectors of an iteration: the first, and the one past the last."""
    pieces, few = word(args, FEW_PIECES), word(args, FEW)
    piece = at % pieces
    return piece * few // pieces, (piece + 1) * few // pieces


def make_dots(dtype: str, group: int) -> Any:
    """Y[f, r] = alpha sum over k of P[r, k] X[f, k] (+ Y), where k runs along memory in P and X.

    An iteration is a strip of r and a share of f, in one slice of the depth, at one index of the
    outer axes. `group` of r, at most `CHAINS`, are summed side by side.
    """
    number, item, dots = KINDS[dtype][0], ITEMSIZE[dtype], _make_dots(dtype, group)

    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        p_step, y_step = word(args, P_STEP), word(args, Y_STEP)
        alpha = number(real(args, ALPHA))
        for at in range(lo, hi):
            first, count, start, depth, index = locate(args, at)
            low, high = vectors(args, at)
            part = at // word(args, FEW_PIECES) // strips(args) % word(args, SLICES)
            p = first * p_step + start + origin(args, OUTER, index, 0)
            x = start + origin(args, OUTER, index, 1)
            y = first * y_step + part * word(args, Y_SLICE) + origin(args, OUTER, index, 2)
            for r in range(0, count, group):
                for f in range(low, high):
                    add = word(args, ADD)
                    for k in range(0, depth, BLOCK):
                        dots(
                            operand(frame, args, 0) + (p + r * p_step + k) * item,
                            p_step,
                            operand(frame, args, 1) + (x + f * word(args, X_FEW) + k) * item,
                            operand(frame, args, 2)
                            + (y + r * y_step + f * word(args, Y_FEW)) * item,
                            y_step,
                            min(group, count - r),
                            min(BLOCK, depth - k),
                            alpha,
                            add,
                        )
                        add = 1

    return kernel


def make_sums(dtype: str) -> Any:
    """Y[f, r] = alpha sum over k of X[f, k] P[k, r] (+ Y), where r runs along memory in P and Y.

    An iteration is a strip of r and a share of f, in one slice of the depth, at one index of the
    outer axes.
    """
    number, load, store = KINDS[dtype]
    item = ITEMSIZE[dtype]

    @inline
    def add_streams(y: int, count: int, p: int, s: int, x: int, x_step: int, alpha: Any) -> None:
        """Add `STREAMS` rows of P, `s` elements apart, each times its factor from X."""
        a, b = alpha * load(x, 0, 1), alpha * load(x, x_step, 1)
        c, d = alpha * load(x, 2 * x_step, 1), alpha * load(x, 3 * x_step, 1)
        for i in range(count):
            total = a * load(p, i, 0) + b * load(p, s + i, 0)
            total += c * load(p, 2 * s + i, 0) + d * load(p, 3 * s + i, 0)
            store(y, i, load(y, i, 2) + total, 2)

    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        p_step, x_step = word(args, P_STEP), word(args, X_STEP)
        alpha = number(real(args, ALPHA))
        for at in range(lo, hi):
            first, count, start, depth, index = locate(args, at)
            low, high = vectors(args, at)
            part = at // word(args, FEW_PIECES) // strips(args) % word(args, SLICES)
            p = operand(frame, args, 0) + item * (
                first + start * p_step + origin(args, OUTER, index, 0)
            )
            x = operand(frame, args, 1) + item * (start * x_step + origin(args, OUTER, index, 1))
            y = operand(frame, args, 2) + item * (
                first + part * word(args, Y_SLICE) + origin(args, OUTER, index, 2)
            )
            x_few, y_few = word(args, X_FEW) * item, word(args, Y_FEW) * item
            begun = 0
            if word(args, ADD) == 0:
                begun = 1
                for f in range(low, high):
                    a, total = alpha * load(x + f * x_few, 0, 1), y + f * y_few
                    for i in range(count):
                        store(total, i, a * load(p, i, 0), 2)
            whole = depth - (depth - begun) % STREAMS
            for k in range(begun, whole, STREAMS):
                rows, factors = p + k * p_step * item, x + k * x_step * item
                for f in range(low, high):
                    add_streams(
                        y + f * y_few, count, rows, p_step, factors + f * x_few, x_step, alpha
                    )
            for k in range(whole, depth):
                for f in range(low, high):
                    a, total = alpha * load(x + f * x_few, k * x_step, 1), y + f * y_few
                    for i in range(count):
                        store(total, i, load(total, i, 2) + a * load(p, k * p_step + i, 0), 2)

    return kernel


def make_combine(dtype: str) -> Any:
    """Y[i, j] = alpha sum over s of P[s, i, j] (+ Y), added up in float64; P is dense.

    An iteration is one i. Words after the operands P and Y: how many s, i and j there are, the
    strides of Y along i and j, whether Y is added to, alpha.
    """
    number, load, store = KINDS[dtype]
    item = ITEMSIZE[dtype]

    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        parts, rows, columns = word(args, 4), word(args, 5), word(args, 6)
        y_row, y_column, add, alpha = word(args, 7), word(args, 8), word(args, 9), real(args, 10)
        for i in range(lo, hi):
            p = operand(frame, args, 0) + i * columns * item
            y = operand(frame, args, 1) + i * y_row * item
            for j in range(columns):
                total = f64(0)
                for s in range(parts):
                    total += f64(load(p, s * rows * columns + j, 0))
                total *= alpha
                if add != 0:
                    total += f64(load(y, j * y_column, 1))
                store(y, j * y_column, number(total), 1)

    return kernel
