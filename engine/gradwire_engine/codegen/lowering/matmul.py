"""Matrix products: which kernel runs a `dot_general`, in which tasks and blocks.

Kernels read operands as they lie, whatever their strides, but for what `products.chosen` has
copied: only C must have rows or columns that run along memory, and A and B one axis each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from ...ir import ITEMSIZE
from ...ops.linalg import DotGeneral
from ..emit import Emitter
from ..program import Kernel, Layout, Operand, chunks_for, dense_strides
from .move import lower_fill
from .products import GROUP, WAYS, Axis, Product, chosen, ordered

FLOPS_PER_NS = {"float32": 80.0, "float64": 40.0}
BYTES_PER_NS = 10.0
LINE_BYTES = 64

VECTORS = ((0, 1), (1024, 3), (4096, 8))
"""From how many elements on reading a matrix once pays, for up to so many vectors it meets; the
last only if the depth runs along memory in the matrix and in the vectors."""

SHALLOW = 2
"""With a depth no larger, writing the result is all the work."""

WORTH_COPY = 64
"""Rows from which it pays to copy vectors that do not run along memory."""

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

LOW = 64
"""With a smaller depth threads had better write rows of their own."""

LONG = 16
"""A depth so many times the rows and columns is cut into slices."""

_MODULE = "gradwire_engine.codegen.kernels.gemm"


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
    wanted, _, _ = chosen(r, a, b, ordered(plain, order))
    usual, _, _ = chosen(r, a, b, plain)
    return set(wanted) <= set(usual)


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
            lower_fill(emit, 0.0, result)
        return True
    sides, product, layouts = chosen(r, a, b, result)
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


@cache
def _kernel(way: str, dtype: str) -> Kernel:
    """The kernel of products, by the name of what it does with blocks, which is in its words."""
    text = f"from {_MODULE} import make_product\n\nkernel = make_product({dtype!r})\n"
    return Kernel(text, f"product by {way} {dtype}")


def _table(axes: Sequence[Axis]) -> list[int]:
    """Axes as words."""
    return [len(axes), *(word for x in axes for word in (x.size, x.a, x.b, x.c))]


def _pieces(size: int, unit: int, largest: int, even: int) -> int:
    """Into how many pieces of whole units to cut: a multiple of `even`, none above `largest`."""
    pieces = math.ceil(size / largest)
    return max(1, min(math.ceil(pieces / even) * even, math.ceil(size / unit)))


@dataclass(frozen=True)
class _Blocks:
    """How a product is cut.

    Attributes:
        pieces: Of rows, columns and the depth, as many tasks each.
        block: The largest rows, columns and depth that are worked on at once.
        packed: Whether the blocks of A and B are laid out anew.
        scratch: Bytes that a chunk needs for that.
    """

    pieces: tuple[int, int, int]
    block: tuple[int, int, int]
    packed: tuple[bool, bool] = (False, False)
    scratch: int = 0


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

    def call(self, way: str, p: Product, cut: _Blocks, chunks: int) -> None:
        """Append a call of the kernel, and one that adds up what slices of the depth came to."""
        slices = cut.pieces[2]
        tasks = p.count * math.prod(cut.pieces)
        goal, strides = self.c, (p.rows.c, p.columns.c, 0)
        add, alpha = self.accumulate, self.alpha
        if slices > 1:
            size = p.rows.size * p.columns.size
            goal = Operand(self.emit.temp(slices * size * self.item))
            strides, add, alpha = (p.columns.size, 1, size), False, 1.0
        chunks = min(chunks, tasks)
        # A chunk that lays nothing out anew has no use for scratch memory.
        scratch = Operand(self.emit.scratch(chunks * cut.scratch)) if cut.scratch else goal
        self.emit.call(
            _kernel(way, self.dtype),
            [self.a, self.b, goal, scratch],
            [
                *(p.rows.size, p.columns.size, p.depth.size),
                *(p.rows.a, p.depth.a, p.depth.b, p.columns.b, *strides),
                *(*cut.pieces, *cut.block, *map(int, cut.packed), cut.scratch),
                *(WAYS.index(way), int(add), alpha, *_table(p.outer), *_table(p.inner)),
            ],
            count=tasks,
            chunks=chunks,
            writes=[2, 3] if cut.scratch else [2],
        )
        if slices > 1:
            self.total(p, slices, goal)

    def total(self, p: Product, slices: int, parts: Operand) -> None:
        """Add the sums of slices up: to the kernel the slices are the depth of A."""
        rows, columns = p.rows.size, p.columns.size
        nanoseconds = slices * rows * columns * self.item / BYTES_PER_NS
        chunks = chunks_for(rows, nanoseconds, self.emit.threads)
        replace(self, a=parts, b=parts).call(
            "totals",
            Product(
                replace(p.rows, a=columns, b=0),
                replace(p.columns, a=0, b=1),
                Axis(slices, rows * columns, rows * columns, 0),
            ),
            _Blocks((chunks, 1, 1), (rows, columns, slices)),
            chunks,
        )

    def multiply(self, p: Product) -> None:
        """Emit the product with the kernel that fits."""
        if not self.read_once(p) and not self.turned.read_once(p.turned):
            self.tiled(p)

    # -- a matrix and a few vectors ----------------------------------------------------------------

    def read_once(self, p: Product) -> bool:
        """Emit a product of little work for each element read or written, if A lies well for it."""
        rows, columns, depth = p.rows.size, p.columns.size, p.depth.size
        line = LINE_BYTES // self.item
        summed = p.rows.a == 1 and p.rows.c == 1
        if p.inner:
            return False
        along = p.depth.a == 1 and not (summed and depth < line)
        most = max(
            vectors
            for size, vectors in VECTORS
            if rows * depth >= size and (vectors <= 3 or (along and p.depth.b == 1))
        )
        if along and columns <= most:
            if p.depth.b != 1:
                return rows >= WORTH_COPY and self.with_dense_vectors(p)
            unit, largest = GROUP, DOTS_AT_ONCE
        elif summed and (columns <= most or (depth <= SHALLOW and rows >= line)):
            along, unit, largest = False, line, SUMS_BYTES // self.item
        else:
            return False
        nbytes = p.count * rows * max(depth, columns) * self.item
        chunks = chunks_for(p.count * max(rows, depth), nbytes / BYTES_PER_NS, self.emit.threads)
        uneven = p.count % chunks and p.count < 4 * chunks
        # Rather slices of the depth than pieces too short to be read at full speed.
        slices = chunks if uneven and p.count == 1 and rows < depth and rows < largest else 1
        # Where writing is the work, each thread has rows of the result for itself.
        shares = chunks if uneven and slices == 1 and columns >= WORTH_COPY else 1
        pieces = _pieces(rows, unit, largest, chunks if uneven and slices == shares == 1 else 1)
        if along:
            cut = _Blocks((pieces, shares, slices), (rows, columns, depth))
            self.call("dots", p, cut, chunks)
        else:
            cut = _Blocks((shares, pieces, slices), (columns, rows, depth))
            self.turned.call("sums", p.turned, cut, chunks)
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
        # Threads that write the same rows meet in a cache line of each: that shows if all is short.
        favour = 0.05 if depth >= LOW else -0.05
        if p.count % chunks and p.count < 8 * chunks:
            if p.count == 1 and not p.inner and depth >= LONG * max(rows, columns):
                slices = chunks
            elif _unevenness(columns, panel, chunks) <= _unevenness(rows, BAND, chunks) + favour:
                column_pieces = chunks
            else:
                row_pieces = chunks
        chunks = min(chunks, p.count * row_pieces * column_pieces * slices)
        block_rows, block_columns = math.ceil(rows / row_pieces), math.ceil(columns / column_pieces)
        block_depth = _depth(math.ceil(depth / slices))
        pack_b = p.columns.b != 1 or block_rows > SKINNY
        pack_a = block_columns > 2 * panel
        if pack_a:
            block_rows = min(block_rows, BLOCK_ROWS)
        if pack_b:
            block_columns = min(math.ceil(block_columns / 32) * 32, BLOCK_COLUMNS)
        elements = block_depth * (block_columns * pack_b + block_rows * pack_a)
        cut = _Blocks(
            (row_pieces, column_pieces, slices),
            (block_rows, block_columns, block_depth),
            (pack_a, pack_b),
            elements * self.item + SLACK_BYTES,
        )
        self.call("tiles", p, cut, chunks)


def _depth(size: int) -> int:
    """How much of a depth is laid out at a time: a multiple of 8, but no power of two.

    Rows so far apart begin in different places of the cache.
    """
    block = math.ceil(size / max(1, round(size / BLOCK_DEPTH)) / 8) * 8
    return block if block % 64 else block + 8


def _unevenness(size: int, unit: int, pieces: int) -> float:
    """How much larger the largest piece is than the mean, if pieces are of whole units."""
    units = math.ceil(size / unit)
    return math.ceil(units / pieces) * pieces / units - 1


LOWERINGS = {"dot_general": lower_dot}
