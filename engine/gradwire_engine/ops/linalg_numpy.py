"""How `dot_general` runs in NumPy: as one (batched) call of BLAS.

Operands are permuted as views; BLAS reads a transposed matrix as it is, so a copy is made only
where axes that act as one do not lie evenly in memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Roles:
    """What each axis of two operands does; all counted from the front."""

    contract_a: tuple[int, ...]
    contract_b: tuple[int, ...]
    batch_a: tuple[int, ...]
    batch_b: tuple[int, ...]
    free_a: tuple[int, ...]
    free_b: tuple[int, ...]


def copied(shape_a: Sequence[int], shape_b: Sequence[int], r: Roles) -> int:
    """How many elements of row-major operands are copied before BLAS reads them."""
    if not r.contract_a:
        return 0
    return _contraction_order(shape_a, _dense(shape_a), shape_b, _dense(shape_b), r)[1]


def _dense(shape: Sequence[int]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _merged(
    shape: Sequence[int], strides: Sequence[int], axes: Sequence[int]
) -> tuple[int, int] | None:
    """Size and stride of `axes` taken as one, or None where they do not lie evenly."""
    size, stride = 1, 1
    for i in reversed(axes):
        if shape[i] == 1:
            continue
        if size == 1:
            stride = strides[i]
        elif strides[i] != stride * size:
            return None
        size *= shape[i]
    return size, stride


def _in_place(
    shape: Sequence[int], strides: Sequence[int], rows: Sequence[int], columns: Sequence[int]
) -> bool:
    """Whether BLAS can read the matrix `rows` x `columns` of an array without a copy."""
    row, column = _merged(shape, strides, rows), _merged(shape, strides, columns)
    if row is None or column is None:
        return False
    return _leading(row, column) or _leading(column, row)


def _leading(outer: tuple[int, int], inner: tuple[int, int]) -> bool:
    return (inner[1] == 1 or inner[0] == 1) and (outer[1] >= inner[0] or outer[0] == 1)


def _contraction_order(
    shape_a: Sequence[int],
    strides_a: Sequence[int],
    shape_b: Sequence[int],
    strides_b: Sequence[int],
    r: Roles,
) -> tuple[tuple[int, ...], int]:
    """The order of the contracted pairs that copies least, and how many elements it copies."""
    pairs = range(len(r.contract_a))
    best: tuple[tuple[int, ...], int] | None = None
    for key in (lambda p: -strides_a[r.contract_a[p]], lambda p: -strides_b[r.contract_b[p]]):
        order = tuple(sorted(pairs, key=key))
        copied = 0
        if not _in_place(shape_a, strides_a, r.free_a, [r.contract_a[p] for p in order]):
            copied += math.prod(shape_a)
        if not _in_place(shape_b, strides_b, [r.contract_b[p] for p in order], r.free_b):
            copied += math.prod(shape_b)
        if best is None or copied < best[1]:
            best = order, copied
        if copied == 0 or len(pairs) < 2:
            break
    assert best is not None
    return best


def product(a: Array, b: Array, r: Roles) -> Array:
    """Sum of products of two arrays; the roles say over which axes."""
    batch = tuple(a.shape[i] for i in r.batch_a)
    rest_a, rest_b = tuple(a.shape[i] for i in r.free_a), tuple(b.shape[j] for j in r.free_b)
    left, right = (*r.batch_a, *r.free_a), (*r.batch_b, *r.free_b)
    if not r.contract_a:
        # Nothing to sum: an outer product over the free axes, which BLAS has no faster way for.
        spread = a.transpose(left).reshape((*batch, *rest_a, *(1,) * len(rest_b)))
        other = b.transpose(right).reshape((*batch, *(1,) * len(rest_a), *rest_b))
        return np.asarray(np.multiply(spread, other, order="C"))
    order: tuple[int, ...] = (0,)
    if len(r.contract_a) > 1:
        steps_a = [s // a.itemsize for s in a.strides]
        steps_b = [s // b.itemsize for s in b.strides]
        order, _ = _contraction_order(a.shape, steps_a, b.shape, steps_b, r)
    along_a, along_b = [r.contract_a[p] for p in order], [r.contract_b[p] for p in order]
    depth = math.prod(a.shape[i] for i in along_a)
    rows, columns = math.prod(rest_a), math.prod(rest_b)
    lhs = a.transpose((*left, *along_a)).reshape((*batch, rows, depth))
    rhs = b.transpose((*r.batch_b, *along_b, *r.free_b)).reshape((*batch, depth, columns))
    result = np.matmul(_readable(lhs), _readable(rhs))
    return np.asarray(result.reshape((*batch, *rest_a, *rest_b)))


def _readable(matrices: Array) -> Array:
    """The same matrices in a layout that BLAS takes; NumPy's fallback for others is a slow loop."""
    rows, columns = matrices.shape[-2:]
    step, item = matrices.strides[-2:], matrices.itemsize
    for outer, inner, size in ((step[0], step[1], columns), (step[1], step[0], rows)):
        if inner == item and outer % item == 0 and outer >= size * item:
            return matrices
    return np.ascontiguousarray(matrices)
