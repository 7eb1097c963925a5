"""A convolution as the kernels of `kernels.conv` see it: axes, tiles, and both as words.

Everything about a call that depends on sizes is here; `conv_cuts` chooses among the possibilities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ...ir import ITEMSIZE

ROWS = 4
"""Filters of a block."""

WIDTHS = {4: (3, 2), 3: (4, 2), 2: (6, 2), 1: (8, 3)}
"""How wide blocks of so many filters are, in vectors or cells; what is left is done one by one."""

RUN = 3
"""Cells that are taken together where they lie next to each other in signal and weights."""

LANES = {"float32": 8, "float64": 4}
"""Vector lanes that plans reckon with; kernels have those of the machine, at most twice as many."""

PRODUCT_PANELS, WEIGHTS_PANELS = ROWS, ROWS + 1
"""Panels in the scratch memory: one for each filter of a block, and a mask."""

LINE_BYTES = 64

(
    RANK,
    GROUPS,
    CHANNELS,
    FILTERS,
    CELLS,
    RUN_CELLS,
    X_GROUP,
    X_CHANNEL,
    W_GROUP,
    W_FILTER,
    Y_GROUP,
    Y_FILTER,
    FILTER_SLICES,
    CHANNEL_SLICES,
    TILES,
    PITCH,
    LINE,
    LINES,
    INPUT_ROWS,
    OUTPUT_ROWS,
    SCRATCH,
    PANEL_AT,
    TABLES_AT,
    AXIS,
) = range(10, 34)
"""Words after the operands x, w, y, table and scratch.

The number of axes and the sizes, CELLS of the kernel of one channel, of which each entry of the
table of `make_product` stands for RUN_CELLS; strides in elements; into how many slices filters and
channels are cut for chunks, and the places into tiles. Of the scratch memory: elements from one
channel to the next, of a line of neighbouring outputs and how many lines, rows of signal and of
outputs; bytes in all, and where the panel and the tables begin.
"""

(
    SIZE,
    COUNT,
    TILE,
    TILES_ALONG,
    TILE_UNIT,
    FIRST,
    STRIDE,
    EXTENT,
    INPUT_UNIT,
    OUTPUT_UNIT,
    X,
    Y,
    STEP,
    PHASE,
    LINE_UNIT,
    AXIS_WORDS,
) = range(16)
"""Words from AXIS on, for each axis, the one that lies innermost in the scratch memory last.

Sizes of x and y; outputs of a tile and how many tiles; the place in x that output 0 and cell 0
meet; places from one output to the next; places of x that a tile sees; strides of x and y. Output
p and cell k of a tile lie STEP * (u // STRIDE) + PHASE * (u % STRIDE) elements into a channel, for
u = p * STRIDE + k. A row, tile or line number divided by the unit and taken modulo the size is the
place along the axis; LINE_UNIT is 0 if the axis lies within the lines.
"""


@dataclass(frozen=True)
class Axis:
    """One axis of places.

    Attributes:
        size: Places of x.
        count: Places of y.
        cells: Places of w.
        first: The place of x that place 0 of y and cell 0 meet; may lie outside.
        stride: Places of x from one place of y to the next.
        dilation: Places of x from one cell to the next.
        x: Stride in x, in elements; `y` and `w` likewise.
    """

    size: int
    count: int
    cells: int
    first: int
    stride: int
    dilation: int
    x: int
    y: int
    w: int

    @property
    def reach(self) -> int:
        """Places of x that one output sees, from the first to the last, and at least one."""
        return max(self.cells - 1, 0) * self.dilation + 1


@dataclass(frozen=True)
class Strides:
    """Strides of one tensor along groups and along its channels or filters, in elements."""

    group: int
    each: int


@dataclass(frozen=True)
class Problem:
    """Three tensors that are tied by a convolution, of which one is to be computed.

    Attributes:
        axes: The samples (an axis with one cell) and the spatial axes.
        w_channel: The stride of w along channels, where `w` tells that along filters.
    """

    dtype: str
    groups: int
    channels: int
    filters: int
    axes: tuple[Axis, ...]
    x: Strides
    w: Strides
    y: Strides
    w_channel: int

    @property
    def cells(self) -> int:
        """Kernel cells of one channel."""
        return math.prod(a.cells for a in self.axes)

    @property
    def work(self) -> int:
        """Multiplications in all."""
        places = math.prod(a.count for a in self.axes)
        return self.groups * self.filters * self.channels * self.cells * places

    @property
    def cycles(self) -> float:
        """What the multiplications alone cost one thread, two vectors at a time."""
        return self.work / (2 * LANES[self.dtype])


def simplified(axes: Sequence[Axis]) -> tuple[Axis, ...]:
    """The same places with fewer and simpler axes.

    An axis with one cell has no use for a stride, and two such axes are one where they lie as one.
    """
    found: list[Axis] = []
    for axis in axes:
        if axis.cells == 1 and axis.stride > 1 and axis.first == 0:
            size = -(-axis.size // axis.stride)
            axis = replace(axis, size=size, stride=1, x=axis.x * axis.stride)
        if axis.cells == 1 and axis.stride == 1 and axis.first == 0 and axis.count <= axis.size:
            axis = replace(axis, size=axis.count, dilation=1)
            if axis.count == 1:
                continue
            if found and _free(found[-1]) and _continues(found[-1], axis):
                outer = found.pop()
                count = outer.count * axis.count
                axis = replace(axis, size=count, count=count)
        found.append(axis)
    return tuple(found) or (Axis(1, 1, 1, 0, 1, 1, 0, 0, 0),)


def _free(axis: Axis) -> bool:
    return axis.cells == 1 and axis.stride == 1 and axis.first == 0 and axis.count == axis.size


def _continues(outer: Axis, inner: Axis) -> bool:
    return outer.x == inner.x * inner.size and outer.y == inner.y * inner.count


@dataclass(frozen=True)
class Tiling:
    """A problem cut into tiles.

    Attributes:
        axes: In the order in which they lie in scratch memory, outermost first.
        tile: Outputs of a tile along each of them.
        flat: How many of the last axes make one line, in which what lies between rows is computed
            too, and dropped.
    """

    problem: Problem
    axes: tuple[Axis, ...]
    tile: tuple[int, ...]
    flat: int

    @cached_property
    def extents(self) -> tuple[int, ...]:
        """Places of x that a tile sees along each axis."""
        return tuple(
            (t - 1) * a.stride + a.reach for t, a in zip(self.tile, self.axes, strict=True)
        )

    @cached_property
    def along(self) -> tuple[int, ...]:
        """How many tiles there are along each axis."""
        return tuple(-(-a.count // t) for t, a in zip(self.tile, self.axes, strict=True))

    @cached_property
    def tiles(self) -> int:
        """How many tiles there are."""
        return math.prod(self.along)

    @cached_property
    def steps(self) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        """STEP and PHASE for each axis, and the elements of one channel."""
        rank, extents = len(self.axes), self.extents
        steps, phases = [0] * rank, [0] * rank
        size = 1
        for a in reversed(range(rank - self.flat, rank)):
            steps[a] = size
            size *= -(-extents[a] // self.axes[a].stride)
        if self.flat > 1:
            size += 2 * LANES[self.problem.dtype]  # copied rows may run over
        for a in reversed(range(rank - self.flat, rank)):
            phases[a] = size
            size *= min(self.axes[a].stride, extents[a])
        for a in reversed(range(rank - self.flat)):
            phases[a], steps[a] = size, size * self.axes[a].stride
            size *= extents[a]
        return tuple(steps), tuple(phases), size

    @cached_property
    def line(self) -> int:
        """Elements of a line of outputs."""
        inner = slice(len(self.axes) - self.flat, None)
        steps, _, _ = self.steps
        return 1 + sum((t - 1) * s for t, s in zip(self.tile[inner], steps[inner], strict=True))

    @cached_property
    def lines(self) -> int:
        """How many lines a tile has."""
        return math.prod(self.tile[: len(self.axes) - self.flat])

    @cached_property
    def pitch(self) -> int:
        """Elements from one channel to the next: an odd number of cache lines, not to collide."""
        _, _, size = self.steps
        line = LINE_BYTES // ITEMSIZE[self.problem.dtype]
        return (-(-size // line) | 1) * line

    @cached_property
    def vectors(self) -> int:
        """Vectors of outputs of a tile."""
        return self.lines * -(-self.line // LANES[self.problem.dtype])

    @cached_property
    def input_rows(self) -> int:
        """Rows of x, along the last axis, that a tile sees in one channel."""
        return math.prod(self.extents[:-1])

    @cached_property
    def output_rows(self) -> int:
        """Rows of outputs of a tile, for one filter."""
        return math.prod(self.tile[:-1])

    def places(self, channels: int, panels: int) -> tuple[int, int, int]:
        """Where panels and tables begin in the scratch memory, and its size, in bytes."""
        item, lanes = ITEMSIZE[self.problem.dtype], LANES[self.problem.dtype]
        panel_at = _whole((channels * self.pitch + 2 * lanes) * item)
        panel = self.lines * -(-self.line // (2 * lanes)) * 2 * lanes
        tables_at = _whole(panel_at + panels * panel * item)
        entries = len(self.axes) + 2 * self.input_rows + 2 * self.output_rows + self.vectors
        return panel_at, tables_at, _whole(tables_at + 8 * entries)

    @cached_property
    def pack_cycles(self) -> float:
        """What it costs to copy the signal of one channel of a tile."""
        inner = self.axes[-1]
        each = 0.5 if inner.x == 1 and inner.stride == 1 else 1.0 if inner.x == 1 else 3.0
        return self.input_rows * (30 + each * self.extents[-1])

    def copy_cycles(self, step: int) -> float:
        """What it costs to copy a tile's outputs of one filter; `step` is the stride of y."""
        return self.output_rows * (15 + (0.5 if step == 1 else 6.0) * self.tile[-1])


@dataclass(frozen=True)
class Cut:
    """A tiling, and the slices into which filters and channels are cut for it."""

    tiling: Tiling
    filter_slices: int
    channel_slices: int
    iterations: int
    cycles: float

    def words(self, panels: int) -> list[int]:
        """The words of a call; `panels` counts those in the scratch memory."""
        t, p = self.tiling, self.tiling.problem
        panel_at, tables_at, nbytes = t.places(-(-p.channels // self.channel_slices), panels)
        head = [
            len(t.axes),
            p.groups,
            p.channels,
            p.filters,
            p.cells,
            self.run,
            p.x.group,
            p.x.each,
            p.w.group,
            p.w.each,
            p.y.group,
            p.y.each,
            self.filter_slices,
            self.channel_slices,
            t.tiles,
            t.pitch,
            t.line,
            t.lines,
            t.input_rows,
            t.output_rows,
            nbytes,
            panel_at,
            tables_at,
        ]
        steps, phases, _ = t.steps
        for i, axis in enumerate(t.axes):
            outer = i < len(t.axes) - t.flat
            head += [
                axis.size,
                axis.count,
                t.tile[i],
                t.along[i],
                math.prod(t.along[i + 1 :]),
                axis.first,
                axis.stride,
                t.extents[i],
                math.prod(t.extents[i + 1 : -1]),
                math.prod(t.tile[i + 1 : -1]),
                axis.x,
                axis.y,
                steps[i],
                phases[i],
                math.prod(t.tile[i + 1 : len(t.axes) - t.flat]) if outer else 0,
            ]
        return head

    @property
    def run(self) -> int:
        """How many cells an entry of the table stands for: `RUN`, or 1."""
        inner = self.tiling.axes[-1]
        beside = inner.stride == inner.dilation == inner.w == 1
        return RUN if beside and inner.cells % RUN == 0 < inner.cells else 1

    def table(self, run: int = 1) -> np.ndarray[Any, Any]:
        """For every channel and cell, its element in the scratch memory and in w: int64 [*, 2].

        Only the first of each `run` cells, which follow one another.
        """
        t, p = self.tiling, self.tiling.problem
        steps, phases, _ = t.steps
        channels = np.arange(p.channels, dtype=np.int64)
        entries = np.stack([channels * t.pitch, channels * p.w_channel], axis=-1)
        for axis, step, phase in zip(t.axes, steps, phases, strict=True):
            cells = np.arange(axis.cells, dtype=np.int64)
            place = cells * axis.dilation
            held = place // axis.stride * step + place % axis.stride * phase
            entries = entries[..., None, :] + np.stack([held, cells * axis.w], axis=-1)
        return entries.reshape(-1, 2)[::run]


def _whole(nbytes: int) -> int:
    return -(-nbytes // LINE_BYTES) * LINE_BYTES
