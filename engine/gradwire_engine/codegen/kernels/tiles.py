"""The innermost parts of matrix products: tiles of sums in registers, and laying blocks out anew.

All strides are in elements, all places addresses in bytes.
"""

from __future__ import annotations

from typing import Any

from numba import types

from ...ir import ITEMSIZE
from .vectors import I64, LINE_BYTES, WIDE, Vectors, own, view

TILE_ROWS = 12 if WIDE else 6
TILE_VECTORS = 2
UNROLLED = 4

SCALARS = {"float32": types.float32, "float64": types.float64}


def plain_product(dtype: str) -> Any:
    """What tiles compute, and `matvec.make_sums`: C = alpha A B, or C + alpha A B."""

    def plain(
        a: int,
        a_row: int,
        a_depth: int,
        b: int,
        b_depth: int,
        c: int,
        c_row: int,
        rows: int,
        columns: int,
        depth: int,
        alpha: Any,
        add: int,
    ) -> None:
        left = view(a, dtype, (rows, depth), (a_row, a_depth))
        right = view(b, dtype, (depth, columns), (b_depth, 1))
        total = view(c, dtype, (rows, columns), (c_row, 1))
        product = alpha * (left @ right)
        total[...] = total + product if add else product

    return plain


def make_tile(dtype: str, vectors: int) -> Any:
    """``tile(a, a_row, a_depth, b, b_depth, c, c_row, rows, columns, depth, alpha, add)``.

    C = alpha A B, or C + alpha A B if `add` is not 0, for at most `TILE_ROWS` rows and as many
    columns as `vectors` hold, which are 1 apart in B and C. With one vector, columns of B beyond
    the last are not read; with more, whole vectors are.
    """

    def body(builder: Any, args: Any) -> None:
        a, a_row, a_depth, b, b_depth, c, c_row, rows, columns, depth, alpha, add = args
        v = Vectors(builder, dtype)
        masks = [v.first(columns, k * v.lanes) for k in range(vectors)]
        last = builder.sub(rows, I64(1))
        # Rows beyond the last read that one again: their sums are not stored.
        starts = [
            builder.mul(a_row, builder.select(builder.icmp_signed("<", I64(r), rows), I64(r), last))
            for r in range(TILE_ROWS)
        ]
        target = v.pointer(c)
        targets = [v.at(target, builder.mul(c_row, I64(r))) for r in range(TILE_ROWS)]
        for pointer in targets:
            v.prefetch(pointer, write=True)

        def step(state: Any) -> list[Any]:
            left, right, *sums = state
            row = [
                v.load(v.at(right, I64(k * v.lanes)), masks[k] if vectors == 1 else None)
                for k in range(vectors)
            ]
            for r, start in enumerate(starts):
                factor = v.splat(builder.load(v.at(left, start)))
                for k in range(vectors):
                    i = r * vectors + k
                    sums[i] = v.fma(factor, row[k], sums[i])
            return [v.opaque(v.at(left, a_depth)), v.opaque(v.at(right, b_depth)), *sums]

        def steps(state: Any) -> Any:
            for _ in range(UNROLLED):
                state = step(state)
            return state

        state = [v.pointer(a), v.pointer(b), *[v.zero] * (TILE_ROWS * vectors)]
        state = v.repeat(builder.sdiv(depth, I64(UNROLLED)), state, steps)
        _, _, *sums = v.repeat(builder.srem(depth, I64(UNROLLED)), state, step)

        factor = v.splat(alpha)
        adding = builder.icmp_signed("!=", add, I64(0))
        whole = builder.icmp_signed(">=", columns, I64(vectors * v.lanes))

        def write(pointer: Any, values: Any, masks: Any) -> None:
            places = [v.at(pointer, I64(k * v.lanes)) for k in range(vectors)]
            with builder.if_else(adding) as (added, fresh):
                with added:
                    for value, place, mask in zip(values, places, masks, strict=True):
                        v.store(v.fma(factor, value, v.load(place, mask)), place, mask)
                with fresh:
                    for value, place, mask in zip(values, places, masks, strict=True):
                        v.store(builder.fmul(factor, value), place, mask)

        done = builder.append_basic_block("done")
        for r, pointer in enumerate(targets):
            present = builder.append_basic_block("row")
            builder.cbranch(builder.icmp_signed("<", I64(r), rows), present, done)
            builder.position_at_end(present)
            values = sums[r * vectors : (r + 1) * vectors]
            with builder.if_else(whole) as (full, partial):
                with full:
                    write(pointer, values, [None] * vectors)
                with partial:
                    write(pointer, values, masks)
        builder.branch(done)
        builder.position_at_end(done)

    return own(f"tile_{dtype}_{vectors}", plain_product(dtype), body, alpha=SCALARS[dtype])


def make_copy(dtype: str) -> Any:
    """``copy(source, source_row, rows, length, target, target_row, width, target_panel)``.

    Rows without gaps are cut into panels of `width` elements, a multiple of a vector; panels lie
    `target_panel` apart. Of each row of the last one, up to a vector more than `length` asks for is
    overwritten.
    """

    def plain(
        source: int,
        source_row: int,
        rows: int,
        length: int,
        target: int,
        target_row: int,
        width: int,
        target_panel: int,
    ) -> None:
        read = view(source, dtype, (rows, length), (source_row, 1))
        for j in range(0, length, width):
            part = read[:, j : j + width]
            at = target + j // width * target_panel * ITEMSIZE[dtype]
            view(at, dtype, part.shape, (target_row, 1))[...] = part

    def body(builder: Any, args: Any) -> None:
        source, source_row, rows, length, target, target_row, width, target_panel = args
        v = Vectors(builder, dtype)
        whole = builder.sdiv(length, width)
        rest = builder.sub(length, builder.mul(whole, width))

        def row(state: Any) -> list[Any]:
            start, goal = state

            def panel(state: Any) -> list[Any]:
                start, goal = state

                def step(state: Any) -> list[Any]:
                    (done,) = state
                    v.store(v.load(v.at(start, done)), v.at(goal, done))
                    return [builder.add(done, I64(v.lanes))]

                v.repeat(v.count(width), [I64(0)], step)
                return [v.at(start, width), v.at(goal, target_panel)]

            def last(state: Any) -> list[Any]:
                (done,) = state
                mask = v.first(builder.sub(rest, done))
                v.store(v.load(v.at(last_start, done), mask), v.at(last_goal, done))
                return [builder.add(done, I64(v.lanes))]

            last_start, last_goal = v.repeat(whole, [start, goal], panel)
            v.repeat(v.count(rest), [I64(0)], last)
            return [v.at(start, source_row), v.at(goal, target_row)]

        v.repeat(rows, [v.pointer(source), v.pointer(target)], row)

    return own(f"copy_{dtype}", plain, body)


def make_turn(dtype: str) -> Any:
    """``turn(source, source_row, rows, length, target, target_row)``: row i becomes column i.

    Elements of the target are overwritten beyond that: up to a vector more in each row, and rows up
    to a multiple of the elements of a vector.
    """

    def plain(
        source: int, source_row: int, rows: int, length: int, target: int, target_row: int
    ) -> None:
        read = view(source, dtype, (rows, length), (source_row, 1))
        view(target, dtype, (length, rows), (target_row, 1))[...] = read.T

    def body(builder: Any, args: Any) -> None:
        source, source_row, rows, length, target, target_row = args
        v = Vectors(builder, dtype)
        last = builder.sub(rows, I64(1))

        def band(state: Any) -> list[Any]:
            first, goal = state
            numbers = [builder.add(first, I64(i)) for i in range(v.lanes)]
            # Rows beyond the last read that one again: nobody reads their columns.
            held = [builder.select(builder.icmp_signed("<", i, rows), i, last) for i in numbers]
            starts = [v.at(v.pointer(source), builder.mul(i, source_row)) for i in held]

            def square(state: Any) -> list[Any]:
                done, goal = state
                mask = v.first(builder.sub(length, done))
                read = [v.load(v.at(start, done), mask) for start in starts]
                for vector in v.transposed(read):
                    v.store(vector, goal)
                    goal = v.at(goal, target_row)
                return [builder.add(done, I64(v.lanes)), goal]

            v.repeat(v.count(length), [I64(0), goal], square)
            return [builder.add(first, I64(v.lanes)), v.at(goal, I64(v.lanes))]

        v.repeat(v.count(rows), [I64(0), v.pointer(target)], band)

    return own(f"turn_{dtype}", plain, body)


def make_fetch(dtype: str) -> Any:
    """``fetch(source, source_row, rows, length)``: have rows without gaps brought into cache."""

    def plain(source: int, source_row: int, rows: int, length: int) -> None:
        pass

    def body(builder: Any, args: Any) -> None:
        source, source_row, rows, length = args
        v = Vectors(builder, dtype)

        def row(state: Any) -> list[Any]:
            (start,) = state

            def line(state: Any) -> list[Any]:
                (pointer,) = state
                v.prefetch(pointer, write=False)
                return [v.at(pointer, I64(LINE_BYTES // v.item))]

            v.repeat(v.count(length, LINE_BYTES // v.item), [start], line)
            return [v.at(start, source_row)]

        v.repeat(rows, [v.pointer(source)], row)

    return own(f"fetch_{dtype}", plain, body)
