"""x^y = e^(y log x), with C99's table of special cases.

The exponential makes a relative error of an absolute one, so log x needs about 11 bits more than
the result. For float32 these are float64's; for float64 log x is a sum of two floats, from the
series of 2 artanh s, s = (m - 1) / (m + 1), with its first terms in twice the precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..prelude import (
    bits_f64,
    exact,
    f32,
    f64,
    float_f64,
    floor,
    fma,
    inline,
    magnitude,
    polynomial,
    select,
)
from .exponential import reduced_f64, scale_f64
from .kinds import F32, F64, Kind
from .logarithm import exponent_f64

# ((artanh(s)/s - 1) / z - 1/3) / z in z = s^2, |s| <= 1/5, highest power first.
_ARTANH = F64.reals(
    0.06288337767602395,
    0.057957515229025675,
    0.06670600896513887,
    0.07692202309646613,
    0.09090910783359596,
    0.11111111095396331,
    0.1428571428578995,
    0.1999999999999986,
)
# log2(1 + f) / f, |f| <= 1/3, and 2^r, |r| <= 1/2: enough bits for float32, highest power first.
_LOG2 = F64.reals(
    0.15753216228477848,
    -0.1661158068004776,
    0.1235661832307141,
    -0.13745812440058636,
    0.16089079788860475,
    -0.18080636943227513,
    0.20607599699271198,
    -0.2404336466444103,
    0.2885394413012097,
    -0.3606739788650176,
    0.4808983439584138,
    -0.7213475195682305,
    1.4426950408922876,
)
_EXP2 = F64.reals(
    0.00015345413860942724,
    0.0013400194022023513,
    0.009618492264938902,
    0.0555032812243649,
    0.24022646844966747,
    0.6931472060366003,
    1.0000000005635479,
)
_THIRD, _THIRD_LOW = F64.reals(1 / 3, 1.850371707708594e-17)
_LN2, _LN2_LOW = F64.ln2
_ZERO, _ONE, _TWO = F64.reals(0, 1, 2)
_TINY, _UP, _LIFT = F64.reals(F64.tiny, 2.0**54, 54)
_MOST, _BEYOND, _INFINITY = F64.reals(800, 200, np.inf)  # e^800, 2^200: beyond all results
_MAGIC, _DIGITS = F64.magic, F64.digits


def _cases(kind: Kind) -> Any:
    """``f(x, y, z)``: x^y given z, which is |x|^y wherever neither is NaN and |x| is not 1."""
    bits, unbits, whole = kind.bits, kind.unbits, kind.whole
    zero, half, one = kind.reals(0, 0.5, 1)
    infinity, nan = kind.reals(np.inf, np.nan)
    plus, sign = whole(0), kind.sign

    @inline
    def cases(x: Any, y: Any, z: Any) -> Any:
        a = magnitude(x)
        z = select(a == one, one, z)
        odd = (floor(y) == y) & (floor(y * half) != y * half)
        z = unbits(whole(bits(z) ^ (bits(x) & select(odd, sign, plus))))
        undefined = (floor(y) != y) & (x < zero) & (a < infinity)
        z = select(undefined | (x != x) | (y != y), nan, z)
        return select((y == zero) | (x == one), one, z)

    return cases


_cases_f32, _cases_f64 = _cases(F32), _cases(F64)


@inline
def _ends(a: Any, logarithm: Any) -> Any:
    """A logarithm, put right where a is 0 or infinite."""
    logarithm = select(a < _INFINITY, logarithm, _INFINITY)
    return select(a > _ZERO, logarithm, -_INFINITY)


@inline
def pow_f32(x: Any, y: Any) -> Any:
    """The power x^y."""
    a = f64(magnitude(x))
    k, e = exponent_f64(a)
    f = float_f64(bits_f64(a) - e) - _ONE
    p = f64(y) * _ends(a, k + f * polynomial(f, _LOG2))
    p = select(p < -_BEYOND, -_BEYOND, p)
    p = select(p > _BEYOND, _BEYOND, p)
    shifted = p + _MAGIC
    z = polynomial(p - (shifted - _MAGIC), _EXP2)
    return _cases_f32(x, y, f32(float_f64(bits_f64(z) + (bits_f64(shifted) << _DIGITS))))


@exact
def _long_log(a: Any) -> Any:
    """log(a), a > 0 and finite, as a sum of two floats; about 65 bits."""
    small = a < _TINY
    normal = select(small, a * _UP, a)
    k, e = exponent_f64(normal)
    m = float_f64(bits_f64(normal) - e)
    k = select(small, k - _LIFT, k)
    f = m - _ONE
    v = m + _ONE
    inverse = _ONE / v
    s = f * inverse
    s_low = (fma(-s, v, f) - s * (m - (v - _ONE))) * inverse
    z = s * s
    z_low = fma(s, s, -z) + _TWO * s * s_low
    t = z * polynomial(z, _ARTANH)
    c = _THIRD + t
    c_low = ((_THIRD - c) + t) + _THIRD_LOW
    p = z * c
    p_low = fma(z, c, -p) + (z * c_low + z_low * c)
    u = s * p
    u_low = fma(s, p, -u) + (s * p_low + s_low * p)
    h = s + u
    low = _TWO * (((s - h) + u) + (s_low + u_low)) + k * _LN2_LOW
    h = _TWO * h
    whole = k * _LN2
    total = whole + h
    return _sum(total, select(k == _ZERO, _ZERO, (whole - total) + h) + low)


@exact
def _sum(high: Any, low: Any) -> Any:
    """Two floats as two that do not overlap."""
    total = high + low
    return total, (high - total) + low


@exact
def _long_product(y: Any, high: Any, low: Any) -> Any:
    """The product y (high + low), as a sum of two floats where it matters to an exponential."""
    p = y * high
    p_low = fma(y, high, -p) + y * low
    inside = magnitude(p) < _MOST
    return select(inside, p, select(p < _ZERO, -_MOST, _MOST)), select(inside, p_low, _ZERO)


@inline
def pow_f64(x: Any, y: Any) -> Any:
    """The power x^y."""
    a = magnitude(x)
    high, low = _long_log(a)
    p, p_low = _long_product(y, _ends(a, high), low)
    i, e = reduced_f64(p)
    return _cases_f64(x, y, scale_f64(_ONE + (e + (p_low + e * p_low)), i))
