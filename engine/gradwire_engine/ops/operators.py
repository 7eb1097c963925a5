"""What Python's operators on values mean: broadcast both sides as NumPy does, then apply the op."""

from __future__ import annotations

from typing import Any

from .. import ir
from ..ir import Value
from .base import _REGISTRY
from .elementwise import Neg
from .shape import BroadcastTo
from .sources import constant


class Broadcasting:
    """The implementation of `ir.Operators`."""

    def binary(self, name: str, a: Value, b: Any) -> Value:
        """``a <op> b`` where `b` is a value or a number."""
        if not isinstance(b, Value):
            return _apply(name, a, constant(a, b))
        return _apply(name, *align(a, b))

    def reflected(self, name: str, a: Any, b: Value) -> Value:
        """``a <op> b`` where `a` is a number."""
        return _apply(name, constant(b, a), b)

    def negate(self, a: Value) -> Value:
        """``-a``."""
        return Neg()(a)


def _apply(name: str, a: Value, b: Value) -> Value:
    return _REGISTRY[name]()(a, b)


def align(a: Value, b: Value) -> tuple[Value, Value]:
    """Both operands broadcast to their common shape."""
    if a.shape == b.shape:
        return a, b
    shape = common_shape(a.shape, b.shape)
    return _to(a, shape), _to(b, shape)


def common_shape(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """What two shapes broadcast to; of any sizes, as NumPy's own function is not."""
    rank = max(len(a), len(b))
    pairs = zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True)
    found = []
    for m, n in pairs:
        if m != n and 1 not in (m, n):
            raise ValueError(f"{a} and {b} do not broadcast")
        found.append(n if m == 1 else m)
    return tuple(found)


def _to(x: Value, shape: tuple[int, ...]) -> Value:
    return x if x.shape == shape else BroadcastTo(shape)(x)


ir.register_operators(Broadcasting())
