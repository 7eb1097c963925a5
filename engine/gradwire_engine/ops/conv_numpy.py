"""How convolution runs in NumPy: which of four loops, over which blocks, in how much memory.

All of them end in BLAS and none loops over samples, channels or windows one by one.

- *columns*: windows are copied into a matrix (im2col) block by block, one product a block. Blocks
  run over samples and output rows, or over channels and kernel rows where the kernel is larger than
  the output (the gradient of a kernel).
- *depthwise*: one channel a group: kernel offsets are summed elementwise, in cache-sized blocks.
- *spread*: the operand is dilated (transposed convolution): for each kernel offset one product that
  is added to every stride-th output, so that no inserted zero is ever multiplied.
- *gathered*: dilated, and the kernel is larger than the output: one product for each output place.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
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
FEW_PLACES = 128
"""Below so many output places the samples join them, so that products stay wide."""


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
        return tuple(
            (extent(n, dx) + lo + hi - extent(k, dw)) // s + 1
            for n, k, s, lo, hi, dx, dw in zip(
                self.size,
                self.kernel,
                self.strides,
                self.low,
                self.high,
                self.dilate_x,
                self.dilate_w,
                strict=True,
            )
        )

    @cached_property
    def covered(self) -> Sizes:
        """How far, from the start of the padded operand, the last window reaches."""
        return tuple(
            (o - 1) * s + extent(k, dw)
            for o, s, k, dw in zip(self.out, self.strides, self.kernel, self.dilate_w, strict=True)
        )

    @cached_property
    def needs_padding(self) -> bool:
        """Whether windows read cells that are not in the operand."""
        return any(
            lo > 0 or c - lo > n for lo, c, n in zip(self.low, self.covered, self.size, strict=True)
        )

    @cached_property
    def method(self) -> str:
        """``columns``, ``depthwise``, ``spread`` or ``gathered``."""
        places, offsets = math.prod(self.out), math.prod(self.kernel)
        if any(d > 1 and n > 1 for d, n in zip(self.dilate_x, self.size, strict=True)):
            return "spread" if offsets <= places else "gathered"
        if self.channels == 1 and self.filters < 4 and offsets <= places and self.groups > 1:
            return "depthwise"
        return "columns"

    def workspace(self, itemsize: int) -> int:
        """Bytes held beside operands and result, about."""
        places, offsets = math.prod(self.out), math.prod(self.kernel)
        inputs = self.samples * self.groups * self.channels
        outputs = self.samples * self.groups * self.filters
        if 0 in (places, offsets, inputs, outputs, *self.size):
            return 0
        padded = inputs * math.prod(self.covered) if self.needs_padding else 0
        if self.method == "columns":
            block = self.blocks(itemsize)
            columns = block.samples * self.groups * block.channels * offsets * places
            columns = columns * block.kernel_rows // self.kernel[0] * block.rows // self.out[0]
            return (padded + columns + outputs * places) * itemsize
        if self.method == "depthwise":
            return padded * itemsize + CACHE_BYTES
        inside = math.prod(self.size)
        if self.method == "spread":
            return (inputs + outputs) * inside * itemsize + outputs * places * itemsize
        weights = self.groups * self.filters * self.channels
        return (inputs + weights) * inside * itemsize

    def blocks(self, itemsize: int) -> Blocks:
        """How the columns are cut so that a block is about `BLOCK_BYTES`."""
        places, offsets = math.prod(self.out), math.prod(self.kernel)
        one = max(self.groups * self.channels * offsets * places * itemsize, 1)
        samples, rows, channels, kernel_rows = (
            self.samples,
            self.out[0],
            self.channels,
            self.kernel[0],
        )
        if one * samples <= BLOCK_BYTES:
            return Blocks(samples, rows, channels, kernel_rows)
        if places >= offsets:
            samples = max(1, BLOCK_BYTES // one)
            rows = min(rows, max(1, rows * BLOCK_BYTES // one))
        else:
            channels = max(1, channels * BLOCK_BYTES // (one * samples))
            slab = one * samples // self.channels
            kernel_rows = min(kernel_rows, max(1, kernel_rows * BLOCK_BYTES // slab))
        return Blocks(samples, rows, channels, kernel_rows)


@dataclass(frozen=True, slots=True)
class Blocks:
    """Sizes of one block of columns along the axes that are cut."""

    samples: int
    rows: int
    channels: int
    kernel_rows: int


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
    run = {"columns": _columns, "depthwise": _depthwise, "spread": _spread, "gathered": _gathered}
    return run[g.method](x, w, g).reshape(shape)


def _padded(x: Array, g: Geometry) -> Array:
    """The undilated operand with its margins, cut to what the windows cover."""
    if not g.needs_padding:
        lead = (slice(None),) * 3
        return x[(*lead, *(slice(-lo, c - lo) for lo, c in zip(g.low, g.covered, strict=True)))]
    padded = np.zeros((*x.shape[:3], *g.covered), dtype=x.dtype)
    source, target = [], []
    for n, lo, c in zip(g.size, g.low, g.covered, strict=True):
        first, last = max(0, -lo), max(0, -lo, min(n, c - lo))
        source.append(slice(first, last))
        target.append(slice(max(0, first + lo), max(0, last + lo)))
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


def _ranges(total: int, step: int) -> Iterator[slice]:
    return (slice(i, min(i + step, total)) for i in range(0, total, step))


def _columns(x: Array, w: Array, g: Geometry) -> Array:
    windows = _windows(_padded(x, g), g)
    places = math.prod(g.out)
    block = g.blocks(x.itemsize)
    if g.samples > 1 and places < FEW_PLACES:
        return _joined_columns(windows, w, g, block)
    inner = places // g.out[0]
    y = np.empty((g.samples, g.groups, g.filters, g.out[0], inner), dtype=x.dtype)
    row_axis = 3 + len(g.kernel)
    for samples in _ranges(g.samples, block.samples):
        for rows in _ranges(g.out[0], block.rows):
            part = windows[(samples, *(slice(None),) * (row_axis - 1), rows)]
            target = y[samples, :, :, rows]
            total: Array | None = None
            for channels, kernel_rows in itertools.product(
                _ranges(g.channels, block.channels), _ranges(g.kernel[0], block.kernel_rows)
            ):
                cut = part[:, :, channels, kernel_rows]
                columns = cut.reshape(*cut.shape[:2], -1, target.shape[3] * inner)
                weights = w[:, :, channels, kernel_rows].reshape(g.groups, g.filters, -1)
                product = np.matmul(weights, columns)
                total = product if total is None else np.add(total, product, out=total)
            assert total is not None
            if target.shape == y.shape:
                return total
            target[...] = total.reshape(target.shape)
    return y


def _joined_columns(windows: Array, w: Array, g: Geometry, block: Blocks) -> Array:
    """As `_columns` with few places a sample: samples and places together are the columns."""
    places = math.prod(g.out)
    rank = len(g.kernel)
    order = (1, 2, *range(3, 3 + rank), 0, *range(3 + rank, 3 + 2 * rank))
    turned = windows.transpose(order)
    y = np.empty((g.samples, g.groups, g.filters, places), dtype=w.dtype)
    for samples in _ranges(g.samples, block.samples):
        total: Array | None = None
        for channels, kernel_rows in itertools.product(
            _ranges(g.channels, block.channels), _ranges(g.kernel[0], block.kernel_rows)
        ):
            cut = turned[
                (slice(None), channels, kernel_rows, *(slice(None),) * (rank - 1), samples)
            ]
            columns = cut.reshape(g.groups, -1, cut.shape[2 + rank] * places)
            weights = w[:, :, channels, kernel_rows].reshape(g.groups, g.filters, -1)
            product = np.matmul(weights, columns)
            total = product if total is None else np.add(total, product, out=total)
        assert total is not None
        y[samples] = total.reshape(g.groups, g.filters, -1, places).transpose(2, 0, 1, 3)
    return y


def _depthwise(x: Array, w: Array, g: Geometry) -> Array:
    padded = _padded(x, g)
    y = np.empty((g.samples, g.groups, g.filters, *g.out), dtype=x.dtype)
    planes = max(1, CACHE_BYTES // (g.filters * math.prod(g.out) * x.itemsize))
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


def _meetings(
    step: int, count: int, other_step: int, other_count: int, shift: int
) -> tuple[slice, slice] | None:
    """Where ``i * step + shift = j * other_step`` for i < count, j < other_count; None: nowhere."""
    common = math.gcd(step, other_step)
    if shift % common:
        return None
    i_step, j_step = other_step // common, step // common
    # The least i that lands on a multiple of other_step: solve modulo i_step.
    start = -(shift // common) * pow(j_step, -1, i_step) % i_step if i_step > 1 else 0
    least = max(0, -(shift // step))  # i * step + shift >= 0
    start += -(-max(0, least - start) // i_step) * i_step
    last = min(count - 1, ((other_count - 1) * other_step - shift) // step)
    if last < start:
        return None
    n = (last - start) // i_step
    j = (start * step + shift) // other_step
    return slice(start, start + n * i_step + 1, i_step), slice(j, j + n * j_step + 1, j_step)


def _meeting_places(
    offset: Sequence[int],
    offset_steps: Sequence[int],
    sign: int,
    steps: Sequence[int],
    counts: Sequence[int],
    other_steps: Sequence[int],
    other_counts: Sequence[int],
    low: Sequence[int],
) -> tuple[list[slice], list[slice]] | None:
    """`_meetings` on every axis, with ``low + sign * offset * offset_step`` as the shift."""
    mine, others = [], []
    for axis, place in enumerate(offset):
        shift = low[axis] + sign * place * offset_steps[axis]
        met = _meetings(steps[axis], counts[axis], other_steps[axis], other_counts[axis], shift)
        if met is None:
            return None
        mine.append(met[0])
        others.append(met[1])
    return mine, others


def _spread(x: Array, w: Array, g: Geometry) -> Array:
    inside = math.prod(g.size)
    rank = len(g.size)
    # Samples run inside the channels, so that each product is one wide matrix per group.
    whole = np.ascontiguousarray(x.transpose(1, 2, 0, *range(3, 3 + rank)))
    flat = whole.reshape(g.groups, g.channels, -1)
    y = np.zeros((g.groups, g.filters, g.samples, *g.out), dtype=x.dtype)
    weights = np.ascontiguousarray(w.transpose(*range(3, 3 + rank), 0, 1, 2))
    for offset in np.ndindex(*g.kernel):
        met = _meeting_places(offset, g.dilate_w, -1, g.dilate_x, g.size, g.strides, g.out, g.low)
        if met is None:
            continue
        sources, targets = met
        kept = math.prod(len(range(*s.indices(n))) for s, n in zip(sources, g.size, strict=True))
        if 2 * kept >= inside:
            product = np.matmul(weights[offset], flat)
            product = product.reshape(g.groups, g.filters, g.samples, *g.size)[trailing(*sources)]
        else:
            cut = whole[trailing(*sources)]
            product = np.matmul(weights[offset], cut.reshape(g.groups, g.channels, -1))
            product = product.reshape(g.groups, g.filters, *cut.shape[2:])
        y[trailing(*targets)] += product
    if g.samples == 1:
        return y
    return np.ascontiguousarray(y.transpose(2, 0, 1, *range(3, 3 + rank)))


def _gathered(x: Array, w: Array, g: Geometry) -> Array:
    y = np.zeros((g.samples, g.groups, g.filters, *g.out), dtype=x.dtype)
    for place in np.ndindex(*g.out):
        met = _meeting_places(place, g.strides, -1, g.dilate_x, g.size, g.dilate_w, g.kernel, g.low)
        if met is None:
            continue
        seen, used = met
        values = x[trailing(*seen)].reshape(g.samples, g.groups, -1)
        weights = w[trailing(*used)].reshape(g.groups, g.filters, -1)
        product = np.matmul(weights, np.ascontiguousarray(values.transpose(1, 2, 0)))
        y[(slice(None), slice(None), slice(None), *place)] = product.transpose(2, 0, 1)
    return y
