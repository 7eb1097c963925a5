"""sin, cos and tan over the whole range.

Reduction (after Payne and Hanek 1983): where x is a multiple of 2^b, P = 2^b 2/pi may be replaced
by P less a multiple of 4, for x P 2^-b then only loses whole turns. P is tabulated for a few b as a
sum of floats, and FMAs split the products exactly, so that quarter turns drop out without a
rounding, however large x is. What is left is r = x - n pi/2, |r| not much above pi/4, and two
minimax polynomials give its sine and cosine.
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
    fma,
    i32,
    i64,
    inline,
    lookup,
    magnitude,
    polynomial,
    select,
)
from .kinds import F32, F64, Kind

# (sin r - r) / r^3 and (cos r - 1 + r^2/2) / r^4 in r^2, |r| <= pi/4, highest power first.
_SIN_F32 = F32.reals(-0.00019433057, 0.0083315, -0.16666643)
_COS_F32 = F32.reals(2.4333309e-05, -0.0013886341, 0.041666623)
_SIN_F64 = F64.reals(
    1.5893407394393954e-10,
    -2.505070053224618e-08,
    2.755731332967814e-06,
    -0.00019841269828778195,
    0.00833333333332114,
    -0.16666666666666627,
)
_COS_F64 = F64.reals(
    -1.1357082449682856e-11,
    2.0875674107249563e-09,
    -2.755731399318428e-07,
    2.4801587288245946e-05,
    -0.001388888888887215,
    0.04166666666666659,
)

_PI_BITS = 1300


def _two_over_pi() -> int:
    """2/pi times 2^_PI_BITS, by Machin's formula in integers."""
    guard = _PI_BITS + 64

    def arctan_inverse(n: int) -> int:
        power, total, k = (1 << guard) // n, 0, 1
        while power:
            total += power // k if k % 4 == 1 else -(power // k)
            power, k = power // (n * n), k + 2
        return total

    pi = 4 * (4 * arctan_inverse(5) - arctan_inverse(239))
    return (2 << (guard + _PI_BITS)) // pi


_TWO_OVER_PI = _two_over_pi()


def _turns(b: int, count: int) -> list[float]:
    """2^b 2/pi less the nearest multiple of 4 as a sum of floats, each nearest to what is left."""
    bits = _PI_BITS - b
    rest = (_TWO_OVER_PI + (2 << bits)) % (4 << bits) - (2 << bits)
    floats = []
    for _ in range(count):
        nearest = rest / (1 << bits)  # of integers: rounded once
        floats.append(nearest)
        top, bottom = nearest.as_integer_ratio()
        rest -= (top << bits) // bottom
    return floats


_MAGIC = F64.magic
_HALF_PI, _HALF_PI_LOW = F64.reals(1.5707963267948966, 6.123233995736766e-17)

# Float32: float64 arithmetic, and four stretches of exponents, each with a P in two floats. From an
# edge on, x is a multiple of 2^b for the b beside it.
_E1, _E2, _E3 = (f64(2.0**e).view(i64) for e in (50, 77, 104))
_PARTS = [[f64(2.0**-b * p) for p in _turns(b, 2)] for b in (0, 27, 54, 81)]
(_P0, _Q0), (_P1, _Q1), (_P2, _Q2), (_P3, _Q3) = _PARTS


@exact
def _quarter_turns_f32(a: Any) -> Any:
    """The number n of quarter turns in a float32 a >= 0 (its low bits) and a - n pi/2."""
    x = f64(a)
    bits = bits_f64(x)
    second, third, last = bits >= _E1, bits >= _E2, bits >= _E3
    p = select(last, _P3, select(third, _P2, select(second, _P1, _P0)))
    q = select(last, _Q3, select(third, _Q2, select(second, _Q1, _Q0)))
    shifted = fma(x, p, _MAGIC)
    part = fma(x, p, -(shifted - _MAGIC))
    return i32(bits_f64(shifted)), f32(fma(x, q, part) * _HALF_PI)


# Float64: 122 stretches of 8 exponents each, and a P in four floats. From 2^(52 + b) on, x is a
# multiple of 2^b; the first stretch holds all below 2^56, and after the last comes infinity.
_TABLE = np.array([*(_turns(8 * k - 4, 4) for k in range(122)), [np.nan] * 4])
_FIRST, _SECOND, _THIRD, _FOURTH = (np.ascontiguousarray(column) for column in _TABLE.T)
_DIGITS, _START, _NONE, _EIGHTS, _THREE = i64(52), i64(1023 + 48), i64(0), i64(~7), i64(3)
_LIFT = i64(4 << 52)
_COARSE = f64(1.5 * 2.0**62)


@exact
def _two_sum(a: Any, b: Any) -> Any:
    """The sum a + b and its rounding error, if a is a multiple of b's last place (Dekker 1971)."""
    total = a + b
    return total, b - (total - a)


@exact
def _quarter_turns_f64(a: Any) -> Any:
    """The number n of quarter turns in a float64 a >= 0 (its low bits) and a - n pi/2."""
    bits = bits_f64(a)
    above = (bits >> _DIGITS) - _START
    above = select(above > _NONE, above, _NONE)
    x = float_f64((bits - ((above & _EIGHTS) << _DIGITS)) + _LIFT)
    k = above >> _THREE
    first, second, third = lookup(_FIRST, k), lookup(_SECOND, k), lookup(_THIRD, k)
    h1 = x * first
    h2 = x * second
    h3 = x * third
    # Each product is some 53 bits less than the one before, and its error 53 less than itself.
    rest = h1 - ((h1 + _COARSE) - _COARSE)
    near, e1 = _two_sum(fma(x, first, -h1), h2)
    shifted = (rest + near) + _MAGIC
    part, e2 = _two_sum(rest - (shifted - _MAGIC), near)
    e1, e3 = _two_sum(e1, fma(x, second, -h2))
    e1, e4 = _two_sum(e1, h3)
    turn, e5 = _two_sum(part, e1 + e2)
    low = (fma(x, third, -h3) + x * lookup(_FOURTH, k)) + (e3 + e4 + e5)
    return bits_f64(shifted), fma(turn, _HALF_PI, fma(turn, _HALF_PI_LOW, low * _HALF_PI))


def _parts(kind: Kind, sine: Any, cosine: Any) -> Any:
    """``f(r)``: sine and cosine of |r| <= pi/4."""
    one, half = kind.reals(1, 0.5)

    @inline
    def parts(r: Any) -> Any:
        z = r * r
        s = r + r * z * polynomial(z, sine)
        top = one - half * z
        rest = (one - top) - half * z  # the rounding error of top
        return s, top + (rest + z * z * polynomial(z, cosine))

    return parts


def _family(kind: Kind, quarter_turns: Any, parts: Any, tiny: float) -> tuple[Any, Any, Any]:
    bits, unbits, whole = kind.bits, kind.unbits, kind.whole
    none, one, sign = whole(0), whole(1), kind.sign
    width = 8 * sign.nbytes
    first, second = whole(width - 1), whole(width - 2)  # shifts of n's lowest bits to the sign
    least = kind.real(tiny)

    @inline
    def sin(x: Any) -> Any:
        """The sine of x in radians."""
        a = magnitude(x)
        n, r = quarter_turns(a)
        s, c = parts(r)
        y = bits(select(n & one != none, c, s))
        turned = unbits(whole(y ^ (((n << second) ^ bits(x)) & sign)))
        return select(a < least, x, turned)

    @inline
    def cos(x: Any) -> Any:
        """The cosine of x in radians."""
        n, r = quarter_turns(magnitude(x))
        s, c = parts(r)
        y = bits(select(n & one != none, s, c))
        return unbits(whole(y ^ (((n + one) << second) & sign)))

    @inline
    def tan(x: Any) -> Any:
        """The tangent of x in radians."""
        a = magnitude(x)
        n, r = quarter_turns(a)
        s, c = parts(r)
        odd = n & one != none
        y = bits(select(odd, c, s) / select(odd, s, c))
        turned = unbits(whole(y ^ (((n << first) ^ bits(x)) & sign)))
        return select(a < least, x, turned)

    return sin, cos, tan


sin_f32, cos_f32, tan_f32 = _family(F32, _quarter_turns_f32, _parts(F32, _SIN_F32, _COS_F32), 0)
sin_f64, cos_f64, tan_f64 = _family(F64, _quarter_turns_f64, _parts(F64, _SIN_F64, _COS_F64), 1e-8)
