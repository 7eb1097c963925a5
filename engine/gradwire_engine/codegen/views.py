"""Views: ops that move no element, as arithmetic on layouts.

A broadcast, a transposition, a slice, a flip, a reshape and an unpadded unfold only say where the
elements of their operand are read. Kernels follow the strides, so these ops cost nothing; where a
reshape cannot be expressed by strides (the rows of a transposed matrix run together, say), the
answer is None and the operand is copied first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..ops import checks
from .program import Layout, dense_strides


def view(op: Any, source: Layout) -> Layout | None:
    """The layout of `op` applied to `source`; None where the elements have to be moved."""
    rule = RULES.get(op.name)
    return rule(op, source) if rule is not None else None


def _broadcast(op: Any, source: Layout) -> Layout:
    strides = [0] * len(op.shape)
    for size, stride, place in zip(
        source.shape, source.strides, op.placement(source.type), strict=True
    ):
        strides[place] = stride if size == op.shape[place] else 0
    return replace(source, shape=tuple(op.shape), strides=tuple(strides))


def _transpose(op: Any, source: Layout) -> Layout:
    order = op.order()
    return replace(
        source,
        shape=tuple(source.shape[p] for p in order),
        strides=tuple(source.strides[p] for p in order),
    )


def _slice(op: Any, source: Layout) -> Layout:
    steps = op.steps(len(source.shape))
    offset = source.offset
    if 0 not in op.typing(source.type).shape:
        offset += sum(a * s for a, s in zip(op.starts, source.strides, strict=True))
    strides = tuple(s * t for s, t in zip(source.strides, steps, strict=True))
    return replace(source, offset=offset, shape=op.typing(source.type).shape, strides=strides)


def _flip(op: Any, source: Layout) -> Layout:
    strides, offset = list(source.strides), source.offset
    for axis in checks.axes(op, "axes", op.axes, len(source.shape)):
        offset += strides[axis] * max(source.shape[axis] - 1, 0)
        strides[axis] = -strides[axis]
    return replace(source, offset=offset, strides=tuple(strides))


def _reshape(op: Any, source: Layout) -> Layout | None:
    return reshaped(source, op.target(source.type))


def reshaped(source: Layout, shape: Sequence[int]) -> Layout | None:
    """`source` with another shape of the same size; None where no strides say so."""
    shape = tuple(shape)
    if 0 in shape:
        return replace(source, shape=shape, strides=dense_strides(shape))
    old = [(n, s) for n, s in zip(source.shape, source.strides, strict=True) if n != 1]
    strides: list[int] = []
    # From the last axis on: each new axis takes elements from the runs of the old ones.
    run, step = old.pop() if old else (1, 0)
    for size in reversed(shape):
        if size == 1:
            strides.append(0)
            continue
        while run % size or run == 1:
            if not old:
                return None
            count, stride = old.pop()
            if run == 1:
                run, step = count, stride
            elif stride == step * run:
                run *= count
            else:
                return None
        strides.append(step)
        run //= size
        step *= size
    return replace(source, shape=shape, strides=tuple(reversed(strides)))


def _unfold(op: Any, source: Layout) -> Layout | None:
    grid = op.over("x", source.type)
    if any(grid.padding):
        return None
    lead = len(source.shape) - grid.rank
    spatial = source.strides[lead:]
    strides = (
        *source.strides[:lead],
        *spatial,
        *(s * t for s, t in zip(spatial, grid.stride, strict=True)),
    )
    return replace(source, shape=op.typing(source.type).shape, strides=strides)


def _same(op: Any, source: Layout) -> Layout | None:
    return source if op.typing(source.type) == source.type else None


def _unclamped(op: Any, source: Layout) -> Layout | None:
    return source if op.min is None and op.max is None else None


RULES: dict[str, Callable[[Any, Layout], Layout | None]] = {
    "broadcast_to": _broadcast,
    "transpose": _transpose,
    "slice": _slice,
    "flip": _flip,
    "reshape": _reshape,
    "unfold": _unfold,
    "detach": _same,
    "cast": _same,
    "clamp": _unclamped,
}
