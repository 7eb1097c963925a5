"""e^x and e^x - 1.

x = n ln 2 + r with |r| <= ln(2)/2, then e^x = 2^n e^r (Cody and Waite 1980); e^r - 1 - r is r^2
times a minimax polynomial. 2^n is applied in two halves, so that subnormal results round once.
"""

from __future__ import annotations

from typing import Any

from ..prelude import inline, magnitude, polynomial, select
from .kinds import F32, F64, Kind

# (e^r - 1 - r) / r^2 on |r| <= ln(2)/2, highest power first.
_EXP_F32 = F32.reals(0.001386429, 0.008366549, 0.041667506, 0.16666543, 0.49999997)
_EXP_F64 = F64.reals(
    2.5062110214814598e-08,
    2.762635247696614e-07,
    2.755738219902816e-06,
    2.4801504404929773e-05,
    0.00019841269746215942,
    0.0013888888932391688,
    0.008333333333377511,
    0.04166666666657364,
    0.16666666666666607,
    0.5000000000000006,
)


def _reduced(kind: Kind, coefficients: Any) -> Any:
    """``f(x)``: an integer whose low bits are n, and e^r - 1."""
    bits, magic, log2e = kind.bits, kind.magic, kind.real(1.4426950408889634)
    high, low = kind.ln2

    @inline
    def reduced(x: Any) -> Any:
        shifted = x * log2e + magic
        n = shifted - magic
        r = (x - n * high) - n * low
        return bits(shifted), r + r * r * polynomial(r, coefficients)

    return reduced


def _scale(kind: Kind) -> Any:
    """``f(y, i)``: y 2^n rounded once, where n is in the low bits of i and y is near 1."""
    unbits, whole, digits, unit = kind.unbits, kind.whole, kind.digits, kind.unit
    fewer, mask = whole(kind.places - 1), whole(-1 << kind.places)

    @inline
    def scale(y: Any, i: Any) -> Any:
        first = whole((i << fewer) & mask)  # half of n, in the place of the exponent
        second = whole((i << digits) - first)
        return y * unbits(whole(unit + first)) * unbits(whole(unit + second))

    return scale


def _exp(kind: Kind, reduced: Any, scale: Any, least: float, most: float) -> Any:
    one, low, high = kind.reals(1, least, most)

    @inline
    def exp(x: Any) -> Any:
        """e^x."""
        inside = select(x < low, low, x)
        i, y = reduced(select(inside > high, high, inside))
        return scale(one + y, i)

    return exp


def _expm1(kind: Kind, reduced: Any, least: float, most: float) -> Any:
    unbits, whole, digits = kind.unbits, kind.whole, kind.digits
    half_unit = whole((kind.bias - 1) << kind.places)
    half, two, tiny, low, high = kind.reals(0.5, 2, kind.tiny, least, most)

    @inline
    def expm1(x: Any) -> Any:
        """e^x - 1, relatively accurate near 0."""
        inside = select(x < low, low, x)
        i, y = reduced(select(inside > high, high, inside))
        s = unbits(whole((i << digits) + half_unit))  # 2^(n-1): 2^n may be out of range
        return select(magnitude(x) < tiny, x, two * (y * s + (s - half)))

    return expm1


reduced_f32, reduced_f64 = _reduced(F32, _EXP_F32), _reduced(F64, _EXP_F64)
scale_f32, scale_f64 = _scale(F32), _scale(F64)
exp_f32 = _exp(F32, reduced_f32, scale_f32, -104, 89)
exp_f64 = _exp(F64, reduced_f64, scale_f64, -746, 710)
expm1_f32 = _expm1(F32, reduced_f32, -20, 89)
expm1_f64 = _expm1(F64, reduced_f64, -40, 710)
