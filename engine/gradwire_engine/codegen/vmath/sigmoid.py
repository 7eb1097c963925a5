"""Functions made of exponentials: tanh, sigmoid and softplus."""

from __future__ import annotations

from typing import Any

from ..prelude import copysign, inline, magnitude, polynomial, select
from .exponential import exp_f32, exp_f64, reduced_f32, reduced_f64
from .kinds import F32, F64, Kind

# (log(1 + u) - u) / u^2 in u - 1/2, 0 <= u <= 1, highest power first.
_LOG1P_F32 = F32.reals(
    -0.0032474028,
    0.0069024516,
    -0.010210069,
    0.016667485,
    -0.028899943,
    0.051087987,
    -0.09323216,
    0.17922491,
    -0.37813956,
)
_LOG1P_F64 = F64.reals(
    2.5309492403272607e-05,
    -5.1012046538559504e-05,
    5.2711560850727416e-05,
    -7.120131043009333e-05,
    0.00012549501398862814,
    -0.00020483264644194097,
    0.00032344518262153633,
    -0.0005165491928750195,
    0.0008313478254399139,
    -0.0013445299409372852,
    0.0021876469478604955,
    -0.00358566485743397,
    0.005929011608327517,
    -0.009909900764203033,
    0.016788742489320586,
    -0.028943183164440105,
    0.051083446105439155,
    -0.0932303663636697,
    0.17922493693603692,
    -0.37813956756734246,
)


def _tanh(kind: Kind, reduced: Any, most: float) -> Any:
    unbits, whole = kind.unbits, kind.whole
    digits, unit = kind.digits, kind.unit
    one, two, top = kind.reals(1, 2, most)

    @inline
    def tanh(x: Any) -> Any:
        """The hyperbolic tangent: y / (y + 2) for y = e^2a - 1, a = |x|."""
        a = magnitude(x)
        a = select(a > top, top, a)
        i, e = reduced(a + a)
        s = unbits(whole((i << digits) + unit))
        y = e * s + (s - one)
        return copysign(y / (y + two), x)

    return tanh


def _sigmoid(kind: Kind, exp: Any) -> Any:
    zero, one = kind.reals(0, 1)

    @inline
    def sigmoid(x: Any) -> Any:
        """1 / (1 + e^-x), relatively accurate to its underflow."""
        e = exp(-magnitude(x))
        return select(x < zero, e, one) / (one + e)

    return sigmoid


def _softplus(kind: Kind, exp: Any, coefficients: Any) -> Any:
    zero, half = kind.reals(0, 0.5)

    @inline
    def softplus(x: Any) -> Any:
        """log(1 + e^x) = max(x, 0) + log(1 + e^-|x|), relatively accurate to its underflow."""
        u = exp(-magnitude(x))
        return select(x < zero, zero, x) + (u + u * u * polynomial(u - half, coefficients))

    return softplus


tanh_f32, tanh_f64 = _tanh(F32, reduced_f32, 10), _tanh(F64, reduced_f64, 20)
sigmoid_f32, sigmoid_f64 = _sigmoid(F32, exp_f32), _sigmoid(F64, exp_f64)
softplus_f32 = _softplus(F32, exp_f32, _LOG1P_F32)
softplus_f64 = _softplus(F64, exp_f64, _LOG1P_F64)
