"""Functions of one or two instructions, and casts from float to int64."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..prelude import f64, floor, i64, inline, magnitude, select, sqrt
from .kinds import F32, F64, Kind

sqrt_f32 = sqrt_f64 = sqrt
floor_f32 = floor_f64 = floor
abs_f32 = abs_f64 = magnitude


def _rsqrt(kind: Kind) -> Any:
    one = kind.real(1)

    @inline
    def rsqrt(x: Any) -> Any:
        """1 / sqrt(x)."""
        return one / sqrt(x)

    return rsqrt


def _sign(kind: Kind) -> Any:
    zero, one = kind.reals(0, 1)

    @inline
    def sign(x: Any) -> Any:
        """-1, 0 or 1; NaN of NaN, and 0 of -0."""
        y = select(x == zero, zero, x)
        return select(x > zero, one, select(x < zero, -one, y))

    return sign


_LEAST = i64(np.iinfo(np.int64).min)
_RANGE = f64(2.0**63)


@inline
def to_i64_f64(x: Any) -> Any:
    """A float64 as int64 without its fraction; the least int64 where NaN or out of range."""
    inside = (x >= -_RANGE) & (x < _RANGE)
    return select(inside, i64(select(inside, x, f64(0.0))), _LEAST)


@inline
def to_i64_f32(x: Any) -> Any:
    """As `to_i64_f64`, of a float32."""
    return to_i64_f64(f64(x))


rsqrt_f32, rsqrt_f64 = _rsqrt(F32), _rsqrt(F64)
sign_f32, sign_f64 = _sign(F32), _sign(F64)
