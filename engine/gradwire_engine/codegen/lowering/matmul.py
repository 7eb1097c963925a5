"""Matrix products: which kernel runs a `dot_general`, and how its axes become loops.

Every axis of a product is in two of A, B and C, or in all three: *rows* (A and C), *columns* (B and
C), *depth* (A and B, summed) and *batch*. An axis along which an operand only repeats itself counts
as if it lacked it, so that a matrix shared by a batch meets all of the batch as one wide matrix.
Axes of one kind are merged where they lie evenly; what is left over beside the main row, column and
depth axis becomes a loop around the matrix product. Kernels read operands as they lie, whatever
their strides: only C must have rows or columns that run along memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...ops.linalg import DotGeneral
from ...ops.linalg_numpy import Roles
from ..emit import Emitter
from ..program import ITEMSIZE, Kernel, Layout, Operand, chunks_for, dense_strides

FLOPS_PER_NS = {"float32": 80.0, "float64": 40.0}
BYTES_PER_NS = 10.0
LINE_BYTES = 64

SMALL = 8
"""Sizes below this are not worth a matrix product of their own."""

FEW_DOTS, FEW_SUMS = 8, 3
"""A matrix times so few vectors is a matter of reading the matrix once, if the depth runs along its
memory, or the other axis does."""

SHALLOW = 2
"""With a depth no larger, writing the result is all the work."""

DOTS_AT_ONCE, SUMS_BYTES = 64, 16384
"""Of one iteration where the depth runs along memory: how many sums; where they do: their size."""

BAND = 6
"""About how many rows a tile of the matrix kernel has."""

SKINNY = 4 * BAND
"""With so few rows of A, B is read as it lies."""

BLOCK_DEPTH, BLOCK_ROWS, BLOCK_COLUMNS = 256, 24, 256
"""What the matrix kernel lays out anew at a time."""

SLACK_BYTES = 4096
"""Scratch beyond the blocks, for an even start, and because whole vectors are stored at the end."""

LONG = 16
"""A depth so many times the rows and columns is cut into slices."""


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


# -- analysis --------------------------------------------------------------------------------------


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
        a = _ordered(a, [*r.batch_a, *(i for _, i in free), *(i for i, _ in pairs)])
    if "b" in sides:
        free = sorted(enumerate(r.free_b), key=lambda x: -c.strides[batch + rows + x[0]])
        b = _ordered(b, [*r.batch_b, *(j for _, j in pairs), *(j for _, j in free)])
    return a, b, c


def _ordered(layout: Layout, order: Sequence[int]) -> Layout:
    """The layout of a dense copy whose axes lie in memory in this order, outermost first."""
    strides = [0] * len(order)
    for axis, stride in zip(order, dense_strides([layout.shape[i] for i in order]), strict=True):
        strides[axis] = stride
    return replace(layout, offset=0, strides=tuple(strides))


def _choice(
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


def preferred_order(op: DotGeneral, operands: Sequence[Layout], order: Sequence[int]) -> bool:
    """Whether the result may as well be stored with its axes in another order.

    Args:
        op: A product.
        operands: Where its operands lie.
        order: As of a `transpose` of the result, the wanted value: its axis i is axis ``order[i]``.

    Returns:
        True if `lower_dot` writes that value without copies that it would not make anyway.
    """
    a, b = operands
    r = op.roles(len(a.shape), len(b.shape))
    type = op.typing(a.type, b.type)
    plain = Layout(-1, 0, type.shape, dense_strides(type.shape), type.dtype)
    if 0 in type.shape:
        return True
    wanted, _, _ = _choice(r, a, b, _ordered(plain, order))
    usual, _, _ = _choice(r, a, b, plain)
    return set(wanted) <= set(usual)


# -- emission --------------------------------------------------------------------------------------


def lower_dot(
    emit: Emitter,
    op: DotGeneral,
    operands: Sequence[Layout],
    result: Layout,
    *,
    accumulate: bool = False,
    alpha: float = 1.0,
) -> bool:
    """``result = alpha dot(a, b)``, or, to `accumulate`, ``result += alpha dot(a, b)``."""
    a, b = operands
    if 0 in result.shape:
        return True
    r = op.roles(len(a.shape), len(b.shape))
    if any(a.shape[i] == 0 for i in r.contract_a):
        if not accumulate:
            zero = emit.const(np.zeros(1, result.dtype))
            strides = (0,) * len(result.shape)
            emit.copy(replace(result, buffer=zero, offset=0, strides=strides), result)
        return True
    sides, product, layouts = _choice(r, a, b, result)
    a_used, b_used, c_used = (
        replace(planned, buffer=emit.temp(planned.type.nbytes)) if side in sides else planned
        for side, planned in zip("abc", layouts, strict=True)
    )
    if "a" in sides:
        emit.copy(a, a_used)
    if "b" in sides:
        emit.copy(b, b_used)
    if "c" in sides and accumulate:
        emit.copy(result, c_used)
    if product.swapped:
        a_used, b_used = b_used, a_used
    left, right, sums = (Operand(x.buffer, x.byte_offset) for x in (a_used, b_used, c_used))
    _Work(emit, left, right, sums, result.dtype, alpha, accumulate).multiply(product)
    if "c" in sides:
        emit.copy(c_used, result)
    return True


def _table(axes: Sequence[Axis]) -> list[int]:
    """Axes as words."""
    return [len(axes), *(word for x in axes for word in (x.size, x.a, x.b, x.c))]


def _pieces(size: int, unit: int, largest: int, even: int) -> int:
    """Into how many pieces of whole units to cut: a multiple of `even`, none above `largest`."""
    pieces = math.ceil(size / largest)
    return max(1, min(math.ceil(pieces / even) * even, math.ceil(size / unit)))


@dataclass(frozen=True)
class _Sums:
    """Where sums are written: the buffer, its strides, whether it is added to, and the factor."""

    place: Operand
    row: int
    column: int
    slice: int
    add: bool
    alpha: float


@dataclass(frozen=True)
class _Work:
    """A product to be emitted: C = alpha A B, or C += alpha A B to `accumulate`."""

    emit: Emitter
    a: Operand
    b: Operand
    c: Operand
    dtype: str
    alpha: float
    accumulate: bool

    @property
    def item(self) -> int:
        """Bytes of an element."""
        return ITEMSIZE[self.dtype]

    @property
    def turned(self) -> _Work:
        """The transposed product's."""
        return replace(self, a=self.b, b=self.a)

    def call(
        self,
        module: str,
        made: str,
        operands: Sequence[Operand],
        words: Sequence[int | float],
        *,
        count: int,
        chunks: int,
        writes: Sequence[int],
    ) -> None:
        """Append a call of the kernel that `made`, a call of a function of `module`, gives."""
        name = made.partition("(")[0]
        text = f"from gradwire_engine.codegen.kernels.{module} import {name}\nkernel = {made}\n"
        kernel = Kernel(text, title=f"{name} {self.dtype}")
        self.emit.call(kernel, operands, words, count=count, chunks=chunks, writes=writes)

    def multiply(self, p: Product) -> None:
        """Emit the product with the kernel that fits."""
        if not self.read_once(p) and not self.turned.read_once(p.turned):
            self.tiled(p)

    def sums(self, p: Product, slices: int) -> _Sums:
        """Where a kernel writes: C, or as many partial sums as there are slices."""
        if slices == 1:
            return _Sums(self.c, p.rows.c, p.columns.c, 0, self.accumulate, self.alpha)
        size = p.rows.size * p.columns.size
        parts = Operand(self.emit.temp(slices * size * self.item))
        return _Sums(parts, p.columns.size, 1, size, False, 1.0)

    def combine(self, p: Product, slices: int, sums: _Sums) -> None:
        """Add partial sums up, if there are any."""
        if slices == 1:
            return
        size = slices * p.rows.size * p.columns.size
        self.call(
            "matvec",
            f'make_combine("{self.dtype}")',
            [sums.place, self.c],
            [
                *(slices, p.rows.size, p.columns.size, p.rows.c, p.columns.c),
                *(int(self.accumulate), self.alpha),
            ],
            count=p.rows.size,
            chunks=chunks_for(p.rows.size, size * self.item / BYTES_PER_NS, self.emit.threads),
            writes=[1],
        )

    # -- a matrix and a few vectors ----------------------------------------------------------------

    def read_once(self, p: Product) -> bool:
        """Emit a product of little work for each element read or written, if A lies well for it."""
        rows, columns, depth = p.rows.size, p.columns.size, p.depth.size
        line = LINE_BYTES // self.item
        summed = p.rows.a == 1 and p.rows.c == 1
        if p.inner:
            return False
        if p.depth.a == 1 and columns <= FEW_DOTS and not (summed and depth < line):
            if p.depth.b != 1:
                return self.with_dense_vectors(p)
            unit = 4 if rows >= 4 else 1
            largest, step, made = DOTS_AT_ONCE, p.rows.a, f'make_dots("{self.dtype}", {unit})'
        elif summed and (columns <= FEW_SUMS or depth <= SHALLOW):
            unit, largest = line, SUMS_BYTES // self.item
            step, made = p.depth.a, f'make_sums("{self.dtype}")'
        else:
            return False
        nbytes = p.count * rows * max(depth, columns) * self.item
        chunks = chunks_for(p.count * max(rows, depth), nbytes / BYTES_PER_NS, self.emit.threads)
        uneven = p.count % chunks and p.count < 4 * chunks
        # Rather slices of the depth than pieces too short to be read at full speed.
        slices = chunks if uneven and p.count == 1 and rows < depth and rows < largest else 1
        pieces = _pieces(rows, unit, largest, chunks if uneven and slices == 1 else 1)
        length = math.ceil(rows / pieces / unit) * unit
        sums = self.sums(p, slices)
        tasks = p.count * slices * math.ceil(rows / length)
        self.call(
            "matvec",
            made,
            [self.a, self.b, sums.place],
            [
                *(rows, length, depth, slices, p.columns.size),
                *(step, p.depth.b, p.columns.b, sums.row, sums.column, sums.slice),
                *(int(sums.add), sums.alpha, *_table(p.outer)),
            ],
            count=tasks,
            chunks=min(chunks, tasks),
            writes=[2],
        )
        self.combine(p, slices, sums)
        return True

    def with_dense_vectors(self, p: Product) -> bool:
        """Emit a product with few columns after making the columns of B dense."""
        axes = [*(axis for axis in p.outer if axis.b), p.columns, p.depth]
        shape = tuple(axis.size for axis in axes)
        strides = tuple(axis.b for axis in axes)
        source = Layout(self.b.buffer, self.b.offset // self.item, shape, strides, self.dtype)
        target = self.emit.value(source.type)
        self.emit.copy(source, target)
        found = dict(zip(axes, target.strides, strict=True))
        return replace(self, b=Operand(target.buffer)).read_once(
            replace(
                p,
                columns=replace(p.columns, b=found[p.columns]),
                depth=replace(p.depth, b=1),
                outer=tuple(replace(axis, b=found.get(axis, 0)) for axis in p.outer),
            )
        )

    # -- two matrices ------------------------------------------------------------------------------

    def tiled(self, p: Product) -> None:
        """Emit a product with the matrix kernel."""
        rows, columns, depth = p.rows.size, p.columns.size, p.depth.size
        panel = LINE_BYTES // self.item
        nanoseconds = p.flops / FLOPS_PER_NS[self.dtype]
        chunks = chunks_for(p.count * rows * columns * depth, nanoseconds, self.emit.threads)
        row_pieces = column_pieces = slices = 1
        if p.count % chunks and p.count < 8 * chunks:
            if p.count == 1 and not p.inner and depth >= LONG * max(rows, columns):
                slices = chunks
            elif _unevenness(columns, panel, chunks) <= _unevenness(rows, BAND, chunks) + 0.05:
                column_pieces = chunks
            else:
                row_pieces = chunks
        tasks = p.count * row_pieces * column_pieces * slices
        chunks = min(chunks, tasks)

        block_rows, block_columns = math.ceil(rows / row_pieces), math.ceil(columns / column_pieces)
        block_depth = math.ceil(depth / slices)
        block_depth = math.ceil(block_depth / max(1, round(block_depth / BLOCK_DEPTH)) / 8) * 8
        pack_b = p.columns.b != 1 or block_rows > SKINNY
        pack_a = block_columns > 2 * panel
        if pack_a:
            block_rows = min(block_rows, BLOCK_ROWS)
        if pack_b:
            block_columns = min(math.ceil(block_columns / 32) * 32, BLOCK_COLUMNS)
        elements = block_depth * (block_columns * pack_b + block_rows * pack_a)
        scratch = elements * self.item + SLACK_BYTES
        sums = self.sums(p, slices)
        self.call(
            "gemm",
            f'make_gemm("{self.dtype}")',
            [self.a, self.b, sums.place, Operand(self.emit.temp(chunks * scratch))],
            [
                *(rows, columns, depth),
                *(p.rows.a, p.depth.a, p.depth.b, p.columns.b, sums.row, sums.slice),
                *(row_pieces, column_pieces, slices),
                *(block_rows, block_columns, block_depth),
                *(int(pack_a), int(pack_b), scratch, int(sums.add), sums.alpha),
                *_table(p.outer),
                *_table(p.inner),
            ],
            count=tasks,
            chunks=chunks,
            writes=[2, 3],
        )
        self.combine(p, slices, sums)


def _unevenness(size: int, unit: int, pieces: int) -> float:
    """How much larger the largest piece is than the mean, if pieces are of whole units."""
    units = math.ceil(size / unit)
    return math.ceil(units / pieces) * pieces / units - 1


LOWERINGS = {"dot_general": lower_dot}
