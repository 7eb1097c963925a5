"""The axes of a matrix product: which are rows, columns and depth, and whether copies are needed.

Every axis of a product is in two of A, B and C, or in all three: *rows* (A and C), *columns* (B and
C), *depth* (A and B, summed) and *batch*. An axis along which an operand only repeats itself counts
as if it lacked it, so that a matrix shared by a batch meets all of the batch as one wide matrix.
Axes of one kind are merged where they lie evenly; what is left over beside the main row, column and
depth axis becomes a loop around the matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ...ops.linalg_numpy import Roles
from ..program import Layout, dense_strides

WAYS = ("tiles", "dots", "sums", "totals")
"""What becomes of a block of a product: the kernel knows each by its place here."""

GROUP = 4
"""Rows that `dots` are summed of side by side, where there are as many."""

SMALL = 8
"""Sizes below this are not worth a matrix product of their own."""


@dataclass(frozen=True)
class Axis:
    """An axis of a product: its size and its strides in A, B and C."""

    size: int
    a: int
    b: int
    c: int

    @property
    def kind(self) -> str:
        """``rows``, ``columns``, ``depth`` or ``batch``; see the module's text."""
        if self.c == 0:
            return "depth"
        if self.b == 0:
            return "rows"
        return "columns" if self.a == 0 else "batch"

    @property
    def turned(self) -> Axis:
        """The axis as the transposed product has it, of B and A."""
        return Axis(self.size, self.b, self.a, self.c)

    def continues(self, outer: Axis) -> bool:
        """Whether `outer` and this axis lie as one axis."""
        return (outer.a, outer.b, outer.c) == tuple(self.size * s for s in (self.a, self.b, self.c))


@dataclass(frozen=True)
class Product:
    """C = A B for every index of `outer`, summed over `inner`; `swapped` if A is the op's b."""

    rows: Axis
    columns: Axis
    depth: Axis
    outer: tuple[Axis, ...] = ()
    inner: tuple[Axis, ...] = ()
    swapped: bool = False

    @property
    def turned(self) -> Product:
        """The transposed product, C^T = B^T A^T."""
        return Product(
            self.columns.turned,
            self.rows.turned,
            self.depth.turned,
            tuple(axis.turned for axis in self.outer),
            tuple(axis.turned for axis in self.inner),
            not self.swapped,
        )

    @property
    def count(self) -> int:
        """How many indices `outer` has."""
        return math.prod(axis.size for axis in self.outer)

    @property
    def flops(self) -> float:
        """Multiplications and additions in all."""
        inner = math.prod(axis.size for axis in self.inner)
        return 2.0 * self.count * inner * self.rows.size * self.columns.size * self.depth.size

    @property
    def wasteful(self) -> bool:
        """Whether copies are worth their while.

        So it is if axes left over make loops around products too small to be fast, or if an operand
        has neither axis along memory.
        """
        kinds = {axis.kind for axis in (*self.outer, *self.inner)}
        return (
            any(axis.size < SMALL for axis in self._main if axis.kind in kinds)
            or 1 not in (self.rows.a, self.depth.a)
            or 1 not in (self.columns.b, self.depth.b)
        )

    @property
    def _main(self) -> tuple[Axis, Axis, Axis]:
        return self.rows, self.columns, self.depth


def _axes(r: Roles, a: Layout, b: Layout, c: Layout) -> list[Axis]:
    """The axes of a product that have more than one index."""
    batch, rows = len(r.batch_a), len(r.free_a)
    found = [
        Axis(a.shape[i], a.strides[i], b.strides[j], c.strides[k])
        for k, (i, j) in enumerate(zip(r.batch_a, r.batch_b, strict=True))
    ]
    found += [
        Axis(a.shape[i], a.strides[i], 0, c.strides[batch + k]) for k, i in enumerate(r.free_a)
    ]
    found += [
        Axis(b.shape[j], 0, b.strides[j], c.strides[batch + rows + k])
        for k, j in enumerate(r.free_b)
    ]
    found += [
        Axis(a.shape[i], a.strides[i], b.strides[j], 0)
        for i, j in zip(r.contract_a, r.contract_b, strict=True)
    ]
    return [axis for axis in found if axis.size != 1]


def _merged(axes: Iterable[Axis]) -> list[Axis]:
    """The same axes, longest strides first, neighbours that lie as one made one."""
    merged: list[Axis] = []
    for axis in sorted(axes, key=lambda x: (abs(x.c), abs(x.a), abs(x.b)), reverse=True):
        if merged and axis.continues(merged[-1]):
            merged[-1] = replace(axis, size=axis.size * merged[-1].size)
        else:
            merged.append(axis)
    return merged


def analysed(r: Roles, a: Layout, b: Layout, c: Layout) -> Product | None:
    """The product as kernels take it, or None if neither rows nor columns of C run along memory."""
    axes = _axes(r, a, b, c)
    kinds = {
        kind: _merged(axis for axis in axes if axis.kind == kind)
        for kind in ("batch", "rows", "columns", "depth")
    }
    if not any(axis.c == 1 for axis in kinds["columns"]) and kinds["columns"]:
        if kinds["rows"] and not any(axis.c == 1 for axis in kinds["rows"]):
            return None
        kinds = {kind: [axis.turned for axis in found] for kind, found in kinds.items()}
        kinds["rows"], kinds["columns"] = kinds["columns"], kinds["rows"]
        swapped = True
    else:
        swapped = False
    # What has only one index may have any stride; 1 pleases every kernel.
    columns = next((axis for axis in kinds["columns"] if axis.c == 1), Axis(1, 0, 1, 1))
    depth = max(kinds["depth"], key=lambda x: (1 in (x.a, x.b), x.size), default=Axis(1, 1, 1, 0))
    rows = max(kinds["rows"], key=lambda x: (1 in (x.a, depth.a), x.size), default=Axis(1, 1, 0, 0))
    outer = [*kinds["batch"], *kinds["rows"], *kinds["columns"]]
    return Product(
        rows,
        columns,
        depth,
        tuple(axis for axis in outer if axis not in (rows, columns)),
        tuple(axis for axis in kinds["depth"] if axis is not depth),
        swapped,
    )


def _evened(r: Roles, a: Layout, b: Layout, c: Layout, sides: str) -> tuple[Layout, Layout, Layout]:
    """The layouts that copies of the operands named in `sides` would have, for axes to merge.

    Batch axes come first, then rows in the order of C and the depth, or the depth and columns; a
    copy of C is dense. The buffers are still those of the originals.
    """
    batch, rows = len(r.batch_a), len(r.free_a)
    if "c" in sides:
        c = replace(c, offset=0, strides=dense_strides(c.shape))
    pairs = list(zip(r.contract_a, r.contract_b, strict=True))
    if sides.startswith("a") and "b" not in sides:
        pairs.sort(key=lambda pair: -abs(b.strides[pair[1]]))
    else:
        pairs.sort(key=lambda pair: -abs(a.strides[pair[0]]))
    if "a" in sides:
        free = sorted(enumerate(r.free_a), key=lambda x: -c.strides[batch + x[0]])
        a = ordered(a, [*r.batch_a, *(i for _, i in free), *(i for i, _ in pairs)])
    if "b" in sides:
        free = sorted(enumerate(r.free_b), key=lambda x: -c.strides[batch + rows + x[0]])
        b = ordered(b, [*r.batch_b, *(j for _, j in pairs), *(j for _, j in free)])
    return a, b, c


def ordered(layout: Layout, order: Sequence[int]) -> Layout:
    """The layout of a dense copy whose axes lie in memory in this order, outermost first."""
    strides = [0] * len(order)
    for axis, stride in zip(order, dense_strides([layout.shape[i] for i in order]), strict=True):
        strides[axis] = stride
    return replace(layout, offset=0, strides=tuple(strides))


def chosen(
    r: Roles, a: Layout, b: Layout, c: Layout
) -> tuple[str, Product, tuple[Layout, Layout, Layout]]:
    """Which of A, B and C to copy for a product that is not wasteful: as few as possible."""
    for sides in ("", "a", "b", "ab", "c", "ac", "bc"):
        layouts = _evened(r, a, b, c, sides)
        product = analysed(r, *layouts)
        if product is not None and not product.wasteful:
            return sides, product, layouts
    layouts = _evened(r, a, b, c, "abc")
    product = analysed(r, *layouts)
    assert product is not None  # a dense C has rows or columns of stride 1
    return "abc", product, layouts
