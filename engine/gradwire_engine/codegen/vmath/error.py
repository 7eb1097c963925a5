"""erf and erfc.

erfc(a) e^(a^2) (1 + 2a), a >= 0, is smooth up to infinity, and a polynomial in (a - k) / (a + k)
(after Shepherd and Laframboise 1981). e^(-a^2) is taken from a^2 in two floats, so that erfc keeps
its relative accuracy down to underflow. Near 0, erf is a polynomial of its own.
"""

from __future__ import annotations

from typing import Any

from ..prelude import copysign, exact, fma, inline, magnitude, polynomial, select
from .exponential import reduced_f32, reduced_f64, scale_f32, scale_f64
from .kinds import F32, F64, Kind

# (erfc(a) e^(a^2) (1 + 2a) - 1) / u in u - 1, u = 2a / (a + k), highest power first.
_TAIL_F32 = F32.reals(
    -0.00040260208,
    -0.00083288207,
    0.0021436797,
    0.006492387,
    -0.01454847,
    -0.039656714,
    0.20371084,
    -0.36974227,
    0.2769784,
)
_TAIL_F64 = F64.reals(
    2.7297707788415467e-09,
    8.534291239676256e-09,
    -1.6774628879858766e-08,
    -7.8977333119932e-08,
    8.333453479767735e-08,
    5.204942613233603e-07,
    -5.744190195476671e-07,
    -3.24269554057536e-06,
    5.575757156643651e-06,
    1.8686395381703754e-05,
    -6.1470133033317e-05,
    -6.004262046706677e-05,
    0.0006244273487841627,
    -0.0009266951735146779,
    -0.003288324775220634,
    0.022387655713390308,
    -0.0712109815379943,
    0.15919413536295446,
    -0.27428373352329516,
    0.3718028286765588,
    -0.38235842500877393,
    0.24234924487115436,
)
# erf(x) / x - 1 in x^2, |x| <= 0.65, highest power first.
_NEAR_F32 = F32.reals(0.004407854, -0.026576519, 0.112795494, -0.37612423, 0.12837915)
_NEAR_F64 = F64.reals(
    -1.313556001705456e-07,
    1.6142353976120822e-06,
    -1.4907922410739873e-05,
    0.0001205473828198817,
    -0.0008548314694495807,
    0.005223977470152998,
    -0.026866170633912726,
    0.11283791670913931,
    -0.3761263890318316,
    0.12837916709551256,
)


@exact
def _square(a: Any) -> Any:
    """The rounded square of a, and its error."""
    square = a * a
    return square, fma(a, a, -square)


def _tail(kind: Kind, coefficients: Any, k: float, most: float, reduced: Any, scale: Any) -> Any:
    """``f(a)``: erfc(a) for a >= 0."""
    one, centre, top = kind.reals(1, k, most)

    @inline
    def tail(a: Any) -> Any:
        a = select(a > top, top, a)
        twice = a + a
        u = twice / (a + centre)
        p = (one + u * polynomial(u - one, coefficients)) / (one + twice)
        square, error = _square(a)
        i, y = reduced(-square)
        return scale(p + p * (y - (error + error * y)), i)

    return tail


def _erfc(kind: Kind, tail: Any) -> Any:
    zero, two = kind.reals(0, 2)

    @inline
    def erfc(x: Any) -> Any:
        """1 - erf(x), relatively accurate in its tail."""
        y = tail(magnitude(x))
        return select(x < zero, two - y, y)

    return erfc


def _erf(kind: Kind, tail: Any, coefficients: Any, limit: float) -> Any:
    one, edge = kind.reals(1, limit)

    @inline
    def erf(x: Any) -> Any:
        """The error function."""
        a = magnitude(x)
        near = x + x * polynomial(x * x, coefficients)
        return select(a < edge, near, copysign(one - tail(a), x))

    return erf


_tail_f32 = _tail(F32, _TAIL_F32, 2, 10.1, reduced_f32, scale_f32)
_tail_f64 = _tail(F64, _TAIL_F64, 3.5, 27.3, reduced_f64, scale_f64)
erfc_f32 = _erfc(F32, _tail_f32)
erfc_f64 = _erfc(F64, _tail_f64)
erf_f32 = _erf(F32, _tail_f32, _NEAR_F32, 0.65)
erf_f64 = _erf(F64, _tail_f64, _NEAR_F64, 0.65)
