"""The sizes of a convolution, and what follows from them: method, blocks, phases, memory.

How each method runs is in `conv_numpy`; here is which one runs, and on what.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from .window_numpy import CACHE_BYTES

Sizes = tuple[int, ...]

BLOCK_BYTES = 8 << 20
"""Aimed size of a block of columns: large enough for BLAS, small enough to stay near the cores."""
MANY_PLACES = 128
"""From so many output places a sample is worth a product of its own; below, samples are joined."""
RUN_COST = 24.0
"""What starting to copy a run of elements costs, in elements."""
TURN_COST = 6.0
"""What copying an element to another axis order costs, in elements of a plain copy."""


@dataclass(frozen=True)
class Blocks:
    """Sizes of one block of columns along the axes that are cut."""

    samples: int
    rows: int
    channels: int
    kernel_rows: int


@dataclass(frozen=True)
class Phase:
    """Along one axis: outputs that see the same kernel cells, of an operand without dilation."""

    outputs: slice
    cells: slice
    count: int  # of outputs
    width: int  # of cells
    first: int  # input place that the first output's first cell reads; may lie outside
    stride: int
    dilation: int

    @property
    def reach(self) -> int:
        """One past the last input place that is read, counted from `first`."""
        return (self.count - 1) * self.stride + (self.width - 1) * self.dilation + 1


@dataclass(frozen=True)
class Geometry:
    """Sizes of one convolution; per-axis entries are those of the spatial axes."""

    samples: int
    groups: int
    channels: int  # of x, in one group
    filters: int  # of w, in one group
    size: Sizes
    kernel: Sizes
    strides: Sizes
    low: Sizes
    high: Sizes
    dilate_x: Sizes
    dilate_w: Sizes

    @cached_property
    def out(self) -> Sizes:
        """Output sizes."""
        axes = zip(
            self.size,
            self.kernel,
            self.strides,
            self.low,
            self.high,
            self.dilate_x,
            self.dilate_w,
            strict=True,
        )
        return tuple(
            (extent(n, dx) + lo + hi - extent(k, dw)) // s + 1 for n, k, s, lo, hi, dx, dw in axes
        )

    @cached_property
    def covered(self) -> Sizes:
        """How far, from the start of the padded operand, the last window reaches."""
        axes = zip(self.out, self.strides, self.kernel, self.dilate_w, strict=True)
        return tuple((o - 1) * s + extent(k, dw) for o, s, k, dw in axes)

    @cached_property
    def needs_padding(self) -> bool:
        """Whether windows read cells that are not in the operand."""
        axes = zip(self.low, self.covered, self.size, strict=True)
        return any(lo > 0 or c - lo > n for lo, c, n in axes)

    @cached_property
    def places(self) -> int:
        """Outputs of one filter on one sample."""
        return math.prod(self.out)

    @cached_property
    def offsets(self) -> int:
        """Kernel cells of one channel."""
        return math.prod(self.kernel)

    @cached_property
    def method(self) -> str:
        """``columns``, ``shifts``, ``depthwise`` or ``phases``."""
        if any(d > 1 and n > 1 for d, n in zip(self.dilate_x, self.size, strict=True)):
            return "phases"
        if self.offsets > self.places:
            return "columns"
        if self.channels == 1 and self.filters < 4 and self.groups > 1:
            return "depthwise"
        narrow = 4 * self.filters <= self.channels and self.offsets > 1
        return "shifts" if narrow and max(self.strides) == 1 else "columns"

    @cached_property
    def innermost(self) -> str:
        """What lies innermost in the columns: ``places``, ``cells`` or ``channels``."""
        total = self.samples * self.groups * self.channels * self.places * self.offsets
        along: float = self.out[-1] if self.strides[-1] == 1 else self.out[-1] / 2
        across: float = self.kernel[-1] if self.dilate_w[-1] == 1 else 1
        turned = self.samples * self.groups * self.channels * math.prod(self.covered)
        turned += self.groups * self.filters * self.channels * self.offsets
        if self.offsets == 1:
            along = math.inf if max(self.strides) == 1 and not self.joined else along
        if self.places == 1 and max(self.dilate_w) == 1:
            across = math.inf
        costs = {
            "places": total * (1 + RUN_COST / along) if along < math.inf else 0,
            "cells": total * (1 + RUN_COST / across) if across < math.inf else 0,
            "channels": total * (1 + RUN_COST / (min(across, 1 << 20) * self.channels))
            + TURN_COST * turned,
        }
        return min(costs, key=lambda name: costs[name])

    @property
    def joined(self) -> bool:
        """Whether samples and places together are the columns of one product."""
        return self.samples == 1 or self.places < MANY_PLACES

    def blocks(self, itemsize: int) -> Blocks:
        """How the columns are cut so that a block is about `BLOCK_BYTES`."""
        one = max(self.groups * self.channels * self.offsets * self.places * itemsize, 1)
        samples, rows = self.samples, self.out[0]
        channels, kernel_rows = self.channels, self.kernel[0]
        if one * samples <= BLOCK_BYTES:
            return Blocks(samples, rows, channels, kernel_rows)
        if self.places >= self.offsets:
            samples = max(1, BLOCK_BYTES // one)
            rows = min(rows, max(1, rows * BLOCK_BYTES // one))
        else:
            channels = max(1, channels * BLOCK_BYTES // (one * samples))
            slab = one * samples // self.channels
            kernel_rows = min(kernel_rows, max(1, kernel_rows * BLOCK_BYTES // slab))
        return Blocks(samples, rows, channels, kernel_rows)

    def shift_blocks(self, itemsize: int) -> tuple[int, int]:
        """For *shifts*: how many samples and kernel cells are multiplied at once."""
        cell = max(self.groups * self.filters * math.prod(self.size) * itemsize, 1)
        cells = min(self.offsets, max(1, BLOCK_BYTES // cell))
        return min(self.samples, max(1, BLOCK_BYTES // (cell * cells))), cells

    def phases(self, axis: int) -> list[Phase]:
        """The phases along one axis; outputs that meet no kernel cell are in none."""
        step, across, low = self.strides[axis], self.dilate_w[axis], self.low[axis]
        spread = self.dilate_x[axis] if self.size[axis] > 1 else 1
        apart, turn = spread // math.gcd(step, spread), math.gcd(across, spread)
        every = spread // turn
        found = []
        for p in range(min(apart, self.out[axis])):
            # Cells k with k * across = low - p * step modulo spread fall on inputs, not on zeros.
            shift = low - p * step
            if shift % turn:
                continue
            k = shift // turn * pow(across // turn, -1, every) % every if every > 1 else 0
            if k >= self.kernel[axis]:
                continue
            found.append(
                Phase(
                    outputs=slice(p, None, apart),
                    cells=slice(k, None, every),
                    count=-((p - self.out[axis]) // apart),
                    width=-((k - self.kernel[axis]) // every),
                    first=(k * across - shift) // spread,
                    stride=step // math.gcd(step, spread),
                    dilation=across // turn,
                )
            )
        return found

    def margins(self, axis: int) -> tuple[int, int]:
        """Zeros in front and behind that hold what every phase along an axis reads."""
        phases = self.phases(axis)
        low = max((-f.first for f in phases), default=0)
        high = max((f.first + f.reach - self.size[axis] for f in phases), default=0)
        return max(low, 0), max(high, 0)

    def part(self, phases: tuple[Phase, ...], size: Sizes, shift: Sizes) -> Geometry:
        """The convolution of one phase, on an operand of `size` padded in front by `shift`."""
        low = tuple(-(f.first + s) for f, s in zip(phases, shift, strict=True))
        return Geometry(
            self.samples,
            self.groups,
            self.channels,
            self.filters,
            size,
            tuple(f.width for f in phases),
            tuple(f.stride for f in phases),
            low,
            tuple(f.reach - n - lo for f, n, lo in zip(phases, size, low, strict=True)),
            (1,) * len(size),
            tuple(f.dilation for f in phases),
        )

    def parts(self) -> Iterator[tuple[tuple[Phase, ...], Geometry]]:
        """Every combination of phases, on the operand padded by `margins`."""
        axes = range(len(self.size))
        margins = [self.margins(a) for a in axes]
        size = tuple(n + lo + hi for n, (lo, hi) in zip(self.size, margins, strict=True))
        shift = tuple(lo for lo, _ in margins)
        for phases in itertools.product(*(self.phases(a) for a in axes)):
            yield phases, self.part(phases, size, shift)

    def workspace(self, itemsize: int) -> int:
        """Bytes held beside operands and result, about."""
        inputs = self.samples * self.groups * self.channels
        outputs = self.samples * self.groups * self.filters
        if 0 in (self.places, inputs, outputs, *self.size):
            return 0
        if self.method == "phases":
            largest = 0
            padded = inputs * math.prod(self.size) * itemsize
            for _, part in self.parts():
                padded = inputs * math.prod(part.size) * itemsize
                held = part.workspace(itemsize) + outputs * part.places * itemsize
                largest = max(largest, held)
            return padded + largest
        if self.method == "shifts":
            samples, cells = self.shift_blocks(itemsize)
            products = samples * self.groups * self.filters * cells * math.prod(self.size)
            weights = self.groups * self.filters * self.channels * self.offsets
            return (products + weights) * itemsize
        copied = self.needs_padding or self.innermost == "channels"
        padded = inputs * math.prod(self.covered) * itemsize if copied else 0
        if self.method == "depthwise":
            return padded + CACHE_BYTES
        block = self.blocks(itemsize)
        columns = block.samples * self.groups * block.channels * self.offsets * self.places
        columns = columns * block.kernel_rows // self.kernel[0] * block.rows // self.out[0]
        return padded + (columns + outputs * self.places) * itemsize


def extent(size: int, dilation: int) -> int:
    """The length of an axis of `size` after dilation."""
    return (size - 1) * dilation + 1 if size else 0
