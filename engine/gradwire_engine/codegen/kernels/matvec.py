"""The innermost parts of products of a matrix with a few vectors, and of adding slices up.

Every element of the matrix is read once, as fast as memory is: `make_dots` where the depth runs
along memory, in the matrix and the vectors, `make_sums` where the other axis does, of the matrix
and the result. `make_totals` adds up what slices of a depth came to, in float64.

All strides are in elements, all places addresses in bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from ..lowering.products import GROUP
from .tiles import SCALARS, plain_product
from .vectors import I64, Vectors, own, view

CHAINS = 8
"""Sums that `make_dots` keeps in registers: enough to hide how long an addition takes.

They are of `GROUP` rows with two vectors, or with two parts of one, or of eight parts of one row.
"""

BLOCK = 4096
"""Products that it adds before their sum is added to the others in float64."""

STREAMS = (4, 2, 1)
"""Rows of the matrix that `make_sums` reads at a time: as many as there are.

Eight would not do: rows 4096 bytes apart, and that of the result, share eight places in cache.
"""

UNROLLED = 2
"""Vectors of them that it takes at a time."""


def make_dots(dtype: str) -> Any:
    """``dots(a, a_row, b, b_column, c, c_row, c_column, rows, columns, depth, alpha, add)``.

    C = alpha A B, or C + alpha A B if `add` is not 0, where the depth is 1 apart in A and B.
    """

    def plain(
        a: int,
        a_row: int,
        b: int,
        b_column: int,
        c: int,
        c_row: int,
        c_column: int,
        rows: int,
        columns: int,
        depth: int,
        alpha: Any,
        add: int,
    ) -> None:
        left = view(a, dtype, (rows, depth), (a_row, 1))
        right = view(b, dtype, (depth, columns), (1, b_column))
        total = view(c, dtype, (rows, columns), (c_row, c_column))
        product = alpha * (left @ right)
        total[...] = total + product if add else product

    def body(builder: Any, args: Any) -> None:
        a, a_row, b, b_column, c, c_row, c_column, rows, columns, depth, alpha, add = args
        v = Vectors(builder, dtype)
        adding = builder.icmp_signed("!=", add, I64(0))
        nothing, double = ir.Constant(v.element, -0.0), ir.DoubleType()

        def wide(value: Any) -> Any:
            return value if value.type == double else builder.fpext(value, double)

        def block(starts: Sequence[Any], vectors: Sequence[Any], depth: Any) -> list[Any]:
            """Products of a `BLOCK` of rows with one of vectors, each row with all of them."""
            count = len(starts) * len(vectors)

            def step(state: Any, mask: Any = None) -> list[Any]:
                k, *sums = state
                factors = [v.load(v.at(vector, k), mask) for vector in vectors]
                rows = [v.load(v.at(start, k), mask) for start in starts]
                pairs = itertools.product(rows, factors)
                added = [v.fma(x, y, z) for (x, y), z in zip(pairs, sums, strict=True)]
                return [builder.add(k, I64(v.lanes)), *added]

            def steps(state: Any) -> list[Any]:
                k, *sums = state
                for i in range(0, CHAINS, count):
                    k, *sums[i : i + count] = step([k, *sums[i : i + count]])
                return [k, *sums]

            whole = builder.sdiv(depth, I64(CHAINS // count * v.lanes))
            k, *sums = v.repeat(whole, [I64(0), *[v.zero] * CHAINS], steps)
            while len(sums) > count:
                half = len(sums) // 2
                sums = [builder.fadd(x, y) for x, y in zip(sums[:half], sums[half:], strict=True)]
            _, *sums = v.repeat(
                v.count(builder.sub(depth, k)),
                [k, *sums],
                lambda state: step(state, v.first(builder.sub(depth, state[0]))),
            )
            return [v.total(total) for total in sums]

        def dot(starts: Sequence[Any], vectors: Sequence[Any], places: Sequence[Any]) -> None:
            """Products of rows with vectors, and where they belong."""

            def step(state: Any) -> list[Any]:
                k, *totals = state
                left = builder.sub(depth, k)
                short = builder.icmp_signed("<", left, I64(BLOCK))
                found = block(
                    [v.at(start, k) for start in starts],
                    [v.at(vector, k) for vector in vectors],
                    builder.select(short, left, I64(BLOCK)),
                )
                sums = [builder.fadd(x, wide(y)) for x, y in zip(totals, found, strict=True)]
                return [builder.add(k, I64(BLOCK)), *sums]

            zeros = [ir.Constant(double, 0.0)] * len(places)
            _, *totals = v.repeat(v.count(depth, BLOCK), [I64(0), *zeros], step)
            for total, place in zip(totals, places, strict=True):
                product = builder.fmul(wide(alpha), total)
                if v.element != double:
                    product = builder.fptrunc(product, v.element)
                base = builder.select(adding, builder.load(place), nothing)
                builder.store(builder.fadd(product, base), place)

        def several(start: Any, step: Any, count: int) -> list[Any]:
            return [v.at(start, builder.mul(step, I64(i))) for i in range(count + 1)]

        def rows_of(group: int) -> Any:
            """So many rows, with every vector; the state is where they begin in A and C."""

            def step(state: Any) -> list[Any]:
                *starts, next_start = several(state[0], a_row, group)
                *goals, next_goal = several(state[1], c_row, group)

                def columns_of(width: int) -> Any:
                    def step(state: Any) -> list[Any]:
                        vector, shift = state
                        *vectors, next_vector = several(vector, b_column, width)
                        shifts = [
                            builder.add(shift, builder.mul(c_column, I64(f)))
                            for f in range(width + 1)
                        ]
                        dot(
                            starts,
                            vectors,
                            [v.at(g, shift) for g, shift in itertools.product(goals, shifts[:-1])],
                        )
                        return [next_vector, shifts[-1]]

                    return step

                state, left = [v.pointer(b), I64(0)], columns
                for width in (CHAINS // GROUP, 1) if group == GROUP else (1,):
                    count = builder.sdiv(left, I64(width))
                    state = v.repeat(count, state, columns_of(width))
                    left = builder.srem(left, I64(width))
                return [next_start, next_goal]

            return step

        state, left = [v.pointer(a), v.pointer(c)], rows
        for group in (GROUP, 1):
            state = v.repeat(builder.sdiv(left, I64(group)), state, rows_of(group))
            left = builder.srem(left, I64(group))

    return own(f"dots_{dtype}", plain, body, alpha=SCALARS[dtype])


def make_sums(dtype: str) -> Any:
    """``sums(a, a_row, a_depth, b, b_depth, c, c_row, rows, columns, depth, alpha, add)``.

    C = alpha A B, or C + alpha A B if `add` is not 0, where columns are 1 apart in B and C. C is in
    cache, as it is gone over for every few of the depth.
    """

    def body(builder: Any, args: Any) -> None:
        a, a_row, a_depth, b, b_depth, c, c_row, rows, columns, depth, alpha, add = args
        v = Vectors(builder, dtype)

        def some(streams: int) -> Any:
            """So many rows of B, with every row of A; the state is where they begin."""

            def step(state: Any) -> list[Any]:
                left, right, begun = state
                adding = builder.icmp_signed("!=", begun, I64(0))
                streamed = [v.at(right, builder.mul(b_depth, I64(s))) for s in range(streams)]

                def row(state: Any) -> list[Any]:
                    left, goal = state
                    places = [v.at(left, builder.mul(a_depth, I64(s))) for s in range(streams)]
                    scalars = [builder.fmul(alpha, builder.load(place)) for place in places]
                    splats = [v.splat(scalar) for scalar in scalars]

                    def added(factors: Sequence[Any], read: Sequence[Any], base: Any) -> Any:
                        total = builder.fmul(factors[0], read[0])
                        for factor, value in zip(factors[1:], read[1:], strict=True):
                            total = v.fma(factor, value, total)
                        base = builder.select(adding, base, nothing[total.type])
                        return builder.fadd(total, base)

                    def vector(state: Any) -> list[Any]:
                        (j,) = state
                        read = [v.load(v.at(start, j)) for start in streamed]
                        place = v.at(goal, j)
                        v.store(added(splats, read, v.load(place)), place)
                        return [builder.add(j, I64(v.lanes))]

                    def scalar(state: Any) -> list[Any]:
                        (j,) = state
                        read = [builder.load(v.at(start, j)) for start in streamed]
                        place = v.at(goal, j)
                        builder.store(added(scalars, read, builder.load(place)), place)
                        return [builder.add(j, I64(1))]

                    def vectors(state: Any) -> list[Any]:
                        for _ in range(UNROLLED):
                            state = vector(state)
                        return state

                    whole = builder.sdiv(columns, I64(v.lanes))
                    j = [I64(0)]
                    j = v.repeat(builder.sdiv(whole, I64(UNROLLED)), j, vectors)
                    j = v.repeat(builder.srem(whole, I64(UNROLLED)), j, vector)
                    v.repeat(builder.srem(columns, I64(v.lanes)), j, scalar)
                    return [v.at(left, a_row), v.at(goal, c_row)]

                v.repeat(rows, [left, v.pointer(c)], row)
                along = I64(streams)
                return [
                    v.at(left, builder.mul(a_depth, along)),
                    v.at(right, builder.mul(b_depth, along)),
                    I64(1),
                ]

            return step

        nothing = {
            v.element: ir.Constant(v.element, -0.0),
            v.type: ir.Constant(v.type, [-0.0] * v.lanes),
        }
        state, left = [v.pointer(a), v.pointer(b), add], depth
        for streams in STREAMS:
            state = v.repeat(builder.sdiv(left, I64(streams)), state, some(streams))
            left = builder.srem(left, I64(streams))

    return own(f"sums_{dtype}", plain_product(dtype), body, alpha=SCALARS[dtype])


def make_totals(dtype: str) -> Any:
    """``totals(a, a_row, a_depth, c, c_row, c_column, rows, columns, depth, alpha, add)``.

    C[i, j] = alpha sum over k of A[i, k, j], or C[i, j] + that if `add` is not 0, worked out in
    float64; columns are 1 apart in A.
    """

    def plain(
        a: int,
        a_row: int,
        a_depth: int,
        c: int,
        c_row: int,
        c_column: int,
        rows: int,
        columns: int,
        depth: int,
        alpha: Any,
        add: int,
    ) -> None:
        parts = view(a, dtype, (rows, depth, columns), (a_row, a_depth, 1))
        total = view(c, dtype, (rows, columns), (c_row, c_column))
        found = float(alpha) * parts.astype(np.float64).sum(axis=1)
        total[...] = total.astype(np.float64) + found if add else found

    def body(builder: Any, args: Any) -> None:
        a, a_row, a_depth, c, c_row, c_column, rows, columns, depth, alpha, add = args
        v, double = Vectors(builder, dtype), ir.DoubleType()
        adding = builder.icmp_signed("!=", add, I64(0))

        def wide(value: Any) -> Any:
            return value if value.type == double else builder.fpext(value, double)

        def row(state: Any) -> list[Any]:
            start, goal = state

            def column(state: Any) -> list[Any]:
                start, goal = state

                def part(state: Any) -> list[Any]:
                    place, total = state
                    return [v.at(place, a_depth), builder.fadd(total, wide(builder.load(place)))]

                _, total = v.repeat(depth, [start, ir.Constant(double, -0.0)], part)
                base = builder.select(adding, wide(builder.load(goal)), ir.Constant(double, -0.0))
                total = builder.fadd(builder.fmul(total, wide(alpha)), base)
                if total.type != v.element:
                    total = builder.fptrunc(total, v.element)
                builder.store(total, goal)
                return [v.at(start, I64(1)), v.at(goal, c_column)]

            v.repeat(columns, [start, goal], column)
            return [v.at(start, a_row), v.at(goal, c_row)]

        v.repeat(rows, [v.pointer(a), v.pointer(c)], row)

    return own(f"totals_{dtype}", plain, body, alpha=SCALARS[dtype])
