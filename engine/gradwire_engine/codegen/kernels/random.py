"""Counter-based pseudo-random numbers (SplitMix64, Steele, Lea and Flood 2014).

The number at flat index i is a function of seed, stream and i alone, bit for bit that of
`ops.sources.RandUniform`.
"""

from __future__ import annotations

from typing import Any

from ..prelude import (
    bits_f64,
    f32,
    f64,
    float_f64,
    i64,
    inline,
    load_i64,
    operand,
    select,
    store_f32,
    store_f64,
    u64,
    word,
)

_STEP = u64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = u64(0xBF58476D1CE4E5B9), u64(0x94D049BB133111EB)
_S30, _S27, _S31 = u64(30), u64(27), u64(31)
_LOW = u64(0xFFFFFFFF)
_MAGIC = i64(0x4330000000000000)  # the bits of 2^52
_TWO_52, _TWO_M32 = f64(2.0**52), f64(2.0**-32)
_KEPT = i64(~((1 << 29) - 1))


@inline
def mix(x: Any) -> Any:
    """One step of SplitMix64 from the state x, both uint64."""
    z = x + _STEP
    z = (z ^ (z >> _S30)) * _FIRST
    z = (z ^ (z >> _S27)) * _SECOND
    return z ^ (z >> _S31)


@inline
def uniform_f64(seed: int, stream: int, index: int) -> Any:
    """The number in [0, 1) at an index of a sequence; int64s, read as uint64."""
    key = mix(u64(i64(seed)) + u64(i64(stream)))
    bits = i64(mix(key + u64(i64(index))) & _LOW)
    return (float_f64(bits | _MAGIC) - _TWO_52) * _TWO_M32


@inline
def uniform_f32(seed: int, stream: int, index: int) -> Any:
    """As `uniform_f64`, rounded toward zero, by dropping what a float32 lacks."""
    return f32(float_f64(bits_f64(uniform_f64(seed, stream, index)) & _KEPT))


def _filler(uniform: Any, store: Any) -> Any:
    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        result, seeds = operand(frame, args, 0), operand(frame, args, 1)
        count, stream = word(args, 4), word(args, 5)
        for row in range(lo // count, -(-hi // count)):
            start = row * count
            first = select(lo > start, lo - start, 0)
            end = select(hi < start + count, hi - start, count)
            seed = load_i64(seeds, row, 1)
            for i in range(first, end):
                store(result, start + i, uniform(seed, stream, i), 0)

    return kernel


fill_f32 = _filler(uniform_f32, store_f32)
fill_f64 = _filler(uniform_f64, store_f64)
"""Operands: the result, and int64 seeds. Words: how many numbers a seed gives, and the stream. An
iteration is a number; the numbers of a seed lie together."""
