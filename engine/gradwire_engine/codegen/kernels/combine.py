"""Partial results of the chunks of a call, made one.

Operands: the partial results (one run of elements a chunk) and the result. Words: the number of
chunks, and the bytes between the runs of one chunk and the next. An iteration is an element.
"""

from __future__ import annotations

from typing import Any

from ..prelude import (
    accumulate,
    f32,
    load_f32,
    load_f64,
    load_i64,
    maximum,
    minimum,
    operand,
    store_f32,
    store_f64,
    store_i64,
    word,
)
from .kinds import add, larger, smaller

Kernel = Any


def combine_sum_f64_f32(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
    """Float64 totals to a float32 sum."""
    parts, result = operand(frame, args, 0), operand(frame, args, 1)
    chunks, step = word(args, 4), word(args, 5)
    for i in range(lo, hi):
        total = load_f64(parts, i, 0)
        for c in range(1, chunks):
            total = accumulate(total, load_f64(parts + c * step, i, 0))
        store_f32(result, i, f32(total), 1)


def _combiner(load: Any, store: Any, join: Any) -> Kernel:
    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        parts, result = operand(frame, args, 0), operand(frame, args, 1)
        chunks, step = word(args, 4), word(args, 5)
        for i in range(lo, hi):
            total = load(parts, i, 0)
            for c in range(1, chunks):
                total = join(total, load(parts + c * step, i, 0))
            store(result, i, total, 1)

    return kernel


combine_sum_f64 = _combiner(load_f64, store_f64, accumulate)
combine_sum_i64 = _combiner(load_i64, store_i64, add)
combine_max_f32 = _combiner(load_f32, store_f32, maximum)
combine_max_f64 = _combiner(load_f64, store_f64, maximum)
combine_max_i64 = _combiner(load_i64, store_i64, larger)
combine_min_f32 = _combiner(load_f32, store_f32, minimum)
combine_min_f64 = _combiner(load_f64, store_f64, minimum)
combine_min_i64 = _combiner(load_i64, store_i64, smaller)
