"""How sliding windows run in NumPy: shifted views, one for each kernel offset or output place.

Whichever is fewer is looped over, so that neither a global window nor a long signal is slow.
Picking and adding back never materialise padding: an offset only touches places where it meets a
real cell.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Sizes = tuple[int, ...]
Slices = tuple[slice, ...]


def trailing(*parts: Any) -> Any:
    """An index of the last axes."""
    return (..., *parts)


def rows_and(*parts: Any) -> Any:
    """An index of the axes after the first."""
    return (slice(None), *parts)


@dataclass(frozen=True)
class Grid:
    """Windows over the last axes: one entry per spatial axis; `size` is that of the input."""

    size: Sizes
    kernel: Sizes
    stride: Sizes
    padding: Sizes

    @cached_property
    def out(self) -> Sizes:
        """The number of windows along each axis; below 1 where none fits."""
        return tuple(
            (n + 2 * p - k) // s + 1
            for n, k, s, p in zip(self.size, self.kernel, self.stride, self.padding, strict=True)
        )

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.size)

    @property
    def by_place(self) -> bool:
        """Whether there are fewer places than kernel offsets."""
        return math.prod(self.out) < math.prod(self.kernel)

    def place(self, axis: int, index: int) -> tuple[int, int]:
        """First and one past the last real cell of window `index`; empty ones give (0, 0)."""
        start = index * self.stride[axis] - self.padding[axis]
        first, last = max(0, start), min(self.size[axis], start + self.kernel[axis])
        return (first, last) if first < last else (0, 0)

    def meeting(self, axis: int, offset: int) -> tuple[slice, slice]:
        """The windows whose cell `offset` is real, and those cells."""
        step, shift = self.stride[axis], offset - self.padding[axis]
        first = max(0, -(shift // step))
        last = min(self.out[axis], (self.size[axis] - 1 - shift) // step + 1)
        count = max(0, last - first)
        if count == 0:
            return slice(0), slice(0)
        begin = first * step + shift
        return slice(first, last), slice(begin, begin + (count - 1) * step + 1, step)

    def offsets(self) -> Iterator[tuple[Sizes, Slices, Slices]]:
        """Every kernel offset in row-major order, with its windows and their cells."""
        met = [
            [self.meeting(axis, k) for k in range(count)] for axis, count in enumerate(self.kernel)
        ]
        for offset in np.ndindex(*self.kernel):
            pairs = [met[axis][k] for axis, k in enumerate(offset)]
            yield offset, tuple(p for p, _ in pairs), tuple(c for _, c in pairs)

    def places(self) -> Iterator[tuple[Sizes, Slices, Slices]]:
        """Every window that has real cells, with its real kernel offsets and those cells."""
        for place in np.ndindex(*self.out):
            offsets, cells = [], []
            for axis, index in enumerate(place):
                first, last = self.place(axis, index)
                start = index * self.stride[axis] - self.padding[axis]
                cells.append(slice(first, last))
                offsets.append(slice(first - start, last - start))
            if all(c.stop > c.start for c in cells):
                yield place, tuple(offsets), tuple(cells)


def windows(x: Array, grid: Grid) -> Array:
    """View [*lead, *kernel, *out] of x: [*lead, *size]; of a padded copy where there is padding."""
    lead = x.shape[: x.ndim - grid.rank]
    if any(grid.padding):
        shape = (n + 2 * p for n, p in zip(grid.size, grid.padding, strict=True))
        padded = np.zeros((*lead, *shape), dtype=x.dtype)
        inside = (slice(p, p + n) for n, p in zip(grid.size, grid.padding, strict=True))
        padded[trailing(*inside)] = x
        x = padded
    steps = x.strides[len(lead) :]
    return np.lib.stride_tricks.as_strided(
        x,
        (*lead, *grid.kernel, *grid.out),
        (
            *x.strides[: len(lead)],
            *steps,
            *(s * t for s, t in zip(steps, grid.stride, strict=True)),
        ),
        writeable=False,
    )


def overlap_add(w: Array, grid: Grid) -> Array:
    """The transpose of `windows`: every cell is the sum of its copies; padding is dropped."""
    lead = w.shape[: w.ndim - 2 * grid.rank]
    x = np.zeros((*lead, *grid.size), dtype=w.dtype)
    if 0 in w.shape or 0 in x.shape:
        return x
    whole = (slice(None),) * grid.rank
    if grid.by_place:
        for place, offsets, cells in grid.places():
            x[trailing(*cells)] += w[trailing(*offsets, *place)]
    else:
        for offset, places, cells in grid.offsets():
            x[trailing(*cells)] += w[trailing(*offset, *whole)][trailing(*places)]
    return x


def maximum(x: Array, grid: Grid) -> Array:
    """The largest real cell of each window; NaN wins, a window of padding only gives 0."""
    for axis in range(grid.rank):
        x = _axis_maximum(x, grid, axis)
    for axis in range(grid.rank):
        empty = [i for i in range(grid.out[axis]) if grid.place(axis, i) == (0, 0)]
        if empty:
            x[trailing(empty, *(slice(None),) * (grid.rank - axis - 1))] = 0
    return x


def _axis_maximum(x: Array, grid: Grid, axis: int) -> Array:
    """Along one spatial axis; windows of padding only are -inf."""
    behind = (slice(None),) * (grid.rank - axis - 1)
    count = grid.out[axis]
    at = x.ndim - len(behind) - 1
    shape = (*x.shape[:at], count, *x.shape[at + 1 :])
    if count < grid.kernel[axis]:
        y = np.full(shape, -np.inf, dtype=x.dtype)
        for i in range(count):
            first, last = grid.place(axis, i)
            if first < last:
                np.maximum.reduce(
                    x[trailing(slice(first, last), *behind)], axis=at, out=y[trailing(i, *behind)]
                )
        return y
    met = [grid.meeting(axis, k) for k in range(grid.kernel[axis])]
    # Offsets that are real in every window start the result, so that nothing needs filling.
    met.sort(key=lambda pair: pair[0] != slice(0, count))
    y = np.empty(shape, dtype=x.dtype)
    first_places, first_cells = met[0]
    if first_places != slice(0, count):
        y.fill(-np.inf)
        rest = met
    elif len(met) > 1 and met[1][0] == slice(0, count):
        np.maximum(x[trailing(first_cells, *behind)], x[trailing(met[1][1], *behind)], out=y)
        rest = met[2:]
    else:
        y[...] = x[trailing(first_cells, *behind)]
        rest = met[1:]
    for places, cells in rest:
        part = y[trailing(places, *behind)]
        np.maximum(part, x[trailing(cells, *behind)], out=part)
    return y


def same_array(a: Array, b: Array) -> bool:
    """Whether two arrays are the same elements of the same memory."""
    if a is b:
        return True
    pointers = [v.__array_interface__["data"][0] for v in (a, b)]
    return pointers[0] == pointers[1] and (a.shape, a.strides, a.dtype) == (
        b.shape,
        b.strides,
        b.dtype,
    )


def pick(by: Array, v: Array, grid: Grid) -> Array:
    """Read ``v`` at the first maximum of `by` in each window."""
    if same_array(by, v):
        return maximum(v, grid)
    lead = v.shape[: v.ndim - grid.rank]
    y = np.zeros((*lead, *grid.out), dtype=v.dtype)
    if y.size == 0 or v.size == 0:
        return y
    if grid.by_place:
        rows, by, flat = _flattened(lead, grid, by, v)
        target = y.reshape(len(rows), *grid.out)
        for place, _, cells in grid.places():
            target[rows_and(*place)] = flat[_winners(by, rows, cells)]
        return y
    best = maximum(by, grid)
    has_nan = bool(np.isnan(best).any())
    # From the last offset to the first, so that the first of several winners is written last.
    for _, places, cells in reversed(list(grid.offsets())):
        hit = _hits(by[trailing(*cells)], best[trailing(*places)], has_nan)
        np.copyto(y[trailing(*places)], v[trailing(*cells)], where=hit)
    return y


def unpick(by: Array, ct: Array, grid: Grid) -> Array:
    """The transpose of `pick` in v: each cotangent goes to its window's first maximum."""
    lead = by.shape[: by.ndim - grid.rank]
    x = np.zeros(by.shape, dtype=ct.dtype)
    if ct.size == 0 or x.size == 0:
        return x
    if grid.by_place:
        rows, by, target = _flattened(lead, grid, by, x)
        ct = ct.reshape(len(rows), *grid.out)
        for place, _, cells in grid.places():
            # One place a row: no index occurs twice.
            target[_winners(by, rows, cells)] += ct[rows_and(*place)]
        return x
    best = maximum(by, grid)
    has_nan = bool(np.isnan(best).any())
    free = np.ones(best.shape, dtype=np.bool_)
    apart = all(s >= k for s, k in zip(grid.stride, grid.kernel, strict=True))
    for _, places, cells in grid.offsets():
        hit = _hits(by[trailing(*cells)], best[trailing(*places)], has_nan)
        waiting = free[trailing(*places)]
        hit &= waiting
        waiting ^= hit
        part = x[trailing(*cells)]
        if apart:
            np.copyto(part, ct[trailing(*places)], where=hit)
        else:
            np.add(part, ct[trailing(*places)], out=part, where=hit)
    return x


def _hits(cells: Array, best: Array, has_nan: bool) -> Array:
    """Where a cell is its window's maximum; NaN is one wherever it occurs."""
    hit = cells == best
    if has_nan:
        hit |= np.isnan(cells)
    return np.asarray(hit)


def _flattened(lead: Sizes, grid: Grid, by: Array, v: Array) -> tuple[Array, Array, Array]:
    """Row numbers, and both arrays with the leading axes as one (a view of `v` if it is dense)."""
    rows = np.arange(math.prod(lead))
    return rows, by.reshape(len(rows), *grid.size), v.reshape(len(rows), *grid.size)


def _winners(by: Array, rows: Array, cells: Sequence[slice]) -> tuple[Array, ...]:
    """An index of each row's first maximum in a region; argmax lets the first NaN win."""
    region = by[rows_and(*cells)]
    found = region.reshape(len(by), -1).argmax(axis=1)
    local = np.unravel_index(found, region.shape[1:])
    return (rows, *(np.asarray(i + c.start) for i, c in zip(local, cells, strict=True)))
