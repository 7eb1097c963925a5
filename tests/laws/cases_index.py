"""Law rows of the gathers and scatters."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .case import Case, Draw


def _rows(x: Any, indices: Any) -> Any:
    """x[indices] along axis 0, zero where out of range."""
    n = x.shape[0]
    flat = indices.reshape(-1)
    valid = (flat >= 0) & (flat < n)
    rest = [1] * (x.ndim - 1)
    padded = torch.cat((x, torch.zeros((1, *x.shape[1:]), dtype=x.dtype)))
    chosen = padded[torch.where(valid, flat, n)]
    keep = valid.reshape(-1, *rest)
    return torch.where(keep, chosen, torch.zeros_like(chosen)).reshape(
        (*indices.shape, *x.shape[1:])
    )


def take(x: Any, indices: Any, axis: int, batch: int = 0) -> Any:
    """The meaning of `take`, sample by sample."""
    axis %= x.ndim
    if batch:
        parts = [take(a, i, axis - 1, batch - 1) for a, i in zip(x, indices, strict=True)]
        return torch.stack(parts)
    front = _rows(x.movedim(axis, 0), indices)
    inserted = tuple(range(indices.ndim))
    return front.movedim(inserted, tuple(axis + i for i in inserted))


def scatter_add(x: Any, indices: Any, updates: Any, axis: int, batch: int = 0) -> Any:
    """The meaning of `scatter_add`, sample by sample."""
    axis %= x.ndim
    if batch:
        samples = zip(x, indices, updates, strict=True)
        return torch.stack([scatter_add(a, i, u, axis - 1, batch - 1) for a, i, u in samples])
    n = x.shape[axis]
    flat = indices.reshape(-1)
    rows = updates.reshape(*x.shape[:axis], flat.numel(), *x.shape[axis + 1 :])
    kept = torch.nonzero((flat >= 0) & (flat < n)).reshape(-1)
    return x.index_add(axis, flat[kept], rows.index_select(axis, kept))


def _take(
    x: tuple[int, ...],
    indices: tuple[int, ...],
    axis: int,
    label: str,
    batch: int = 0,
    beyond: int = 0,
) -> Case:
    attrs = {"axis": axis, **({"batch": batch} if batch else {})}
    last = x[axis] - 1
    return Case(
        "take",
        (Draw(x), Draw(indices, -beyond, last + beyond, "int64")),
        attrs,
        lambda a, i: take(a, i, axis, batch),
        label,
        integers=True,
    )


def _scatter(
    x: tuple[int, ...],
    indices: tuple[int, ...],
    axis: int,
    label: str,
    batch: int = 0,
    beyond: int = 0,
) -> Case:
    front = axis % len(x)
    updates = (*x[:front], *indices[batch:], *x[front + 1 :])
    attrs = {"axis": axis, **({"batch": batch} if batch else {})}
    return Case(
        "scatter_add",
        (Draw(x), Draw(indices, -beyond, x[axis] - 1 + beyond, "int64"), Draw(updates)),
        attrs,
        lambda a, i, u: scatter_add(a, i, u, axis, batch),
        label,
        integers=True,
    )


def _along(x: tuple[int, ...], k: int, axis: int, label: str, beyond: int = 0) -> Case:
    indices = list(x)
    indices[axis] = k

    def reference(a: Any, i: Any) -> Any:
        n = a.shape[axis]
        valid = (i >= 0) & (i < n)
        chosen = torch.take_along_dim(a, torch.where(valid, i, 0), axis)
        return torch.where(valid, chosen, torch.zeros_like(chosen))

    return Case(
        "take_along_axis",
        (Draw(x), Draw(tuple(indices), -beyond, x[axis] - 1 + beyond, "int64")),
        {"axis": axis},
        reference,
        label,
        integers=True,
    )


_POSITIONS = np.array([2, 0, 2, -1, 9, 1], dtype=np.int64)


def _gather(op: str, x: tuple[int, ...], label: str, low: int, high: int, k: int = 6) -> Case:
    operands = (Draw(x), Draw((k,), low, high, "int64"))
    return Case(op, operands, {}, _rows, label, integers=True)


def _gather_fixed(op: str, x: tuple[int, ...], positions: Any, label: str) -> Case:
    fixed = torch.from_numpy(positions)
    attrs = {"indices": positions}
    return Case(op, (Draw(x),), attrs, lambda a: _rows(a, fixed), label, integers=True)


def _added(x: Any, v: Any, index: int) -> Any:
    return x.index_add(0, torch.tensor([index]), v[None])


CASES: tuple[Case, ...] = (
    _take((5,), (4,), 0, "vector"),
    _take((5, 3), (4,), 0, "rows"),
    _take((2, 5, 3), (2, 3), 1, "middle"),
    _take((2, 5), (3,), -1, "last"),
    _take((5, 2), (), 0, "scalar-index"),
    _take((4, 3), (12,), 0, "duplicates"),
    _take((3, 4), (9,), 1, "beyond", beyond=3),
    _take((2, 5), (2, 3), 1, "batch", batch=1, beyond=2),
    _take((2, 3, 4, 2), (2, 5), 2, "batch-outer", batch=1, beyond=1),
    _take((2, 3, 4), (2, 3), -1, "batch-all", batch=2, beyond=1),
    _take((2, 3, 4, 2), (2, 3, 2, 2), 2, "batch-two", batch=2),
    _take((3, 0), (2,), 0, "empty-rows"),
    _take((3, 2), (0,), 0, "no-index"),
    _take((0, 2), (3,), 0, "empty-axis", beyond=2),
    _scatter((5,), (4,), 0, "vector"),
    _scatter((5, 3), (4,), 0, "rows"),
    _scatter((2, 5, 3), (2, 3), 1, "middle"),
    _scatter((2, 3), (9,), -1, "duplicates"),
    _scatter((5, 2), (), 0, "scalar-index"),
    _scatter((3, 4), (9,), 1, "beyond", beyond=3),
    _scatter((2, 5), (2, 3), 1, "batch", batch=1, beyond=2),
    _scatter((2, 3, 4, 2), (2, 5), 2, "batch-outer", batch=1, beyond=1),
    _scatter((2, 3, 4), (2, 3), -1, "batch-all", batch=2, beyond=1),
    _scatter((30, 2), (3,), 0, "large-table"),
    _scatter((30,), (3,), 0, "large-vector", beyond=2),
    _scatter((3, 2), (0,), 0, "no-index"),
    _scatter((0, 2), (3,), 0, "empty-axis", beyond=2),
    _along((2, 4), 3, 1, "last"),
    _along((4, 3), 2, 0, "first", beyond=2),
    _along((2, 4, 3), 5, -2, "middle"),
    _along((4,), 6, 0, "vector", beyond=1),
    Case("gather_scalar", (Draw((5,)),), {"index": 3}, lambda x: x[3], integers=True),
    Case("gather_row", (Draw((4, 3)),), {"index": 0}, lambda x: x[0], integers=True),
    Case(
        "gather_scalar_nat",
        (Draw((5,)), Draw((), 0, 4, "int64")),
        {},
        lambda x, i: x[i],
        "operand",
        integers=True,
    ),
    Case(
        "gather_scalar_nat",
        (Draw((5,)), Draw((), 5, 9, "int64")),
        {},
        lambda x, i: x.sum() * 0,
        "beyond",
        integers=True,
    ),
    Case(
        "gather_scalar_nat",
        (Draw((5,)),),
        {"index": -1},
        lambda x: x.sum() * 0,
        "attribute-negative",
        integers=True,
    ),
    Case(
        "gather_scalar_nat",
        (Draw((5,)),),
        {"index": 2},
        lambda x: x[2],
        "attribute",
        integers=True,
    ),
    _gather("gather_vec_nat", (4,), "operand", -2, 5, 9),
    _gather("gather_vec_nat", (4,), "none", 0, 3, 0),
    _gather_fixed("gather_vec_nat", (4,), _POSITIONS, "attribute"),
    _gather("gather_rows_nat", (4, 2), "operand", -2, 5, 9),
    _gather("gather_rows_nat", (4, 0), "empty", 0, 3),
    _gather_fixed("gather_rows_nat", (4, 2), _POSITIONS, "attribute"),
    Case(
        "scatter_add_vec",
        (Draw((4,)), Draw(())),
        {"index": 2},
        lambda x, v: _added(x, v, 2),
        integers=True,
    ),
    Case(
        "scatter_add_row",
        (Draw((3, 2)), Draw((2,))),
        {"index": 0},
        lambda x, v: _added(x, v, 0),
        integers=True,
    ),
    Case(
        "scatter_add_row",
        (Draw((3, 0)), Draw((0,))),
        {"index": 2},
        lambda x, v: _added(x, v, 2),
        "empty",
        integers=True,
    ),
)
