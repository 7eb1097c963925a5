"""Rows of elements that follow one another: copied by vectors, also where only a part exists.

A loop over `prelude.load_f32` would become a call of the C library, which costs as much as copying
fifty elements: too much for the rows of small images.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from ...ir import ITEMSIZE
from ..prelude import JIT
from .vectors import I64, Vectors, view


def make_copy(dtype: str) -> Any:
    """``copy(source, target, count)``: a row of `count` elements."""
    if not JIT:

        def plain(source: int, target: int, count: int) -> None:
            view(target, dtype, (count,), (1,))[...] = view(source, dtype, (count,), (1,))

        return plain

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, target, count = args
        v = Vectors(builder, dtype)

        def vector(state: Any) -> list[Any]:
            a, b = state
            v.store(v.load(a), b)
            return [v.at(a, I64(v.lanes)), v.at(b, I64(v.lanes))]

        def single(state: Any) -> list[Any]:
            a, b = state
            builder.store(builder.load(a), b)
            return [v.at(a, I64(1)), v.at(b, I64(1))]

        whole = builder.lshr(count, I64(v.lanes.bit_length() - 1))
        rest = builder.and_(count, I64(v.lanes - 1))
        ends = v.repeat(whole, [v.pointer(source), v.pointer(target)], vector)
        with builder.if_else(builder.icmp_signed("==", whole, I64(0))) as (short, long):
            with short:
                v.repeat(rest, ends, single)
            with long:
                # The last vector overlaps the one before it.
                back = builder.sub(rest, I64(v.lanes))
                vector([v.at(end, back) for end in ends])
        return context.get_dummy_value()

    def copy(typingctx: Any, source: Any, target: Any, count: Any) -> Any:
        return types.void(*[types.intp] * 3), codegen

    return intrinsic(copy)


def make_fill(dtype: str) -> Any:
    """``fill(source, target, lo, hi, count)``: elements lo to hi of a row, zeros before and after.

    What lies behind the target's row, up to the end of a vector, is lost; of the source's row
    nothing else is read.
    """
    if not JIT:

        def plain(source: int, target: int, lo: int, hi: int, count: int) -> None:
            row = view(target, dtype, (count,), (1,))
            row[...] = 0
            row[lo:hi] = view(source + lo * ITEMSIZE[dtype], dtype, (hi - lo,), (1,))

        return plain

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, target, lo, hi, count = args
        v = Vectors(builder, dtype)
        shift = I64(v.lanes.bit_length() - 1)

        def vectors(size: Any) -> Any:
            return builder.lshr(builder.add(size, I64(v.lanes - 1)), shift)

        def larger(a: Any, b: Any) -> Any:
            return builder.select(builder.icmp_signed(">", a, b), a, b)

        def step(masked: bool) -> Any:
            def run(state: Any) -> list[Any]:
                position, a, b = state
                mask = None
                if masked:
                    ended = v.first(builder.sub(hi, position))
                    mask = builder.and_(ended, builder.not_(v.first(builder.sub(lo, position))))
                v.store(v.load(a, mask), b)
                return [
                    builder.add(position, I64(v.lanes)),
                    *(v.at(p, I64(v.lanes)) for p in (a, b)),
                ]

            return run

        # Vectors up to `first` and from `last` on are not whole.
        first = vectors(lo)
        last = larger(first, builder.lshr(hi, shift))
        state = [I64(0), v.pointer(source), v.pointer(target)]
        state = v.repeat(first, state, step(True))
        state = v.repeat(builder.sub(last, first), state, step(False))
        v.repeat(builder.sub(vectors(count), last), state, step(True))
        return context.get_dummy_value()

    def fill(typingctx: Any, source: Any, target: Any, lo: Any, hi: Any, count: Any) -> Any:
        return types.void(*[types.intp] * 5), codegen

    return intrinsic(fill)
