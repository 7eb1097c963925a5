"""Elementwise arithmetic: operands and result share one shape; one row an op.

A row gives the NumPy meaning and the local derivative. Ties and NaN follow PyTorch where the
reference is silent. Comparison and choice are in `logic`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir import Type, Value
from . import checks
from .attributes import Dtype, Real
from .base import Array, Composite, Op
from .logic import Elementwise, camel_case, equal, logical_not, select
from .sources import constant, known_number, ones_like, zeros_like

# -- one operand -----------------------------------------------------------------------------------


class Unary(Elementwise):
    """One float operand; subclasses give the function and the derivative."""

    def typing(self, x: Type) -> Type:
        checks.floats(self, x=x)
        return x


def unary(
    name: str,
    function: Callable[[Array], Array],
    doc: str,
    *,
    d: Callable[[Value, Value], Value] | None = None,
    jvp: Callable[[Value, Value, Value], Value] | None = None,
    zero: bool = False,
    integers: bool = False,
    temporaries: int = 0,
    graphm: str | None = None,
) -> Op:
    """Declare a unary op.

    Args:
        name: Catalogue name.
        function: The NumPy meaning.
        doc: One sentence of documentation.
        d: The local derivative from result and operand: the tangent is ``d(y, x) * dx``.
        jvp: The tangent from (dx, y, x) where it is no product; instead of `d`.
        zero: The derivative is zero everywhere.
        integers: Whether int64 is accepted too.
        temporaries: How many arrays like the operand `function` holds beside its result.
        graphm: GraphM's name.
    """
    members: dict[str, Any] = {"__doc__": doc, "__module__": __name__}
    # A NumPy function of a scalar array answers with a scalar, in NumPy 1 even a wider one.
    members["numpy"] = lambda self, x: np.asarray(function(x), dtype=x.dtype)
    if integers:
        members["typing"] = _numeric_unary
    if jvp is not None:
        members["jvp_x"] = lambda self, dx, y, x: jvp(dx, y, x)
    elif d is not None:
        members["jvp_x"] = lambda self, dx, y, x: d(y, x) * dx
    if temporaries:
        members["workspace"] = lambda self, x: temporaries * x.nbytes
    keywords: dict[str, Any] = {"inputs": ("x",), "graphm": graphm}
    if zero:
        keywords["nondiff"] = ("x",)
    cls = type(camel_case(name), (Unary,), members, **keywords)
    instance: Op = cls()
    return instance


def _numeric_unary(self: Op, x: Type) -> Type:
    checks.numeric(self, x=x)
    return x


def np_sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x) without overflow: the exponential's argument is never positive."""
    e = _exp_of_minus_abs(x)
    result: Array = np.where(x >= 0, x.dtype.type(1), e)
    e += 1
    result /= e
    return result


def np_softplus(x: Array) -> Array:
    """log(1 + e^x) as max(x, 0) + log1p(e^-|x|)."""
    result = _exp_of_minus_abs(x)
    np.log1p(result, out=result)
    result += np.maximum(x, 0)
    return result


def _exp_of_minus_abs(x: Array) -> Array:
    e = np.asarray(np.abs(x))
    np.negative(e, out=e)
    np.exp(e, out=e)
    return e


def np_erf(x: Array) -> Array:
    """SciPy's error function, imported when first used: the catalogue needs NumPy only."""
    from scipy.special import erf as scipy_erf

    result: Array = scipy_erf(x)
    return result


def np_erfc(x: Array) -> Array:
    """The complementary error function, relatively accurate in its tail."""
    from scipy.special import erfc as scipy_erfc

    result: Array = scipy_erfc(x)
    return result


exp = unary("exp", np.exp, "e to the power ``x``.", d=lambda y, x: y, graphm="exp")
# A division, not a product with 1/x, which is infinite already where x is merely tiny.
log = unary(
    "log",
    np.log,
    "Natural logarithm; -inf at 0, NaN below.",
    jvp=lambda dx, y, x: dx / x,
    graphm="log",
)
log1p = unary(
    "log1p", np.log1p, "log(1 + x), accurate near 0.", jvp=lambda dx, y, x: dx / (x + 1.0)
)
expm1 = unary("expm1", np.expm1, "e^x - 1, accurate near 0.", d=lambda y, x: exp(x))
sqrt = unary(
    "sqrt", np.sqrt, "Square root; NaN below 0.", jvp=lambda dx, y, x: dx / (y * 2.0), graphm="sqrt"
)
rsqrt = unary(
    "rsqrt",
    lambda x: 1 / np.sqrt(x),
    "1 / sqrt(x).",
    d=lambda y, x: y / x * -0.5,
    temporaries=1,
)
inv: Op = unary(
    "inv", lambda x: 1 / x, "The reciprocal 1/x.", d=lambda y, x: -(y * y), graphm="inv"
)
sin = unary("sin", np.sin, "Sine of ``x`` in radians.", d=lambda y, x: cos(x))
cos: Op = unary("cos", np.cos, "Cosine of ``x`` in radians.", d=lambda y, x: -sin(x))
tan = unary("tan", np.tan, "Tangent of ``x`` in radians.", d=lambda y, x: y * y + 1.0)
tanh = unary("tanh", np.tanh, "Hyperbolic tangent.", d=lambda y, x: 1.0 - y * y, graphm="tanh")
sigmoid = unary(
    "sigmoid",
    np_sigmoid,
    "1 / (1 + e^-x), in the sign-branched form that never overflows.",
    d=lambda y, x: y * (1.0 - y),
    temporaries=2,
    graphm="sigmoid",
)
softplus = unary(
    "softplus",
    np_softplus,
    "log(1 + e^x) without a threshold; derivative sigmoid(x).",
    d=lambda y, x: sigmoid(x),
    temporaries=1,
    graphm="softplus",
)
erf = unary(
    "erf",
    np_erf,
    "The error function.",
    d=lambda y, x: exp(-(x * x)) * (2 / math.sqrt(math.pi)),
)
erfc = unary(
    "erfc",
    np_erfc,
    "1 - erf(x), relatively accurate in its tail.",
    d=lambda y, x: exp(-(x * x)) * (-2 / math.sqrt(math.pi)),
)
relu = unary(
    "relu",
    lambda x: np.maximum(x, 0),
    "max(x, 0); derivative 0 at 0.",
    jvp=lambda dx, y, x: select(x <= 0.0, zeros_like(dx), dx),
    graphm="relu",
)
abs_ = unary(
    "abs",
    np.abs,
    "Absolute value; derivative 0 at 0.",
    jvp=lambda dx, y, x: select(x > 0.0, dx, select(x < 0.0, -dx, 0.0)),
    integers=True,
    graphm="abs",
)
square = unary(
    "square",
    lambda x: x * x,
    "x * x.",
    jvp=lambda dx, y, x: x * 2.0 * dx,
    integers=True,
    graphm="square",
)
sign = unary("sign", np.sign, "-1, 0 or 1; derivative zero.", zero=True, integers=True)
floor = unary("floor", np.floor, "Largest integer not above; derivative zero.", zero=True)


class Neg(Elementwise, inputs=("x",), linear_in=("x",)):
    """-x."""

    def typing(self, x: Type) -> Type:
        checks.numeric(self, x=x)
        return x

    def numpy(self, x: Array) -> Array:
        return np.negative(x)

    def transpose_x(self, ct: Value, x: Type) -> Value:
        return -ct


class Detach(Elementwise, inputs=("x",), nondiff=("x",), graphm="detach"):
    """The identity whose derivative is zero in both modes: a stop-gradient."""

    def typing(self, x: Type) -> Type:
        return x

    def numpy(self, x: Array) -> Array:
        return x


detach = Detach()


class Scale(Elementwise, inputs=("x",), linear_in=("x",), graphm="scale"):
    """``c * x`` with a constant ``c``, which takes the dtype of ``x`` and carries no derivative."""

    c: Real

    def typing(self, x: Type) -> Type:
        checks.numeric(self, x=x)
        checks.scalar(self, "c", x.dtype)
        return x

    def numpy(self, x: Array) -> Array:
        result: Array = np.multiply(x, x.dtype.type(self.c))
        return result

    def transpose_x(self, ct: Value, x: Type) -> Value:
        return self(ct)


class Clamp(Elementwise, inputs=("x",), graphm="clamp"):
    """min(max(x, min), max); derivative 1 for min <= x <= max, else 0.

    Either bound may be absent.
    """

    min: Real | None = None
    max: Real | None = None

    def check(self) -> None:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise self.invalid("min", f"it is above max, which is {self.max}")

    def typing(self, x: Type) -> Type:
        checks.numeric(self, x=x)
        checks.scalar(self, "min", x.dtype)
        checks.scalar(self, "max", x.dtype)
        return x

    def numpy(self, x: Array) -> Array:
        if self.min is None and self.max is None:
            return x
        bounds = (None if b is None else x.dtype.type(b) for b in (self.min, self.max))
        result: Array = np.clip(x, *bounds)
        return result

    def jvp_x(self, dx: Value, y: Value, x: Value) -> Value:
        bounds = []
        if self.min is not None:
            bounds.append(x >= self.min)
        if self.max is not None:
            bounds.append(x <= self.max)
        for inside in bounds:
            dx = select(inside, dx, 0.0)
        return dx


class SafeLog(Composite, inputs=("x",), graphm="safeLog"):
    """log(x + eps); derivative 1 / (x + eps)."""

    eps: Real = 1e-6

    def typing(self, x: Type) -> Type:
        checks.floats(self, x=x)
        checks.scalar(self, "eps", x.dtype)
        return x

    def expand(self, x: Value) -> Value:
        return log(x + self.eps)


class IsFinite(Elementwise, inputs=("x",), nondiff=("x",)):
    """Whether each element is neither infinite nor NaN."""

    def typing(self, x: Type) -> Type:
        checks.floats(self, x=x)
        return x.with_dtype("bool")

    def numpy(self, x: Array) -> Array:
        return np.isfinite(x)


is_finite = IsFinite()


class Cast(Elementwise, inputs=("x",), linear_in=("x",)):
    """``x`` in another dtype; differentiable from float to float.

    Float to int64 drops the fraction; NaN and values beyond int64 become the least int64.
    """

    dtype: Dtype

    def typing(self, x: Type) -> Type:
        return x.with_dtype(self.dtype)

    def numpy(self, x: Array) -> Array:
        if self.dtype == "int64" and x.dtype.kind == "f":
            # NumPy leaves NaN and overflow to the processor; the spec wants one answer everywhere.
            whole = np.asarray(x.astype(np.int64))
            whole[~((x >= -(2.0**63)) & (x < 2.0**63))] = -(2**63)
            return whole
        return x.astype(self.dtype)

    def transpose_x(self, ct: Value, x: Type) -> Value:
        return Cast(x.dtype)(ct)

    def workspace(self, x: Type) -> int:
        return 2 * x.size if self.dtype == "int64" and x.is_float else 0


# -- two operands ----------------------------------------------------------------------------------


class Binary(Elementwise):
    """Two operands of one type."""

    def typing(self, a: Type, b: Type) -> Type:
        checks.numeric(self, a=a, b=b)
        checks.same_shape(self, a=a, b=b)
        return a


class FloatBinary(Elementwise):
    """Two float operands of one type."""

    def typing(self, a: Type, b: Type) -> Type:
        checks.floats(self, a=a, b=b)
        checks.same_shape(self, a=a, b=b)
        return a


class Add(Binary, inputs=("a", "b"), linear_in=("a", "b"), jointly=True, graphm="add"):
    """a + b."""

    def numpy(self, a: Array, b: Array) -> Array:
        return np.add(a, b)

    def transpose_a(self, ct: Value, a: Type, b: Type) -> Value:
        return ct

    def transpose_b(self, ct: Value, a: Type, b: Type) -> Value:
        return ct

    def push_forward(
        self, y: Value, operands: tuple[Value, ...], tangents: tuple[Value | None, ...]
    ) -> Value | None:
        da, db = tangents
        return da + db if da is not None and db is not None else da or db


class Sub(Binary, inputs=("a", "b"), linear_in=("a", "b"), jointly=True, graphm="sub"):
    """a - b."""

    def numpy(self, a: Array, b: Array) -> Array:
        return np.subtract(a, b)

    def transpose_a(self, ct: Value, a: Type, b: Type) -> Value:
        return ct

    def transpose_b(self, ct: Value, a: Type, b: Type) -> Value:
        return -ct

    def push_forward(
        self, y: Value, operands: tuple[Value, ...], tangents: tuple[Value | None, ...]
    ) -> Value | None:
        da, db = tangents
        if db is None:
            return da
        return -db if da is None else da - db


class Mul(Binary, inputs=("a", "b"), linear_in=("a", "b"), graphm="mul"):
    """a * b."""

    def numpy(self, a: Array, b: Array) -> Array:
        return np.multiply(a, b)

    def transpose_a(self, ct: Value, a: Type, b: Value) -> Value:
        return ct * b

    def transpose_b(self, ct: Value, a: Value, b: Type) -> Value:
        return ct * a


class Div(FloatBinary, inputs=("a", "b"), linear_in=("a",)):
    """a / b."""

    def numpy(self, a: Array, b: Array) -> Array:
        return np.divide(a, b)

    def transpose_a(self, ct: Value, a: Type, b: Value) -> Value:
        return ct / b

    def jvp_b(self, db: Value, y: Value, a: Value, b: Value) -> Value:
        return -(y / b) * db


class Pow(FloatBinary, inputs=("a", "b")):
    """a to the power b.

    d/da = b a^(b-1), 0 where b = 0; d/db = a^b log a, 0 where a = 0 and b >= 0. The guards replace
    the operands, and only where the formula is undefined, so that second derivatives are right
    too: d2/dadb at b = 0 is 1/a.
    """

    def numpy(self, a: Array, b: Array) -> Array:
        return np.power(a, b)

    def jvp_a(self, da: Value, y: Value, a: Value, b: Value) -> Value:
        fixed = known_number(b)
        if fixed is not None:
            return _power_rule(da, a, fixed)
        # Where b = 0 and 1/a^2 is not finite, b a^(b-2) would be NaN in the second derivative:
        # there a^(b-1) = 1/a is held fixed, and where even that is not finite, it is 0.
        flat = equal(b, zeros_like(b)) & logical_not(is_finite(inv(square(a))))
        reciprocal = detach(inv(a))
        held = b * select(is_finite(reciprocal), reciprocal, 0.0)
        slope = b * power(select(flat, ones_like(a), a), b - 1.0)
        return select(flat, held, slope) * da

    def jvp_b(self, db: Value, y: Value, a: Value, b: Value) -> Value:
        undefined = equal(a, zeros_like(a)) & (b >= 0.0)
        base = select(undefined, ones_like(a), a)
        return select(undefined, zeros_like(db), power(base, b) * log(base)) * db


power = Pow()


def _power_rule(da: Value, a: Value, b: float) -> Value:
    """The tangent of a^b for an exponent known beforehand: nothing needs a guard but b = 0."""
    if b in (0, 1):
        return zeros_like(da) if b == 0 else da
    lower = a if b == 2 else power(a, constant(a, b - 1))
    return Scale(b)(lower) * da


class Atan2(Elementwise, inputs=("y", "x")):
    """The angle of the point (x, y), in -pi to pi; derivative 0 at the origin."""

    def typing(self, y: Type, x: Type) -> Type:
        checks.floats(self, y=y, x=x)
        checks.same_shape(self, y=y, x=x)
        return y

    def numpy(self, y: Array, x: Array) -> Array:
        return np.arctan2(y, x)

    def jvp_y(self, dy: Value, result: Value, y: Value, x: Value) -> Value:
        return _over_square_norm(x, y, x) * dy

    def jvp_x(self, dx: Value, result: Value, y: Value, x: Value) -> Value:
        return -_over_square_norm(y, y, x) * dx


def _over_square_norm(numerator: Value, y: Value, x: Value) -> Value:
    """The numerator over x^2 + y^2, and 0 at the origin.

    max(|x|, |y|) is divided out, so that no square overflows; not where it is infinite, since the
    quotient of infinities is NaN.
    """
    longest = detach(maximum(abs_(x), abs_(y)))
    origin = equal(longest, zeros_like(longest))
    unit = select(is_finite(longest) & logical_not(origin), longest, 1.0)
    ys, xs = y / unit, select(origin, ones_like(x), x / unit)
    return select(origin, zeros_like(x), numerator / unit / (xs * xs + ys * ys) / unit)


def _extremum(name: str, function: Any, loses: Callable[[Value, Value], Value], alias: str) -> Op:
    """Maximum or minimum: the winner takes the derivative, a tie splits it in halves."""

    def jvp_a(self: Op, da: Value, y: Value, a: Value, b: Value) -> Value:
        return _winner(da, a, b)

    def jvp_b(self: Op, db: Value, y: Value, a: Value, b: Value) -> Value:
        return _winner(db, b, a)

    def _winner(d: Value, mine: Value, other: Value) -> Value:
        shared = select(equal(mine, other), Scale(0.5)(d), d)
        return select(loses(mine, other), zeros_like(d), shared)

    which = "larger" if alias == "max" else "smaller"
    members: dict[str, Any] = {
        "__doc__": f"The {which} of a and b; a tie halves the derivative, NaN propagates.",
        "__module__": __name__,
        "numpy": lambda self, a, b: function(a, b),
        "jvp_a": jvp_a,
        "jvp_b": jvp_b,
    }
    keywords: dict[str, Any] = {"inputs": ("a", "b"), "graphm": alias}
    instance: Op = type(camel_case(name), (Binary,), members, **keywords)()
    return instance


maximum = _extremum("maximum", np.maximum, lambda mine, other: mine < other, "max")
minimum = _extremum("minimum", np.minimum, lambda mine, other: mine > other, "min")
