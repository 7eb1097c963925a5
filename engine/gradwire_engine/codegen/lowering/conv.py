"""Convolution: any `conv_general` is a product of signal and weights, or a gradient of weights.

An operand that is dilated (the gradient of a strided convolution with respect to its signal) is
taken apart into phases: outputs that lie a whole number of input places apart meet the same cells,
and each phase is a convolution without dilation, of strided views. A kernel larger than the output
(the gradient with respect to weights) changes roles: what `conv_general` calls kernel cells are
places to sum over, and its outputs are the cells.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...ops.conv_geometry import Geometry, Phase
from ...ops.linalg import DotGeneral
from ..emit import Emitter
from ..program import Kernel, Layout, Operand, chunks_for
from .conv_blocks import (
    PRODUCT_PANELS,
    RANK,
    SCRATCH,
    WEIGHTS_PANELS,
    Axis,
    Cut,
    Problem,
    Strides,
    simplified,
)
from .conv_cuts import cut_product, cut_weights
from .matmul import lower_dot

WASTEFUL = 1.5
"""How much slower than its multiplications alone the first way must be for a look at the other."""

MANY_FILTERS, MANY_PLACES = 16, 512
"""From so many filters and outputs of each on, weights are laid out anew if they lie badly."""

LONG_TABLE = 1 << 15
"""Entries of a table: the other way is not looked at if it has more."""

_MODULE = "gradwire_engine.codegen.kernels.conv"
_MULTIPLY_ADDS = {"float32": 30.0, "float64": 15.0}
"""About how many a thread does in a nanosecond."""


_MAKERS = ("make_product", "make_weights")


def _kernel(maker: str, dtype: str) -> Kernel:
    kin = tuple(f"from {_MODULE} import {m}\n\nkernel = {m}({dtype!r})\n" for m in _MAKERS)
    title = f"conv_general, {maker.removeprefix('make_')} {dtype}"
    return Kernel(kin[_MAKERS.index(maker)], title, kin)


_KERNELS = {
    (maker, dtype): _kernel(maker, dtype) for maker in _MAKERS for dtype in ("float32", "float64")
}


def lower_conv_general(emit: Emitter, op: Any, operands: Sequence[Layout], result: Layout) -> bool:
    """One call, or one for each phase of a dilated operand."""
    if 0 in result.shape:
        return True
    x, w = operands
    g: Geometry = op.geometry(x.type, w.type)
    if _as_dot(emit, g, x, w, result):
        return True
    if _scattered(g, w):
        w = emit.densify(w)
    for phases in itertools.product(*(_phases(g, a) for a in range(len(g.size)))):
        ways = [_product(g, phases, x, w, result), _weights(g, phases, x, w, result)]
        first, second = reversed(ways) if g.offsets > g.places else ways
        cut = first.cut(first.problem, emit.threads)
        wasteful = cut.cycles > WASTEFUL * first.problem.cycles / emit.threads
        if wasteful and second.problem.channels * second.problem.cells <= LONG_TABLE:
            other = second.cut(second.problem, emit.threads)
            if other.cycles < cut.cycles:
                first, cut = second, other
        _emit(emit, first, cut)
    return True


def _scattered(g: Geometry, w: Layout) -> bool:
    """Whether weights lie so badly, and are read so often, that a copy is worth its time.

    A kernel walks through the weights of a few filters at a time; those of one filter are far
    apart where `conv_general` exchanges filters and channels, for the gradient of a signal.
    """
    return (
        abs(w.strides[1]) > abs(w.strides[0])
        and g.offsets <= g.places
        and g.filters >= MANY_FILTERS
        and g.samples * g.places >= MANY_PLACES
    )


LOWERINGS = {"conv_general": lower_conv_general}


def _as_dot(emit: Emitter, g: Geometry, x: Layout, w: Layout, y: Layout) -> bool:
    """Emit a matrix product, if it is one: along every axis one cell, one output or one input."""
    # Axes of x and y, of x and w, and of w and y, by their sizes and their strides in both.
    places = [(g.samples, x.strides[0], y.strides[0])]
    summed = [(g.channels, x.strides[1], w.strides[1])]
    spread = [(g.filters, w.strides[0], y.strides[1])]
    x_offset, w_offset = x.offset, w.offset
    for a, (size, cells, out) in enumerate(zip(g.size, g.kernel, g.out, strict=True)):
        step, apart, low = g.strides[a], g.dilate_w[a], g.low[a]
        along_x, along_w, along_y = (layout.strides[2 + a] for layout in (x, w, y))
        if size > 1 and g.dilate_x[a] > 1:
            return False
        if 1 in (cells, out) and low <= 0 and g.covered[a] - low <= size:
            x_offset -= low * along_x
            if cells == 1:
                places.append((out, step * along_x, along_y))
            else:
                summed.append((cells, apart * along_x, along_w))
        elif size == 1 and low % apart == 0 == step % apart:
            # Output p meets cell (low - p * step) / apart, and only that.
            first, back = low // apart, step // apart
            if first >= cells or first < (out - 1) * back:
                return False
            w_offset += first * along_w
            spread.append((out, -back * along_w, along_y))
        else:
            return False

    def group(layout: Layout, offset: int, each: int, axes: list[tuple[int, int]]) -> Layout:
        sizes, strides = zip((g.groups, each), *axes, strict=True)
        return replace(layout, offset=offset, shape=sizes, strides=strides)

    left = [(n, along_x) for n, along_x, _ in (*places, *summed)]
    right = [(n, s) for n, s, _ in spread] + [(n, along_w) for n, _, along_w in summed]
    a_layout = group(x, x_offset, g.channels * x.strides[1], left)
    b_layout = group(w, w_offset, g.filters * w.strides[0], right)
    result = [(n, along_y) for n, _, along_y in (*places, *spread)]
    contract = (
        tuple(range(1 + len(places), 1 + len(left))),
        tuple(range(1 + len(spread), 1 + len(right))),
    )
    op = DotGeneral(contract=contract, batch=((0,), (0,)))
    y_layout = group(y, y.offset, g.filters * y.strides[1], result)
    return lower_dot(emit, op, [a_layout, b_layout], y_layout)


def _phases(g: Geometry, axis: int) -> list[Phase]:
    """The phases along an axis; outputs that meet no cell make phases too, to become zeros."""
    found = {phase.outputs.start: phase for phase in g.phases(axis)}
    spread = g.dilate_x[axis] if g.size[axis] > 1 else 1
    apart = spread // math.gcd(g.strides[axis], spread)
    out = g.out[axis]
    return [
        found.get(p)
        or Phase(slice(p, None, apart), slice(0, 0, 1), -((p - out) // apart), 0, 0, 1, 1)
        for p in range(min(apart, out))
    ]


@dataclass(frozen=True)
class _Way:
    """A way to compute some phases: signal, weights and product, and which of them is written."""

    maker: str
    cut: Callable[[Problem, int], Cut]
    problem: Problem
    tensors: tuple[Layout, Layout, Layout]
    written: int
    panels: int


def _product(g: Geometry, phases: Sequence[Phase], x: Layout, w: Layout, y: Layout) -> _Way:
    """Outputs as a product of signal and weights."""
    axes = [Axis(g.samples, g.samples, 1, 0, 1, 1, x.strides[0], y.strides[0], 0)]
    w, y = _parts(phases, w, y)
    for a, phase in enumerate(phases, start=2):
        axes.append(
            Axis(
                size=x.shape[a],
                count=phase.count,
                cells=phase.width,
                first=phase.first,
                stride=phase.stride,
                dilation=phase.dilation,
                x=x.strides[a],
                y=y.strides[a],
                w=w.strides[a],
            )
        )
    problem = Problem(
        dtype=x.dtype,
        groups=g.groups,
        channels=g.channels if all(phase.width for phase in phases) else 0,
        filters=g.filters,
        axes=simplified(axes),
        x=Strides(g.channels * x.strides[1], x.strides[1]),
        w=Strides(g.filters * w.strides[0], w.strides[0]),
        y=Strides(g.filters * y.strides[1], y.strides[1]),
        w_channel=w.strides[1],
    )
    return _Way("make_product", cut_product, problem, (x, w, y), 2, PRODUCT_PANELS)


def _weights(g: Geometry, phases: Sequence[Phase], x: Layout, w: Layout, y: Layout) -> _Way:
    """Outputs as gradients of weights.

    Channels of the operands are the samples of the problem, samples of x its channels.
    """
    axes = [Axis(g.channels, g.channels, 1, 0, 1, 1, x.strides[1], w.strides[1], 0)]
    w, y = _parts(phases, w, y)
    for a, phase in enumerate(phases, start=2):
        axes.append(
            Axis(
                size=x.shape[a],
                count=phase.width,
                cells=phase.count,
                first=phase.first,
                stride=phase.dilation,
                dilation=phase.stride,
                x=x.strides[a],
                y=w.strides[a],
                w=y.strides[a],
            )
        )
    problem = Problem(
        dtype=x.dtype,
        groups=g.groups,
        channels=g.samples,
        filters=g.filters,
        axes=simplified(axes),
        x=Strides(g.channels * x.strides[1], x.strides[0]),
        w=Strides(g.filters * y.strides[1], y.strides[1]),
        y=Strides(g.filters * w.strides[0], w.strides[0]),
        w_channel=y.strides[0],
    )
    return _Way("make_weights", cut_weights, problem, (x, y, w), 1, WEIGHTS_PANELS)


def _parts(phases: Sequence[Phase], w: Layout, y: Layout) -> tuple[Layout, Layout]:
    """The cells and the outputs of some phases."""
    for a, phase in enumerate(phases, start=2):
        w, y = _sliced(w, a, phase.cells, phase.width), _sliced(y, a, phase.outputs, phase.count)
    return w, y


def _sliced(layout: Layout, axis: int, part: slice, count: int) -> Layout:
    shape, strides = list(layout.shape), list(layout.strides)
    offset = layout.offset + part.start * strides[axis]
    shape[axis], strides[axis] = count, strides[axis] * part.step
    return replace(layout, offset=offset, shape=tuple(shape), strides=tuple(strides))


def _emit(emit: Emitter, way: _Way, cut: Cut) -> None:
    """Emit the call of a kernel."""
    problem = way.problem
    nanoseconds = 20_000 + problem.work / _MULTIPLY_ADDS[problem.dtype]
    chunks = chunks_for(cut.iterations, nanoseconds, emit.threads)
    words = cut.words(way.panels)
    table = Operand(emit.const(cut.table(cut.run if way.maker == "make_product" else 1)))
    scratch = Operand(emit.scratch(chunks * words[SCRATCH - RANK]))
    emit.call(
        _KERNELS[way.maker, problem.dtype],
        [*way.tensors, table, scratch],
        words,
        count=cut.iterations,
        chunks=chunks,
        writes=[way.written, 4],
    )
