"""log(x) and log(1 + x).

x = 2^k (1 + f) with |f| <= 1/3, so log x = k ln 2 + log(1 + f), the latter f - f^2/2 + f^3 times a
minimax polynomial. For log(1 + x), the sum is rounded only to find k; f = x 2^-k + (2^-k - 1) is
exact where it matters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..prelude import inline, polynomial, select
from .kinds import F32, F64, Kind

# (log(1 + f) - f + f^2/2) / f^3 on |f| <= 1/3, highest power first.
_LOG_F32 = F32.reals(
    -0.12856492,
    0.13994187,
    -0.12192569,
    0.14003575,
    -0.16679865,
    0.20010576,
    -0.24999812,
    0.33333212,
)
_LOG_F64 = F64.reals(
    -0.08640359813717054,
    0.08862880009871615,
    -0.04565016427197144,
    0.049550659624104265,
    -0.06392875605065693,
    0.06792357330842852,
    -0.0713054017898271,
    0.07682242783935823,
    -0.08333991355334841,
    0.0909140039760472,
    -0.09999978410145895,
    0.11111096727949356,
    -0.12500000412884493,
    0.14285714522476667,
    -0.1666666666259062,
    0.19999999998103246,
    -0.2500000000001526,
    0.33333333333338494,
)


def _combined(kind: Kind, coefficients: Any) -> Any:
    """``f(k, f)``: k ln 2 + log(1 + f) for |f| <= 1/3."""
    high, low = kind.ln2
    half = kind.real(0.5)

    @inline
    def combined(k: Any, f: Any) -> Any:
        tail = f * f * (polynomial(f, coefficients) * f - half) + k * low
        return (f + tail) + k * high

    return combined


def _exponent(kind: Kind) -> Any:
    """``f(x)`` of a normal x: k with x 2^-k in [2/3, 4/3), and k in the place of the exponent."""
    bits, unbits, whole, digits, unit = kind.bits, kind.unbits, kind.whole, kind.digits, kind.unit
    shift = whole(unit - kind.real(2 / 3).view(whole))
    mask = whole((2 * kind.bias + 1) << kind.places)
    binade = kind.real(2.0**kind.places).view(whole)
    origin = kind.real(2.0**kind.places + kind.bias)

    @inline
    def exponent(x: Any) -> Any:
        e = whole((bits(x) + shift) & mask)
        return unbits(whole((e >> digits) | binade)) - origin, whole(e - unit)

    return exponent


def _log(kind: Kind, exponent: Any, combined: Any) -> Any:
    bits, unbits, whole = kind.bits, kind.unbits, kind.whole
    zero, one, infinity, nan = kind.reals(0, 1, np.inf, np.nan)
    tiny, up, lift = kind.reals(kind.tiny, 2.0**kind.places, kind.places)

    @inline
    def log(x: Any) -> Any:
        """The natural logarithm."""
        small = x < tiny
        normal = select(small, x * up, x)
        k, e = exponent(normal)
        f = unbits(whole(bits(normal) - e)) - one
        y = select(x < infinity, combined(select(small, k - lift, k), f), x)
        return select(x > zero, y, select(x == zero, -infinity, nan))

    return log


def _log1p(kind: Kind, exponent: Any, combined: Any) -> Any:
    bits, unbits, whole = kind.bits, kind.unbits, kind.whole
    zero, one, quarter, infinity, nan = kind.reals(0, 1, 0.25, np.inf, np.nan)
    four = kind.real(4).view(whole)

    @inline
    def log1p(x: Any) -> Any:
        """log(1 + x), relatively accurate near 0."""
        k, e = exponent(one + x)
        less = unbits(whole(four - e)) * quarter - one  # 2^-k alone may be subnormal
        y = combined(k, unbits(whole(bits(x) - e)) + less)
        y = select(x == zero, x, select(x < infinity, y, x))
        return select(x > -one, y, select(x == -one, -infinity, nan))

    return log1p


_combined_f32, _combined_f64 = _combined(F32, _LOG_F32), _combined(F64, _LOG_F64)
_exponent_f32, exponent_f64 = _exponent(F32), _exponent(F64)
log_f32, log_f64 = _log(F32, _exponent_f32, _combined_f32), _log(F64, exponent_f64, _combined_f64)
log1p_f32 = _log1p(F32, _exponent_f32, _combined_f32)
log1p_f64 = _log1p(F64, exponent_f64, _combined_f64)
