"""What each pointwise op is in kernel source: one expression over the values of its operands.

Expressions see scalars of the right type. Names: ``vm`` are the vector functions, the rest is the
prelude. `COST` says which are worth more than reading a number from cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

SUFFIX = {"float32": "f32", "float64": "f64", "int64": "i64", "bool": "bool"}

Expression = Callable[[str, Sequence[str], Sequence[str]], str]
"""From the operands' dtype suffix, their names and the names of the op's numbers: source text."""


def _infix(symbol: str) -> Expression:
    return lambda t, v, p: f"{v[0]} {symbol} {v[1]}"


def _math(name: str) -> Expression:
    return lambda t, v, p: f"vm.{name}_{t}({', '.join(v)})"


def _extreme(name: str, symbol: str) -> Expression:
    def text(t: str, v: Sequence[str], p: Sequence[str]) -> str:
        if t[0] == "f":
            return f"{name}({v[0]}, {v[1]})"
        return f"select({v[0]} {symbol} {v[1]}, {v[0]}, {v[1]})"

    return text


def _magnitude(t: str, v: Sequence[str], p: Sequence[str]) -> str:
    return f"vm.abs_{t}({v[0]})" if t[0] == "f" else f"select({v[0]} < 0, -{v[0]}, {v[0]})"


def _sign(t: str, v: Sequence[str], p: Sequence[str]) -> str:
    return f"vm.sign_{t}({v[0]})" if t[0] == "f" else f"i64({v[0]} > 0) - i64({v[0]} < 0)"


def _clamp(low: bool, high: bool) -> Expression:
    def text(t: str, v: Sequence[str], p: Sequence[str]) -> str:
        result, numbers = v[0], list(p)
        if low:
            result = _extreme("maximum", ">")(t, [result, numbers.pop(0)], ())
        if high:
            result = _extreme("minimum", "<")(t, [result, numbers.pop(0)], ())
        return result

    return text


FUNCTIONS = (
    *("exp", "expm1", "log", "log1p", "sin", "cos", "tan", "tanh", "sigmoid", "softplus"),
    *("erf", "erfc", "pow", "atan2"),
)
"""Ops worth storing rather than computing twice."""

POINTWISE: dict[str, Expression] = {
    "add": _infix("+"),
    "sub": _infix("-"),
    "mul": _infix("*"),
    "div": _infix("/"),
    "equal": _infix("=="),
    "not_equal": _infix("!="),
    "less": _infix("<"),
    "less_equal": _infix("<="),
    "greater": _infix(">"),
    "greater_equal": _infix(">="),
    "logical_and": _infix("&"),
    "logical_or": _infix("|"),
    "logical_not": lambda t, v, p: f"not {v[0]}",
    "where": lambda t, v, p: f"select({v[0]}, {v[1]}, {v[2]})",
    "maximum": _extreme("maximum", ">"),
    "minimum": _extreme("minimum", "<"),
    "neg": lambda t, v, p: f"-{v[0]}",
    "abs": _magnitude,
    "square": lambda t, v, p: f"{v[0]} * {v[0]}",
    "inv": lambda t, v, p: f"{t}(1) / {v[0]}",
    "relu": lambda t, v, p: f"maximum({v[0]}, {t}(0))",
    "scale": lambda t, v, p: f"{p[0]} * {v[0]}",
    "sign": _sign,
    "is_finite": lambda t, v, p: f"vm.abs_{t}({v[0]}) < {t}(np.inf)",
    **{name: _math(name) for name in (*FUNCTIONS, "sqrt", "rsqrt", "floor")},
}


def expression(op: Any) -> Expression | None:
    """How a pointwise op is written; None for other ops."""
    if op.name == "clamp":
        return _clamp(op.min is not None, op.max is not None)
    if op.name == "cast":
        return _cast(op.dtype)
    return POINTWISE.get(op.name)


def numbers(op: Any) -> tuple[float | int, ...]:
    """The attributes of a pointwise op that its kernel takes as arguments, in order."""
    if op.name == "scale":
        return (op.c,)
    if op.name == "clamp":
        return tuple(b for b in (op.min, op.max) if b is not None)
    return ()


def _cast(target: str) -> Expression:
    def text(t: str, v: Sequence[str], p: Sequence[str]) -> str:
        if target == "bool":
            return f"{v[0]} != {t}(0)"
        if target == "int64" and t[0] == "f":
            return f"vm.to_i64_{t}({v[0]})"
        if t == "bool":
            kind = SUFFIX[target]
            return f"select({v[0]}, {kind}(1), {kind}(0))"
        return f"{SUFFIX[target]}({v[0]})"

    return text


def cost(op: Any) -> int:
    """Roughly how many simple operations an element takes."""
    if op.name in FUNCTIONS:
        return 12
    return 4 if op.name in ("div", "sqrt", "rsqrt", "inv") else 1
