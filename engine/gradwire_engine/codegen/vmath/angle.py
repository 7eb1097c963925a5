"""atan2: the angle of a point.

The smaller coordinate over the larger is t in [0, 1], whose arc tangent is t + t^3 times a minimax
polynomial in t^2; the octant does the rest.
"""

from __future__ import annotations

import math
from typing import Any

from ..prelude import copysign, inline, magnitude, polynomial, select
from .kinds import F32, F64, Kind

# (atan t - t) / t^3 in t^2, 0 <= t <= 1, highest power first.
_ATAN_F32 = F32.reals(
    -0.0017902764,
    0.010899208,
    -0.031148205,
    0.057926685,
    -0.084015615,
    0.10951503,
    -0.14264102,
    0.19998534,
    -0.333333,
)
_ATAN_F64 = F64.reals(
    1.3217289913415673e-05,
    -0.00015208167481593863,
    0.0008309488335533447,
    -0.0028838388077060797,
    0.007194354710518277,
    -0.013897443888147778,
    0.021981445708805433,
    -0.029900991931696035,
    0.03664003477289023,
    -0.04219082953010748,
    0.04722283827442768,
    -0.0525350662163125,
    0.05880524962990349,
    -0.06666403542101067,
    0.07692279770506263,
    -0.09090906996447301,
    0.1111111100660442,
    -0.14285714282558115,
    0.1999999999995109,
    -0.33333333333333065,
)
_PI_LOW = 1.2246467991473532e-16


def _atan2(kind: Kind, coefficients: Any) -> Any:
    bits, zero, one = kind.bits, kind.real(0), kind.real(1)
    pi, half_pi = kind.reals(math.pi, math.pi / 2)
    low = kind.real((math.pi - float(pi)) + _PI_LOW)
    half_low = kind.real((math.pi - float(pi)) / 2 + _PI_LOW / 2)
    positive = kind.whole(0)

    @inline
    def atan2(y: Any, x: Any) -> Any:
        """The angle of the point (x, y), from -pi to pi; the signs of zeros tell, as in C."""
        b, a = magnitude(y), magnitude(x)
        steep = b > a
        short, long = select(steep, a, b), select(steep, b, a)
        t = select(short == long, one, short / long)
        t = select(long == zero, zero, t)
        z = t * t
        r = t + t * (z * polynomial(z, coefficients))
        r = select(steep, half_pi - (r - half_low), r)
        r = select(bits(x) < positive, pi - (r - low), r)
        r = copysign(r, y)
        return select((x != x) | (y != y), x + y, r)

    return atan2


atan2_f32 = _atan2(F32, _ATAN_F32)
atan2_f64 = _atan2(F64, _ATAN_F64)
