"""The elementary functions that kernels call: ``exp_f32(x)``, ``exp_f64(x)`` and so on.

All are straight lines of arithmetic and selects, so LLVM vectorizes any loop that calls them. Over
the whole range, subnormal numbers included, they are within 4 units in the last place, and exact
where C99 says what zeros, infinities and NaN give.
"""

from .angle import atan2_f32, atan2_f64
from .basic import (
    abs_f32,
    abs_f64,
    floor_f32,
    floor_f64,
    rsqrt_f32,
    rsqrt_f64,
    sign_f32,
    sign_f64,
    sqrt_f32,
    sqrt_f64,
    to_i64_f32,
    to_i64_f64,
)
from .error import erf_f32, erf_f64, erfc_f32, erfc_f64
from .exponential import exp_f32, exp_f64, expm1_f32, expm1_f64
from .logarithm import log1p_f32, log1p_f64, log_f32, log_f64
from .power import pow_f32, pow_f64
from .sigmoid import (
    sigmoid_f32,
    sigmoid_f64,
    softplus_f32,
    softplus_f64,
    tanh_f32,
    tanh_f64,
)
from .trigonometric import cos_f32, cos_f64, sin_f32, sin_f64, tan_f32, tan_f64

__all__ = [
    "abs_f32",
    "abs_f64",
    "atan2_f32",
    "atan2_f64",
    "cos_f32",
    "cos_f64",
    "erf_f32",
    "erf_f64",
    "erfc_f32",
    "erfc_f64",
    "exp_f32",
    "exp_f64",
    "expm1_f32",
    "expm1_f64",
    "floor_f32",
    "floor_f64",
    "log1p_f32",
    "log1p_f64",
    "log_f32",
    "log_f64",
    "pow_f32",
    "pow_f64",
    "rsqrt_f32",
    "rsqrt_f64",
    "sigmoid_f32",
    "sigmoid_f64",
    "sign_f32",
    "sign_f64",
    "sin_f32",
    "sin_f64",
    "softplus_f32",
    "softplus_f64",
    "sqrt_f32",
    "sqrt_f64",
    "tan_f32",
    "tan_f64",
    "tanh_f32",
    "tanh_f64",
    "to_i64_f32",
    "to_i64_f64",
]
