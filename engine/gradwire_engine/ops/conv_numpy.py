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
from typing import Any

import numpy as np

from .conv_geometry import Blocks, Geometry
from .window_numpy import CACHE_BYTES, trailing

Array = np.ndarray[Any, Any]


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
    # Along an axis of one place nothing is stepped over, and the step may be beyond any memory.
    across = (s * d if k > 1 else 0 for s, d, k in zip(steps, g.dilate_w, g.kernel, strict=True))
    along = (s * d if k > 1 else 0 for s, d, k in zip(steps, g.strides, g.out, strict=True))
    return np.lib.stride_tricks.as_strided(
        x,
        (*x.shape[:3], *g.kernel, *g.out),
        (*x.strides[:3], *across, *along),
        writeable=False,
    )


def _ranges(total: int, step: int) -> list[slice]:
    return [slice(i, min(i + step, total)) for i in range(0, total, step)]


def _columns(x: Array, w: Array, g: Geometry) -> Array:
    if g.innermost == "channels":
        w = np.moveaxis(np.ascontiguousarray(np.moveaxis(w, 2, -1)), -1, 2)
    windows = _windows(_padded(x, g, g.innermost == "channels"), g)
    block = g.blocks(x.itemsize)
    inner = g.places // g.out[0]
    whole = block == Blocks(g.samples, g.out[0], g.channels, g.kernel[0])
    y = np.empty((0 if whole else g.samples, g.groups, g.filters, g.out[0], inner), dtype=x.dtype)
    for samples, rows in itertools.product(
        _ranges(g.samples, block.samples), _ranges(g.out[0], block.rows)
    ):
        part = windows[(samples, *(slice(None),) * (2 + len(g.kernel)), rows)]
        total: Array | None = None
        for channels, kernel_rows in itertools.product(
            _ranges(g.channels, block.channels), _ranges(g.kernel[0], block.kernel_rows)
        ):
            cut = np.index_exp[:, :, channels, kernel_rows]
            product = _column_product(part[cut], w[cut], g)
            total = product if total is None else np.add(total, product, out=total)
        assert total is not None
        count, height = part.shape[0], part.shape[3 + len(g.kernel)]
        if g.joined:
            total = total.reshape(g.groups, g.filters, count, height, inner)
            total = total.transpose(2, 0, 1, 3, 4)
        else:
            total = total.reshape(count, g.groups, g.filters, height, inner)
        if whole:
            return np.ascontiguousarray(total)
        y[samples, :, :, rows] = total
    return y


def _column_product(windows: Array, w: Array, g: Geometry) -> Array:
    """The product of one block: [groups, O, samples * places], or a sample first if not joined.

    Here the columns are copied; they are gone when this returns.
    """
    rank = len(g.kernel)
    cells, places = range(3, 3 + rank), range(3 + rank, 3 + 2 * rank)
    # Both sides list what is summed in the same order.
    summed = (*cells, 2) if g.innermost == "channels" else (2, *cells)
    depth = math.prod(w.shape[2:])
    weights = w.transpose(0, 1, *summed).reshape(g.groups, g.filters, depth)
    columns: Array
    if g.innermost == "places" and not g.joined:
        columns = windows.reshape(len(windows), g.groups, depth, -1)
    elif g.innermost == "places":
        columns = windows.transpose(1, *summed, 0, *places).reshape(g.groups, depth, -1)
    elif g.joined:
        columns = windows.transpose(1, 0, *places, *summed).reshape(g.groups, -1, depth)
        columns = columns.swapaxes(1, 2)
    else:
        columns = windows.transpose(0, 1, *places, *summed)
        columns = columns.reshape(len(windows), g.groups, -1, depth).swapaxes(2, 3)
    return np.asarray(np.matmul(weights, columns))


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
    y: Array = np.zeros((g.samples, g.groups, g.filters, *g.out), dtype=x.dtype)
    offsets = list(np.ndindex(*g.kernel))
    count, width = g.shift_blocks(x.itemsize)
    for samples, cells in itertools.product(_ranges(g.samples, count), _ranges(g.offsets, width)):
        block = weights[:, cells].reshape(g.groups, -1, g.channels)
        shape = (-1, g.groups, cells.stop - cells.start, g.filters, *g.size)
        products = np.matmul(block, flat[samples]).reshape(shape)
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
