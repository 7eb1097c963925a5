"""How convolution runs in NumPy: in which form, over which blocks, in how much memory.

Everything ends in BLAS, and no loop runs over single samples, channels or windows.

- *columns*: windows are copied into a matrix (im2col) block by block, one product a block. Blocks
  run over samples and output rows, or over channels and kernel rows where the kernel is larger than
  the output (the gradient of a kernel). What lies innermost in the copy is chosen so that the runs
  that are copied in one piece are long.
- *shifts*: far fewer filters than channels: the products for all kernel cells come first, from the
  operand as it lies, and are shifted into place afterwards.
- *depthwise*: one channel a group: kernel offsets are summed elementwise, in cache-sized blocks.
- *phases*: the operand is dilated (transposed convolution). Outputs that lie a whole number of
  input steps apart meet the same kernel cells, so each such phase is a convolution without
  dilation, and no inserted zero is ever multiplied.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .window_numpy import trailing

Array = np.ndarray[Any, Any]
Sizes = tuple[int, ...]

BLOCK_BYTES = 8 << 20
"""Aimed size of a block of columns: large enough for BLAS, small enough to stay near the cores."""
CACHE_BYTES = 256 << 10
"""Aimed size of a block of elementwise sums."""
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
    """Along one axis: the outputs `outputs` see the kernel cells `cells` of an undilated operand."""

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
        along = self.out[-1] if self.strides[-1] == 1 else self.out[-1] / 2
        across = self.kernel[-1] if self.dilate_w[-1] == 1 else 1
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


def convolve(x: Array, w: Array, g: Geometry) -> Array:
    """Cross-correlation of x: [N, groups*I, *size] with w: [groups*O, I, *kernel]."""
    shape = (g.samples, g.groups * g.filters, *g.out)
    if x.size == 0 or w.size == 0 or 0 in shape:
        return np.zeros(shape, dtype=x.dtype)
    x = x.reshape(g.samples, g.groups, g.channels, *g.size)
    w = w.reshape(g.groups, g.filters, g.channels, *g.kernel)
    return _METHODS[g.method](x, w, g).reshape(shape)


def _phases(x: Array, w: Array, g: Geometry) -> Array:
    y = np.zeros((g.samples, g.groups, g.filters, *g.out), dtype=x.dtype)
    margins = [g.margins(a) for a in range(len(g.size))]
    if any(lo or hi for lo, hi in margins):
        size = (n + lo + hi for n, (lo, hi) in zip(g.size, margins, strict=True))
        padded = np.zeros((*x.shape[:3], *size), dtype=x.dtype)
        inside = (slice(lo, lo + n) for n, (lo, _) in zip(g.size, margins, strict=True))
        padded[trailing(*inside)] = x
        x = padded
    for phases, part in g.parts():
        target = y[trailing(*(f.outputs for f in phases))]
        cells = w[trailing(*(f.cells for f in phases))]
        target[...] = _METHODS[part.method](x, cells, part).reshape(target.shape)
    return y


def _padded(x: Array, g: Geometry, channels_last: bool = False) -> Array:
    """The undilated operand with its margins, cut to what the windows cover.

    The axis order is always [N, groups, I, *covered]; `channels_last` is about the memory only.
    """
    if not g.needs_padding and not channels_last:
        lead = (slice(None),) * 3
        return x[(*lead, *(slice(-lo, c - lo) for lo, c in zip(g.low, g.covered, strict=True)))]
    padded = np.zeros(
        (*x.shape[:2], *g.covered, x.shape[2]) if channels_last else (*x.shape[:3], *g.covered),
        dtype=x.dtype,
    )
    if channels_last:
        padded = np.moveaxis(padded, -1, 2)
    source, target = [], []
    for n, lo, c in zip(g.size, g.low, g.covered, strict=True):
        first = max(0, -lo)
        last = max(first, min(n, c - lo))
        source.append(slice(first, last))
        target.append(slice(first + lo, last + lo) if first < min(last, n) else slice(0))
    padded[trailing(*target)] = x[trailing(*source)]
    return padded


def _windows(x: Array, g: Geometry) -> Array:
    """View [N, groups, I, *kernel, *out] of a padded operand."""
    steps = x.strides[3:]
    across = (s * d for s, d in zip(steps, g.dilate_w, strict=True))
    along = (s * d for s, d in zip(steps, g.strides, strict=True))
    return np.lib.stride_tricks.as_strided(
        x,
        (*x.shape[:3], *g.kernel, *g.out),
        (*x.strides[:3], *across, *along),
        writeable=False,
    )


def _ranges(total: int, step: int) -> list[slice]:
    return [slice(i, min(i + step, total)) for i in range(0, total, step)]


def _columns(x: Array, w: Array, g: Geometry) -> Array:
    rank = len(g.kernel)
    channels_last = g.innermost == "channels"
    if channels_last:
        w = np.moveaxis(np.ascontiguousarray(np.moveaxis(w, 2, -1)), -1, 2)
    windows = _windows(_padded(x, g, channels_last), g)
    block = g.blocks(x.itemsize)
    inner = g.places // g.out[0]
    whole = block == Blocks(g.samples, g.out[0], g.channels, g.kernel[0])
    y = np.empty((0 if whole else g.samples, g.groups, g.filters, g.out[0], inner), dtype=x.dtype)
    places = tuple(range(3 + rank, 3 + 2 * rank))
    cells = tuple(range(3, 3 + rank))
    summed = (*cells, 2) if channels_last else (2, *cells)
    for samples, rows in itertools.product(
        _ranges(g.samples, block.samples), _ranges(g.out[0], block.rows)
    ):
        part = windows[(samples, *(slice(None),) * (2 + rank), rows)]
        count, height = part.shape[0], part.shape[3 + rank]
        total: Array | None = None
        for channels, kernel_rows in itertools.product(
            _ranges(g.channels, block.channels), _ranges(g.kernel[0], block.kernel_rows)
        ):
            cut = part[:, :, channels, kernel_rows]
            kernel = w[:, :, channels, kernel_rows]
            depth = cut.shape[2] * cut.shape[3] * (g.offsets // g.kernel[0])
            # Both sides list what is summed in the same order.
            weights = kernel.transpose(0, 1, *summed).reshape(g.groups, g.filters, depth)
            if g.innermost != "places":
                columns = cut.transpose(1, 0, *places, *summed).reshape(g.groups, -1, depth)
                product = np.matmul(weights, columns.swapaxes(1, 2))
            elif g.joined:
                columns = cut.transpose(1, *summed, 0, *places).reshape(g.groups, depth, -1)
                product = np.matmul(weights, columns)
            else:
                columns = cut.reshape(count, g.groups, depth, -1)
                product = np.matmul(weights, columns)
            total = product if total is None else np.add(total, product, out=total)
        assert total is not None
        if total.ndim == 3:
            total = total.reshape(g.groups, g.filters, count, height, inner)
            total = total.transpose(2, 0, 1, 3, 4)
        else:
            total = total.reshape(count, g.groups, g.filters, height, inner)
        if whole:
            return np.ascontiguousarray(total)
        y[samples, :, :, rows] = total
    return y


def _depthwise(x: Array, w: Array, g: Geometry) -> Array:
    padded = _padded(x, g)
    y = np.empty((g.samples, g.groups, g.filters, *g.out), dtype=x.dtype)
    planes = max(1, CACHE_BYTES // (g.filters * g.places * x.itemsize))
    groups = min(g.groups, planes)
    samples = min(g.samples, max(1, planes // groups))
    scratch = np.empty((samples, groups, g.filters, *g.out), dtype=x.dtype)
    ones = (1,) * len(g.out)
    for s, c in itertools.product(_ranges(g.samples, samples), _ranges(g.groups, groups)):
        total = y[s, c]
        product = scratch[: total.shape[0], : total.shape[1]]
        for i, offset in enumerate(np.ndindex(*g.kernel)):
            begin = (o * d for o, d in zip(offset, g.dilate_w, strict=True))
            views = (
                slice(b, b + (o - 1) * t + 1, t)
                for b, o, t in zip(begin, g.out, g.strides, strict=True)
            )
            weight = w[(c, slice(None), 0, *offset)].reshape(-1, g.filters, *ones)
            shifted = padded[(s, c, slice(None), *views)]
            if i == 0:
                np.multiply(shifted, weight, out=total)
            else:
                np.multiply(shifted, weight, out=product)
                np.add(total, product, out=total)
    return y


def _shifts(x: Array, w: Array, g: Geometry) -> Array:
    rank = len(g.size)
    order = (0, *range(3, 3 + rank), 1, 2)
    weights = w.transpose(order).reshape(g.groups, g.offsets, g.filters, g.channels)
    flat = x.reshape(g.samples, g.groups, g.channels, -1)
    y = np.zeros((g.samples, g.groups, g.filters, *g.out), dtype=x.dtype)
    offsets = list(np.ndindex(*g.kernel))
    count, width = g.shift_blocks(x.itemsize)
    for samples, cells in itertools.product(_ranges(g.samples, count), _ranges(g.offsets, width)):
        block = weights[:, cells].reshape(g.groups, -1, g.channels)
        products = np.matmul(block, flat[samples])
        products = products.reshape(-1, g.groups, cells.stop - cells.start, g.filters, *g.size)
        for i, offset in enumerate(offsets[cells]):
            sources, targets = [], []
            for n, o, k, d, lo in zip(g.size, g.out, offset, g.dilate_w, g.low, strict=True):
                # The input place q serves the output place q + lo - k * d.
                shift = lo - k * d
                first, last = max(0, -shift), min(n, o - shift)
                sources.append(slice(first, max(first, last)))
                targets.append(slice(first + shift, max(first, last) + shift))
            part = y[(samples, *(slice(None),) * 2, *targets)]
            np.add(part, products[(slice(None), slice(None), i, slice(None), *sources)], out=part)
    return y


_METHODS = {"columns": _columns, "shifts": _shifts, "depthwise": _depthwise, "phases": _phases}
