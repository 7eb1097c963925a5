"""Matrix products: C = alpha A B (+ C), in one kernel for all sizes and strides.

What a product of matrices, one of a matrix and a few vectors, and the sum of partial products have
in common is how they are cut into blocks; a word says what becomes of a block (`products.WAYS`).
That all of them are one kernel is so that a batch of another size compiles nothing.

For matrices the scheme is that of Goto and van de Geijn (Anatomy of High-Performance Matrix
Multiplication, 2008): a tile of C stays in registers while a loop runs along the depth, and blocks
of A and B are laid out anew where the tile would read them badly from where they lie. The loops,
outermost first:

    tasks                   blocks of rows, blocks of columns, slices of the depth, outer axes
      inner axes            further summed axes that make no matrix with the others
        depth               so that a panel of B stays in the first cache
          columns           so that the panels of B stay in the second
            rows            so that the rows of A stay in the second
              panels        `TILE_VECTORS` vectors of columns
                tiles       `TILE_ROWS` rows

Outer axes are those of the batch, and rows or columns that do not lie evenly with the others. A
kernel needs at most two blocks as scratch, and never copies a whole operand. Where it lays blocks
of A or B out anew, one of the operand's two strides is 1.
"""

from __future__ import annotations

from typing import Any

from ...ir import ITEMSIZE
from ..lowering.products import GROUP, WAYS
from ..prelude import inline, operand, real, word
from .kinds import KINDS
from .matvec import make_dots, make_sums, make_totals
from .tiles import TILE_ROWS, TILE_VECTORS, make_copy, make_fetch, make_tile, make_turn
from .vectors import LINE_BYTES, lanes

(
    ROWS,
    COLUMNS,
    DEPTH,
    A_ROW,
    A_DEPTH,
    B_DEPTH,
    B_COLUMN,
    C_ROW,
    C_COLUMN,
    C_SLICE,
    ROW_BLOCKS,
    COLUMN_BLOCKS,
    SLICES,
    BLOCK_ROWS,
    BLOCK_COLUMNS,
    BLOCK_DEPTH,
    PACK_A,
    PACK_B,
    SCRATCH,
    WAY,
    ADD,
    ALPHA,
    OUTER,
) = range(8, 31)
"""Words after the operands A, B, C and scratch.

Sizes; strides in elements (C_COLUMN is 1 but for dots and totals; C_SLICE is from one slice's sums
to the next); how many blocks of rows and columns and how many slices of the depth are tasks of
their own; the largest block that is worked on at once; whether those of A and B are laid out anew;
bytes of scratch a chunk; which of the `WAYS` it is; whether C is added to, and the factor. From
OUTER on: the number of outer axes, then of each its size and strides in A, B and C; the same for
inner axes, whose strides in C are not used. For totals, what is added up is the depth of A, and B
is not looked at.
"""

AXIS_WORDS = 4

TILES, DOTS, SUMS, TOTALS = range(len(WAYS))


@inline
def origins(axes: int, index: int) -> tuple[int, int, int]:
    """Where an index of the axes that a table begins with lies, in A, B and C."""
    a = b = c = 0
    for axis in range(word(axes, 0) - 1, -1, -1):
        place = 1 + AXIS_WORDS * axis
        rest = 0
        if axis > 0:
            rest = index // word(axes, place)
            index -= rest * word(axes, place)
        a += index * word(axes, place + 1)
        b += index * word(axes, place + 2)
        c += index * word(axes, place + 3)
        index = rest
    return a, b, c


@inline
def count(axes: int) -> int:
    """How many indices the axes that a table begins with have."""
    total = 1
    for axis in range(word(axes, 0)):
        total *= word(axes, 1 + AXIS_WORDS * axis)
    return total


@inline
def piece(index: int, pieces: int, size: int, unit: int) -> tuple[int, int]:
    """Where piece `index` of so many begins and ends; all but the last are whole units."""
    units = (size + unit - 1) // unit
    start = index * units // pieces * unit
    return start, min(size, (index + 1) * units // pieces * unit)


def make_product(dtype: str) -> Any:
    """The kernel; an iteration is a task, and the words are above."""
    number, item, lane = KINDS[dtype][0], ITEMSIZE[dtype], lanes(dtype)
    tile, narrow = make_tile(dtype, TILE_VECTORS), make_tile(dtype, 1)
    copy, turn, fetch = make_copy(dtype), make_turn(dtype), make_fetch(dtype)
    dots, sums, totals = make_dots(dtype), make_sums(dtype), make_totals(dtype)

    @inline
    def multiply(
        a: int,
        a_row: int,
        a_depth: int,
        b: int,
        b_depth: int,
        b_panel: int,
        padded: bool,
        c: int,
        c_row: int,
        rows: int,
        columns: int,
        depth: int,
        alpha: Any,
        add: int,
    ) -> None:
        """A block of C, by tiles; `padded`: a last panel of B may be read to its full width."""
        panel = TILE_VECTORS * lane
        for j in range(0, columns, panel):
            width = min(panel, columns - j)
            strip = b + j // panel * b_panel * item
            for i in range(0, rows, TILE_ROWS):
                height = min(TILE_ROWS, rows - i)
                left, goal = a + i * a_row * item, c + (i * c_row + j) * item
                if width == panel or (padded and width > lane):
                    tile(
                        *(left, a_row, a_depth, strip, b_depth, goal, c_row),
                        *(height, width, depth, alpha, add),
                    )
                else:
                    for q in range(0, width, lane):
                        tail = min(lane, width - q)
                        narrow(
                            *(left, a_row, a_depth, strip + q * item, b_depth),
                            *(goal + q * item, c_row, height, tail, depth, alpha, add),
                        )

    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        a_row, a_depth = word(args, A_ROW), word(args, A_DEPTH)
        b_depth, b_column = word(args, B_DEPTH), word(args, B_COLUMN)
        c_row, c_column = word(args, C_ROW), word(args, C_COLUMN)
        way = word(args, WAY)
        unit = GROUP if way == DOTS else TILE_ROWS
        block_rows, block_columns = word(args, BLOCK_ROWS), word(args, BLOCK_COLUMNS)
        block_depth = word(args, BLOCK_DEPTH)
        pack_a, pack_b = word(args, PACK_A) != 0, word(args, PACK_B) != 0
        alpha = number(real(args, ALPHA))
        panel = TILE_VECTORS * lane
        outer = args + 8 * OUTER
        inner = outer + 8 * (1 + AXIS_WORDS * word(outer, 0))
        b_block = operand(frame, args, 3) + chunk * word(args, SCRATCH)
        b_block += -b_block % LINE_BYTES
        a_block = b_block
        if pack_b:
            a_block += block_depth * block_columns * item

        for task in range(lo, hi):
            rest = task // word(args, ROW_BLOCKS)
            row, row_end = piece(
                task - rest * word(args, ROW_BLOCKS),
                word(args, ROW_BLOCKS),
                word(args, ROWS),
                unit,
            )
            index = rest // word(args, COLUMN_BLOCKS)
            column, column_end = piece(
                rest - index * word(args, COLUMN_BLOCKS),
                word(args, COLUMN_BLOCKS),
                word(args, COLUMNS),
                panel,
            )
            rest = index // word(args, SLICES)
            part = index - rest * word(args, SLICES)
            depth = word(args, DEPTH)
            start, end = (
                part * depth // word(args, SLICES),
                (part + 1) * depth // word(args, SLICES),
            )
            a_outer, b_outer, c_outer = origins(outer, rest)
            c_task = part * word(args, C_SLICE) + c_outer
            add = word(args, ADD)
            for i in range(count(inner)):
                a_inner, b_inner, _ = origins(inner, i)
                a_task, b_task = a_outer + a_inner, b_outer + b_inner
                k = start
                while k < end:
                    depth = min(block_depth, end - k)
                    n = column
                    while n < column_end:
                        columns = min(block_columns, column_end - n)
                        right = operand(frame, args, 1) + item * (
                            b_task + k * b_depth + n * b_column
                        )
                        right_depth, right_panel = b_depth, panel
                        if pack_b:
                            size = depth * panel
                            if b_column == 1:
                                copy(right, b_depth, depth, columns, b_block, panel, panel, size)
                            else:
                                for j in range(0, columns, panel):
                                    first, width = (
                                        right + j * b_column * item,
                                        min(panel, columns - j),
                                    )
                                    turn(
                                        first,
                                        b_column,
                                        width,
                                        depth,
                                        b_block + j * depth * item,
                                        panel,
                                    )
                            right, right_depth, right_panel = b_block, panel, size
                        m = row
                        while m < row_end:
                            rows = min(block_rows, row_end - m)
                            left = operand(frame, args, 0) + item * (
                                a_task + m * a_row + k * a_depth
                            )
                            left_row, left_depth = a_row, a_depth
                            if pack_a:
                                ahead = left + block_rows * a_row * item
                                more = min(block_rows, row_end - m - rows)
                                if a_row == 1:
                                    copy(
                                        left, a_depth, depth, rows, a_block, block_rows, lane, lane
                                    )
                                    fetch(ahead, a_depth, depth, more)
                                    left_depth = block_rows
                                else:
                                    copy(left, a_row, rows, depth, a_block, block_depth, lane, lane)
                                    fetch(ahead, a_row, more, depth)
                                    left_row, left_depth = block_depth, 1
                                left = a_block
                            goal = operand(frame, args, 2) + item * (
                                c_task + m * c_row + n * c_column
                            )
                            if way == TILES:
                                multiply(
                                    *(left, left_row, left_depth),
                                    *(right, right_depth, right_panel, pack_b),
                                    *(goal, c_row, rows, columns, depth, alpha, add),
                                )
                            elif way == DOTS:
                                dots(
                                    *(left, left_row, right, b_column, goal, c_row, c_column),
                                    *(rows, columns, depth, alpha, add),
                                )
                            elif way == SUMS:
                                sums(
                                    *(left, left_row, left_depth, right, right_depth),
                                    *(goal, c_row, rows, columns, depth, alpha, add),
                                )
                            else:
                                totals(
                                    *(left, left_row, left_depth, goal, c_row, c_column),
                                    *(rows, columns, depth, alpha, add),
                                )
                            m += block_rows
                        n += block_columns
                    add = 1
                    k += block_depth

    return kernel
