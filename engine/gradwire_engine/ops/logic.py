"""Comparison and choice: the bool side of the elementwise ops, and what all of them share.

Kinks are written with `select`: ``where(c, dx, 0)``, never a product with a mask, so that an
infinite or NaN tangent does not leak through the branch that is not taken.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ir import Type, Value
from . import checks
from .base import Array, Op
from .shape import BroadcastTo
from .sources import constant, zeros_like

MANY = 1 << 15
"""From so many elements on, more passes without a branch beat one pass with a branch."""


class Elementwise(Op):
    """Base of ops that act on each position alone."""

    def vmap(self, size: int, mapped: tuple[bool, ...], *operands: Value) -> Value:
        return self(*spread(size, mapped, *operands))


def spread(size: int, mapped: tuple[bool, ...], *operands: Value) -> list[Value]:
    """All operands with a leading axis of `size`: unmapped ones are broadcast along it."""
    return [
        v if is_mapped else BroadcastTo((size, *v.shape), tuple(range(1, v.rank + 1)))(v)
        for v, is_mapped in zip(operands, mapped, strict=True)
    ]


def select(condition: Value, a: Value, b: Value | float) -> Value:
    """``where(condition, a, b)`` with `b` a value or a number."""
    other = b if isinstance(b, Value) else constant(a, b)
    return Where()(condition, a, other)


def camel_case(name: str) -> str:
    """The class name for a catalogue name."""
    return "".join(part.capitalize() for part in name.split("_"))


class Comparison(Elementwise):
    """Two numeric operands of one type; a bool result without derivative."""

    def typing(self, a: Type, b: Type) -> Type:
        checks.numeric(self, a=a, b=b)
        checks.same_shape(self, a=a, b=b)
        return a.with_dtype("bool")


class Logical(Elementwise):
    """Bool operands of one shape."""

    def typing(self, a: Type, b: Type) -> Type:
        checks.dtypes(self, ("bool",), a=a, b=b)
        checks.same_shape(self, a=a, b=b)
        return a


def _relation(name: str, function: Any, doc: str, base: type[Op] = Comparison) -> Op:
    members: dict[str, Any] = {
        "__doc__": doc,
        "__module__": __name__,
        "numpy": lambda self, a, b: function(a, b),
    }
    keywords: dict[str, Any] = {"inputs": ("a", "b"), "nondiff": ("a", "b")}
    instance: Op = type(camel_case(name), (base,), members, **keywords)()
    return instance


equal = _relation("equal", np.equal, "Whether a = b; NaN equals nothing.")
not_equal = _relation("not_equal", np.not_equal, "Whether a and b differ; NaN differs from all.")
less = _relation("less", np.less, "Whether a < b.")
less_equal = _relation("less_equal", np.less_equal, "Whether a <= b.")
greater = _relation("greater", np.greater, "Whether a > b.")
greater_equal = _relation("greater_equal", np.greater_equal, "Whether a >= b.")
logical_and = _relation("logical_and", np.logical_and, "Whether both hold.", Logical)
logical_or = _relation("logical_or", np.logical_or, "Whether either holds.", Logical)


class LogicalNot(Elementwise, inputs=("x",), nondiff=("x",)):
    """Whether ``x`` does not hold."""

    def typing(self, x: Type) -> Type:
        checks.dtypes(self, ("bool",), x=x)
        return x

    def numpy(self, x: Array) -> Array:
        return np.logical_not(x)


logical_not = LogicalNot()


class Where(
    Elementwise, inputs=("cond", "a", "b"), linear_in=("a", "b"), jointly=True, nondiff=("cond",)
):
    """``a`` where ``cond`` holds, else ``b``; the branch not taken gets an exact zero."""

    def typing(self, cond: Type, a: Type, b: Type) -> Type:
        checks.dtypes(self, ("bool",), cond=cond)
        checks.same_dtype(self, a=a, b=b)
        checks.same_shape(self, cond=cond, a=a, b=b)
        return a

    def numpy(self, cond: Array, a: Array, b: Array) -> Array:
        if a.itemsize != 4 or a.size < MANY:
            return np.where(cond, a, b)
        # By bits, without a branch an element: several times as fast where cond is unpredictable.
        mask = np.negative(cond.view(np.int8), dtype=np.int32)
        other = b.view(np.int32)
        chosen = np.bitwise_xor(a.view(np.int32), other)
        chosen &= mask
        chosen ^= other
        result: Array = chosen.view(a.dtype)
        return result

    def workspace(self, cond: Type, a: Type, b: Type) -> int:
        return a.nbytes if a.dtype == "float32" and a.size >= MANY else 0

    def transpose_a(self, ct: Value, cond: Value, a: Type, b: Type) -> Value:
        return select(cond, ct, 0.0)

    def transpose_b(self, ct: Value, cond: Value, a: Type, b: Type) -> Value:
        return select(cond, zeros_like(ct), ct)
