"""The innermost loops of convolution: blocks of vector sums that stay in registers.

Both loops read the signal through offsets in a table, so that kernel size, dilation and rank are
data and not code. `make_products` multiplies places by weights, `make_sums` sums products of
places; a block of 4 x 3 vectors keeps both multipliers of a core with 16 vector registers busy,
because it loads 7 vectors or scalars for 12 multiply-adds. Where three cells lie next to each other
in signal and weights, as those of a row of a 3 x 3 kernel do, `make_products` takes them together:
looking up each in the table would make a sixth more loads, and loads are what is short next. With
fewer rows a block is made wider instead, and what a row of blocks leaves over is done by narrower
ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ...ir import ITEMSIZE
from ..lowering.conv_blocks import RUN, WIDTHS
from ..prelude import JIT, word
from .vectors import I32, I64, Vectors, lanes, view


def make_products(dtype: str) -> Any:
    """``products(x, starts, vectors, table, depth, run, w, w_pitch, out, out_pitch, rows)``.

    For row r of at most 4, vector v and lane l, in elements:

        out[r * out_pitch + v * lanes + l] =
            sum over k < depth and j < run of
                w[r * w_pitch + table[2k + 1] + j] * x[starts[v] + table[2k] + j + l]

    where run is 1 or `RUN`.
    """
    if not JIT:
        return _plain_products(dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, starts, vectors, table, depth, run, w, w_pitch, out, out_pitch, rows = args
        v = Vectors(builder, dtype)
        single = builder.icmp_signed("==", run, I64(1))
        counts = {
            1: builder.select(single, depth, I64(0)),
            RUN: builder.select(single, I64(0), depth),
        }
        signal, first = v.pointer(x), _words(builder, table)

        def block(height: int, width: int) -> Callable[[Sequence[Any]], Sequence[Any]]:
            def run(state: Sequence[Any]) -> Sequence[Any]:
                begin, target = state
                places = [v.at(signal, _word(builder, begin, c)) for c in range(width)]
                weights = _apart(v, w, w_pitch, height)

                def step(state: Sequence[Any], cells: int) -> list[Any]:
                    entry, *sums = state
                    at, by = _word(builder, entry, 0), _word(builder, entry, 1)
                    left = [v.at(p, by) for p in weights]
                    right = [v.at(p, at) for p in places]
                    for j in map(I64, range(cells)):
                        sums = _multiply_add(
                            v,
                            sums,
                            width,
                            (v.splat(builder.load(v.at(p, j))) for p in left),
                            (v.load(v.at(p, j)) for p in right),
                        )
                    return [_past(builder, entry, 2), *sums]

                found: Sequence[Any] = [first, *[v.zero] * (height * width)]
                for cells, count in counts.items():
                    found = v.repeat(count, found, partial(step, cells=cells))
                _, *sums = found
                for i, total in enumerate(sums):
                    row = v.at(target, builder.mul(out_pitch, I64(i // width)))
                    v.store(total, v.at(row, I64(i % width * v.lanes)))
                return [_past(builder, begin, width), v.at(target, I64(width * v.lanes))]

            return run

        _cover(v, rows, vectors, [_words(builder, starts), v.pointer(out)], block)
        return context.get_dummy_value()

    def products(
        typingctx: Any,
        x: Any,
        starts: Any,
        vectors: Any,
        table: Any,
        depth: Any,
        run: Any,
        w: Any,
        w_pitch: Any,
        out: Any,
        out_pitch: Any,
        rows: Any,
    ) -> Any:
        return types.void(*[types.intp] * 11), codegen

    return intrinsic(products)


def make_sums(dtype: str) -> Any:
    """``sums(x, table, cells, starts, mask, vectors, y, y_pitch, w, w_pitch, rows)``.

    For row r of at most 4 and cell c, in elements:

        w[r * w_pitch + table[2c + 1]] +=
            sum over v < vectors and lanes l where mask[v * lanes + l] is not 0 of
                y[r * y_pitch + v * lanes + l] * x[starts[v] + table[2c] + l]
    """
    if not JIT:
        return _plain_sums(dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, table, cells, starts, mask, vectors, y, y_pitch, w, w_pitch, rows = args
        v = Vectors(builder, dtype)
        signal, present, first = v.pointer(x), v.pointer(mask), _words(builder, starts)

        def block(height: int, width: int) -> Callable[[Sequence[Any]], Sequence[Any]]:
            def run(state: Sequence[Any]) -> Sequence[Any]:
                (entry,) = state
                places = [v.at(signal, _word(builder, entry, 2 * c)) for c in range(width)]
                factors = _apart(v, y, y_pitch, height)

                def step(state: Sequence[Any]) -> list[Any]:
                    begin, position, *sums = state
                    at = _word(builder, begin, 0)
                    there = builder.fcmp_unordered("!=", v.load(v.at(present, position)), v.zero)
                    sums = _multiply_add(
                        v,
                        sums,
                        width,
                        (v.load(v.at(p, position)) for p in factors),
                        (builder.select(there, v.load(v.at(p, at)), v.zero) for p in places),
                    )
                    return [_past(builder, begin, 1), builder.add(position, I64(v.lanes)), *sums]

                start = [first, I64(0), *[v.zero] * (height * width)]
                _, _, *sums = v.repeat(vectors, start, step)
                targets = _apart(v, w, w_pitch, height)
                for c in range(width):
                    by = _word(builder, entry, 2 * c + 1)
                    for target, total in zip(targets, _totals(v, sums[c::width]), strict=True):
                        place = v.at(target, by)
                        builder.store(builder.fadd(builder.load(place), total), place)
                return [_past(builder, entry, 2 * width)]

            return run

        _cover(v, rows, cells, [_words(builder, table)], block)
        return context.get_dummy_value()

    def sums(
        typingctx: Any,
        x: Any,
        table: Any,
        cells: Any,
        starts: Any,
        mask: Any,
        vectors: Any,
        y: Any,
        y_pitch: Any,
        w: Any,
        w_pitch: Any,
        rows: Any,
    ) -> Any:
        return types.void(*[types.intp] * 11), codegen

    return intrinsic(sums)


# -- parts -----------------------------------------------------------------------------------------


def _words(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, I64.as_pointer())


def _past(builder: Any, words: Any, count: int) -> Any:
    return builder.gep(words, [I64(count)], inbounds=True)


def _word(builder: Any, words: Any, position: int) -> Any:
    return builder.load(_past(builder, words, position), align=8)


def _apart(v: Vectors, address: Any, pitch: Any, count: int) -> list[Any]:
    """Pointers to the first elements of rows."""
    first = v.pointer(address)
    return [v.at(first, v.builder.mul(pitch, I64(r))) for r in range(count)]


def _cover(
    v: Vectors,
    rows: Any,
    columns: Any,
    start: Sequence[Any],
    block: Callable[[int, int], Callable[[Sequence[Any]], Sequence[Any]]],
) -> None:
    """Cover `rows` rows by blocks of that height, the widest first, from a state of pointers on."""
    builder = v.builder
    done = builder.append_basic_block("covered")
    cases = builder.switch(rows, done)
    for height, widths in WIDTHS.items():
        place = builder.append_basic_block(f"rows{height}")
        cases.add_case(I64(height), place)
        builder.position_at_end(place)
        state, left = start, columns
        for width in (*widths, 1):
            count = builder.udiv(left, I64(width))
            left = builder.urem(left, I64(width))
            state = v.repeat(count, state, block(height, width))
        builder.branch(done)
    builder.position_at_end(done)


def _multiply_add(
    v: Vectors, sums: Sequence[Any], width: int, rows: Iterable[Any], columns: Iterable[Any]
) -> list[Any]:
    """``sums[r * width + c] + rows[r] * columns[c]``; both are loaded as they are iterated over.

    The shorter side is loaded first and held; vectors of the other pass through one register.
    """
    result = list(sums)
    if width * width <= len(result):
        held = list(columns)
        for r, passing in enumerate(rows):
            for c, vector in enumerate(held):
                result[r * width + c] = v.fma(passing, vector, result[r * width + c])
    else:
        held = list(rows)
        for c, passing in enumerate(columns):
            for r, vector in enumerate(held):
                result[r * width + c] = v.fma(passing, vector, result[r * width + c])
    return result


def _totals(v: Vectors, vectors: Sequence[Any]) -> list[Any]:
    """The sum of the lanes of each of at most 4 vectors.

    Vectors are folded in pairs, the first into the lower half and the second into the upper half of
    every block of lanes, so that one addition serves both.
    """
    builder, span = v.builder, v.lanes // 2
    found = [*vectors, v.zero] if len(vectors) == 3 else list(vectors)
    places = [0]
    while span:

        def folded(a: Any, b: Any, span: int = span) -> Any:
            lower = [lane if not lane & span else lane - span + v.lanes for lane in range(v.lanes)]
            upper = [lane + span for lane in lower]
            parts = [
                builder.shuffle_vector(
                    a, b, ir.Constant(ir.VectorType(I32, v.lanes), [*map(I32, order)])
                )
                for order in (lower, upper)
            ]
            return builder.fadd(*parts)

        if len(found) > 1:
            found = [folded(a, b) for a, b in zip(found[::2], found[1::2], strict=True)]
            places = [*places, *(place + span for place in places)]
        else:
            found = [folded(found[0], found[0])]
        span //= 2
    return [builder.extract_element(found[0], I32(place)) for place in places[: len(vectors)]]


# -- twins in plain Python -------------------------------------------------------------------------


def _plain_products(dtype: str) -> Any:
    item, size = ITEMSIZE[dtype], lanes(dtype)

    def products(
        x: int,
        starts: int,
        vectors: int,
        table: int,
        depth: int,
        run: int,
        w: int,
        w_pitch: int,
        out: int,
        out_pitch: int,
        rows: int,
    ) -> None:
        totals = np.zeros((rows, vectors, size), dtype)
        for k, j in itertools.product(range(depth), range(run)):
            at, by = word(table, 2 * k) + j, word(table, 2 * k + 1) + j
            weights = view(w + by * item, dtype, (rows, 1), (w_pitch, 1))
            for v in range(vectors):
                place = x + (word(starts, v) + at) * item
                totals[:, v] += weights * view(place, dtype, (size,), (1,))
        view(out, dtype, totals.shape, (out_pitch, size, 1))[...] = totals

    return products


def _plain_sums(dtype: str) -> Any:
    item, size = ITEMSIZE[dtype], lanes(dtype)

    def sums(
        x: int,
        table: int,
        cells: int,
        starts: int,
        mask: int,
        vectors: int,
        y: int,
        y_pitch: int,
        w: int,
        w_pitch: int,
        rows: int,
    ) -> None:
        present = view(mask, dtype, (vectors, size), (size, 1)) != 0
        factors = view(y, dtype, (rows, vectors, size), (y_pitch, size, 1))
        places = np.empty((vectors, size), dtype)
        for c in range(cells):
            at, by = word(table, 2 * c), word(table, 2 * c + 1)
            for v in range(vectors):
                place = x + (word(starts, v) + at) * item
                places[v] = np.where(present[v], view(place, dtype, (size,), (1,)), 0)
            target = view(w + by * item, dtype, (rows,), (w_pitch,))
            target += np.einsum("rvl,vl->r", factors, places)

    return sums
