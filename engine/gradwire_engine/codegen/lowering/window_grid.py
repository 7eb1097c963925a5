"""The geometry of sliding windows as tables, which the kernels in `kernels.window` read."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ops.base import Array
from ...ops.window_numpy import Grid


def piece_table(grid: Grid) -> tuple[Array, Array, Array]:
    """For each window row of a plane, what its pieces are: three arrays [window rows, pieces].

    Returns:
        Where the nearest real piece starts in the plane, which piece of the window that one is, and
        whether it is the piece itself. Where a window row is all padding the first two are -1.
    """
    start, which = np.zeros((1, 1), np.int64), np.zeros((1, 1), np.int64)
    real, any_real = np.ones((1, 1), np.bool_), np.ones((1, 1), np.bool_)
    for axis in range(grid.rank - 1):
        n, k = grid.size[axis], grid.kernel[axis]
        first = np.arange(grid.out[axis])[:, None] * grid.stride[axis] - grid.padding[axis]
        cell = first + np.arange(k)
        near = np.clip(cell, 0, n - 1)
        start = _pairs(start * n, near)
        which = _pairs(which * k, near - first)
        real = _pairs(real, cell == near, np.logical_and)
        any_real = _pairs(any_real, (first < n) & (first + k > 0), np.logical_and)
    start = np.where(any_real, start * grid.size[-1], -1)
    return start, np.where(any_real, which, -1), real & any_real


def cover_table(grid: Grid) -> tuple[Array, Array]:
    """For each row of cells of a plane, the window rows that cover it: two arrays [rows, ways].

    Returns:
        The window row in the plane, or -1; and which of its pieces the row of cells is, or -2.
    """
    window, piece = np.zeros((1, 1), np.int64), np.zeros((1, 1), np.int64)
    there = np.ones((1, 1), np.bool_)
    for axis in range(grid.rank - 1):
        k, s, out = grid.kernel[axis], grid.stride[axis], grid.out[axis]
        cell = np.arange(grid.size[axis])[:, None] + grid.padding[axis]
        at = cell // s - np.arange(-(-k // s))
        window = _pairs(window * out, at)
        piece = _pairs(piece * k, cell - at * s)
        there = _pairs(there, (cell - at * s < k) & (at >= 0) & (at < out), np.logical_and)
    return np.where(there, window, -1), np.where(there, piece, -2)


def band_table(grid: Grid, windows: int) -> Array:
    """Bands of rows of cells, each covered by about so many places along the first axis.

    Returns:
        An array [bands, 4]: first row and the one past the last, first window row and the one past
        the last of those that cover them.
    """
    if grid.rank == 1:
        return np.array([[0, 1, 0, 1]])
    cover, _ = cover_table(grid)
    deep, inner = grid.size[0], len(cover) // max(grid.size[0], 1)
    height = grid.stride[0] * windows
    bands = []
    for top in range(0, deep, height):
        rows = slice(top * inner, min(top + height, deep) * inner)
        met = cover[rows][cover[rows] >= 0]
        met = met if met.size else np.zeros(1, np.int64)
        bands.append((rows.start, rows.stop, met.min(), met.max() + 1))
    return np.array(bands, np.int64)


def _pairs(a: Array, b: Array, combine: Any = np.add) -> Array:
    """Combine every row and column of `a` with every one of `b`: [A, i] and [B, j] to [AB, ij]."""
    pairs: Array = combine(a[:, None, :, None], b[None, :, None, :])
    return pairs.reshape(len(a) * len(b), a.shape[1] * b.shape[1])
