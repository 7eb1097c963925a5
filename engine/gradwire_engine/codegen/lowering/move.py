"""How elements are moved: copies between strided layouts, constants, pads and concatenations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...ir import ITEMSIZE
from ..emit import Emitter
from ..program import Kernel, Layout, chunks_for

LANE_BYTES, LINE_BYTES = 16, 64
LONG_ROW = 4096
NARROW = 8
FIXED_STEPS = range(-1, 5)


@dataclass(frozen=True)
class _Axis:
    """One axis of a copy: its size and its strides in source and target."""

    size: int
    source: int
    target: int


@dataclass(frozen=True)
class _Way:
    """How the axes of a panel are copied: see `kernels.move` for makers and their words.

    `count` is the number of iterations of a panel, `outer` holds the axes around it, and `speed` is
    how many bytes a nanosecond moves, about.
    """

    maker: str
    count: int
    words: tuple[int, ...]
    outer: list[_Axis]
    speed: float


def lower_copy(emit: Emitter, source: Layout, target: Layout) -> None:
    """Copy elements between layouts of the same shape and dtype that share no memory.

    Any strides will do, 0 and negative ones included; no element of the target is named twice.
    """
    if 0 in target.shape:
        return
    source, target, axes = _canonical(source, target)
    width = ITEMSIZE[target.dtype]
    way = _tiles(width, axes) or _narrow(width, axes) or _rows(width, axes)
    total = way.count * math.prod(axis.size for axis in way.outer)
    name = way.maker.partition("(")[0]
    around = [word for a in way.outer for word in (a.size, a.source, a.target)]
    emit.call(
        Kernel(
            f"from gradwire_engine.codegen.kernels.move import {name}\nkernel = {way.maker}\n",
            title=f"copy {target.type}",
        ),
        [source, target],
        [way.count, *way.words, len(way.outer), *around],
        count=total,
        chunks=chunks_for(total, target.type.nbytes / way.speed, emit.threads),
        writes=[1],
    )


def lower_fill(emit: Emitter, value: float, target: Layout) -> None:
    """Set every element of a layout to `value`."""
    constant = emit.const(np.asarray(value, target.dtype))
    repeated = Layout(constant, 0, target.shape, (0,) * len(target.shape), target.dtype)
    lower_copy(emit, repeated, target)


def _canonical(source: Layout, target: Layout) -> tuple[Layout, Layout, list[_Axis]]:
    """The same copy with as few axes as possible, the target's strides positive and falling."""
    axes: list[_Axis] = []
    for size, s, t in zip(target.shape, source.strides, target.strides, strict=True):
        if size == 1:
            continue
        if t < 0:  # run the other way
            source = replace(source, offset=source.offset + (size - 1) * s)
            target = replace(target, offset=target.offset + (size - 1) * t)
        axes.append(_Axis(size, s if t > 0 else -s, abs(t)))
    merged: list[_Axis] = []
    for a in sorted(axes, key=lambda a: -a.target):
        last = merged[-1] if merged else None
        if last and (last.source, last.target) == (a.source * a.size, a.target * a.size):
            merged[-1] = replace(a, size=last.size * a.size)
        else:
            merged.append(a)
    return source, target, merged or [_Axis(1, 1, 1)]


def _tiles(width: int, axes: list[_Axis]) -> _Way | None:
    """Where the source runs along another axis than the target, both long enough for a tile."""
    *outer, columns = axes
    lanes = LANE_BYTES // width
    along = [a for a in outer if a.source == 1 and a.size >= lanes]
    if columns.target != 1 or columns.size < 2 * lanes or columns.source in (0, 1) or not along:
        return None
    rows = along[0]
    return _Way(
        f"make_tiles({width})",
        -(-rows.size * width // LINE_BYTES),
        (rows.size, columns.size, columns.source, rows.target, 0, 0),
        [a for a in outer if a is not rows],
        speed=5,
    )


def _narrow(width: int, axes: list[_Axis]) -> _Way | None:
    """Where rows are too short for a loop of their own."""
    if len(axes) < 2 or axes[-1].size > NARROW or axes[-2].size < NARROW:
        return None
    *outer, rows, inner = axes
    packed = inner.target == 1 and rows.target == inner.size
    return _Way(
        f"make_narrow({width}, {inner.size}, {_fixed(rows.source)}, {packed})",
        rows.size,
        (0, 0, rows.source, rows.target, inner.source, inner.target),
        outer,
        speed=3,
    )


def _rows(width: int, axes: list[_Axis]) -> _Way:
    """Row by row; a long row is cut into several, so that threads can share it."""
    *outer, inner = axes
    if inner.size > 2 * LONG_ROW or not outer:
        size = min(inner.size, LONG_ROW)
        rows = _Axis(-(-inner.size // size), size * inner.source, size * inner.target)
        length = inner.size
    else:
        size, rows = inner.size, outer.pop()
        length = rows.size * size
    step, packed = _fixed(inner.source), inner.target == 1
    return _Way(
        f"make_rows({width}, {step}, {1 if packed else None})",
        rows.size,
        (size, length, rows.source, rows.target, inner.source, inner.target),
        outer,
        speed=5 if packed and step is not None else width,
    )


def _fixed(step: int) -> int | None:
    """A stride that is worth a kernel of its own; None: it is an argument."""
    return step if step in FIXED_STEPS else None


def lower_concat(emit: Emitter, op: Any, operands: Sequence[Layout], result: Layout) -> bool:
    """Each operand is copied to its slice of the result."""
    axis = op.axis % len(result.shape)
    step, start = result.strides[axis], result.offset
    for x in operands:
        lower_copy(emit, x, replace(result, offset=start, shape=x.shape))
        start += x.shape[axis] * step
    return True


def lower_pad(emit: Emitter, op: Any, operands: Sequence[Layout], result: Layout) -> bool:
    """See `pad_into`."""
    (x,) = operands
    pad_into(emit, x, op.margins(len(x.shape)), op.value, result)
    return True


def pad_into(
    emit: Emitter,
    x: Layout,
    margins: Sequence[tuple[int, int, int]],
    value: float,
    result: Layout,
) -> None:
    """What is kept of `x` is copied; before that, if anything is added, all is filled.

    Args:
        emit: Where calls go.
        x: The operand.
        margins: (low, high, interior) of each axis, as in the op `pad`.
        value: What is added.
        result: Where it goes; of the shape that the margins give.
    """
    source, target = x, result
    for axis, (low, _, interior) in enumerate(margins):
        step = interior + 1
        first = max(0, -(low // step))  # the least i with low + i * step >= 0
        last = min(x.shape[axis], -((low - result.shape[axis]) // step))
        count = max(0, last - first)
        source = _along(source, axis, first, count, 1)
        target = _along(target, axis, low + first * step, count, step)
    if source.type.size < result.type.size:
        lower_fill(emit, value, result)
    lower_copy(emit, source, target)


def _along(x: Layout, axis: int, start: int, count: int, step: int) -> Layout:
    """`count` places of one axis, `step` apart."""
    stride = x.strides[axis]
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    strides = (*x.strides[:axis], stride * step, *x.strides[axis + 1 :])
    return replace(x, offset=x.offset + start * stride, shape=shape, strides=strides)


LOWERINGS = {"concat": lower_concat, "pad": lower_pad}
