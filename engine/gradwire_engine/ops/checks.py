"""Typing checks that ops share; each raises the error that names op, operand and what is wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import errors
from ..ir import FLOATS, Type
from .base import Op

NUMERIC = (*FLOATS, "int64")
FLOAT32_MAX = float(np.finfo(np.float32).max)


def dtypes(op: Op, allowed: Sequence[str], **operands: Type) -> None:
    """Each operand's dtype is one of `allowed`."""
    for name, t in operands.items():
        if t.dtype not in allowed:
            expected: Any = allowed[0] if len(allowed) == 1 else list(allowed)
            raise errors.DtypeMismatch(
                op=op.name, operand=operand_key(name), expected=expected, actual=t.dtype
            )


def same_dtype(op: Op, **operands: Type) -> None:
    """All operands share the first one's dtype."""
    first = next(iter(operands.values()))
    for name, t in operands.items():
        if t.dtype != first.dtype:
            raise errors.DtypeMismatch(
                op=op.name, operand=operand_key(name), expected=first.dtype, actual=t.dtype
            )


def floats(op: Op, **operands: Type) -> None:
    """All operands are floats of one dtype."""
    dtypes(op, FLOATS, **operands)
    same_dtype(op, **operands)


def numeric(op: Op, **operands: Type) -> None:
    """All operands are floats or int64, of one dtype."""
    dtypes(op, NUMERIC, **operands)
    same_dtype(op, **operands)


def same_shape(op: Op, **operands: Type) -> None:
    """All operands share the first one's shape."""
    first = next(iter(operands.values()))
    for name, t in operands.items():
        if t.shape != first.shape:
            raise op.mismatch(
                operand_key(name),
                first.shape,
                t,
                "no op broadcasts: insert broadcast_to",
            )


def operand_key(name: str) -> str:
    """``xs_2`` spelled as a keyword becomes the wire's ``xs[2]``."""
    stem, _, index = name.rpartition("__")
    return f"{stem}[{index}]" if stem else name


def numbered(stem: str, types: Sequence[Type]) -> dict[str, Type]:
    """Keywords for the checks above from a variadic operand."""
    return {f"{stem}__{i}": t for i, t in enumerate(types)}


def rank(op: Op, operand: str, t: Type, wanted: int, pattern: Sequence[int | str]) -> None:
    """An operand has `wanted` axes; `pattern` is its shape with symbolic sizes as strings."""
    if t.rank != wanted:
        raise op.mismatch(operand, list(pattern), t)


def axis(op: Op, attribute: str, value: int, rank: int) -> int:
    """A valid axis counted from the front; negative ones count from the end."""
    if not -rank <= value < rank:
        legal = f"{-rank} to {rank - 1}" if rank else "none: the operand is a scalar"
        raise op.invalid(attribute, f"axis {value} is out of range; legal is {legal}")
    return value + rank if value < 0 else value


def axes(op: Op, attribute: str, value: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Valid axes, sorted and distinct; None means all."""
    if value is None:
        return tuple(range(rank))
    several = (value,) if isinstance(value, int) else value
    found = [axis(op, attribute, v, rank) for v in several]
    if len(set(found)) != len(found):
        raise op.invalid(attribute, "an axis is named twice")
    return tuple(sorted(found))


def per_axis(op: Op, attribute: str, value: int | Sequence[int], count: int) -> tuple[int, ...]:
    """One number per axis; a single one stands for all."""
    if isinstance(value, int):
        return (value,) * count
    if len(value) != count:
        raise op.invalid(attribute, f"{count} entries are needed, one per axis")
    return tuple(value)


def scalar(op: Op, attribute: str, dtype: str) -> None:
    """A number attribute is representable in the operand's dtype."""
    value = getattr(op, attribute)
    if value is None:
        return
    if dtype == "int64" and not isinstance(value, int):
        raise op.invalid(attribute, "the operand is int64, so a whole number is needed")
    if dtype == "float32" and math.isfinite(value) and abs(value) > FLOAT32_MAX:
        raise op.invalid(attribute, "it is beyond the range of float32")


def index(
    op: Op, value: int, size: int, *, attribute: str = "index", length: int | None = None
) -> None:
    """A static index lies in 0..size-1 (or, with `length`, ``value`` in 0..length)."""
    high = size - 1 if length is None else length
    if not 0 <= value <= high:
        raise errors.IndexOutOfBounds(
            op=op.name, attribute=attribute, index=value, low=0, high=high
        )
