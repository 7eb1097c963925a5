"""Convolution from tiles of the signal: the product itself, and the gradient of its weights.

Both kernels know three tensors, a signal x, weights w and a product y, as functions of places:

    y[g, o, p] = sum over channels i and cells k of w[g, o, i, k] * x[g, i, p * stride + first + k]

where p and k have an entry for each axis (dilation is in the table of cells, and samples are an
axis with one cell). `make_product` computes y from x and w, `make_weights` sums w from x and y.

A chunk works on one tile of places at a time. It copies what the tile sees of the signal, zeros for
what lies outside, to its scratch memory, small enough for the second cache: neighbours along the
last axis lie next to each other even where the stride is larger, because the places of one
remainder by the stride make a row of their own. There the loops of `conv_tiles` run over vectors of
neighbouring places. Results go through a *panel*, a row of vectors for each of a few filters, which
knows nothing of layouts; places that exist for no output are computed and dropped.
"""

from __future__ import annotations

from typing import Any

from ...ir import ITEMSIZE
from ..lowering.conv_blocks import (
    AXIS,
    AXIS_WORDS,
    CELLS,
    CHANNEL_SLICES,
    CHANNELS,
    COUNT,
    EXTENT,
    FILTER_SLICES,
    FILTERS,
    FIRST,
    GROUPS,
    INPUT_ROWS,
    INPUT_UNIT,
    LINE,
    LINE_UNIT,
    LINES,
    OUTPUT_ROWS,
    OUTPUT_UNIT,
    PANEL_AT,
    PHASE,
    PITCH,
    RANK,
    ROWS,
    RUN_CELLS,
    SCRATCH,
    SIZE,
    STEP,
    STRIDE,
    TABLES_AT,
    TILE,
    TILE_UNIT,
    TILES,
    TILES_ALONG,
    W_FILTER,
    W_GROUP,
    X_CHANNEL,
    X_GROUP,
    Y_FILTER,
    Y_GROUP,
    X,
    Y,
)
from ..prelude import (
    divide,
    inline,
    least,
    load_i64,
    operand,
    remainder,
    select,
    store_i64,
    word,
)
from .conv_rows import make_copy, make_fill
from .conv_tiles import make_products, make_sums
from .kinds import KINDS
from .vectors import lanes

# -- places ----------------------------------------------------------------------------------------


@inline
def list_starts(args: int, lane: int, starts: int) -> int:
    """Where in scratch memory each vector of a panel begins. Elements of a line of vectors."""
    vectors = divide(word(args, LINE) + lane - 1, lane)
    for line in range(word(args, LINES)):
        begin, rest = 0, line
        for a in range(word(args, RANK) - 1):
            axis = AXIS + AXIS_WORDS * a
            unit = word(args, axis + LINE_UNIT)
            if unit != 0:
                along = divide(rest, unit)
                begin += along * word(args, axis + STEP)
                rest -= along * unit
        for v in range(vectors):
            store_i64(starts, line * vectors + v, begin + v * lane, 2)
    return vectors * lane


@inline
def list_origins(args: int, tile: int, origins: int) -> None:
    """The first place of a tile along each axis."""
    for a in range(word(args, RANK)):
        axis = AXIS + AXIS_WORDS * a
        number = divide(tile, word(args, axis + TILE_UNIT))
        along = remainder(number, word(args, axis + TILES_ALONG))
        store_i64(origins, a, along * word(args, axis + TILE), 2)


@inline
def list_inputs(args: int, origins: int, rows: int) -> None:
    """For each row of the signal that a tile sees: its element in x, and its place in scratch.

    A row runs along the last axis; x is counted from place 0 of that axis. A row that lies outside
    has -1 - place.
    """
    for r in range(word(args, INPUT_ROWS)):
        source, target, outside, rest = 0, 0, 0, r
        for a in range(word(args, RANK) - 1):
            axis = AXIS + AXIS_WORDS * a
            u = divide(rest, word(args, axis + INPUT_UNIT))
            rest -= u * word(args, axis + INPUT_UNIT)
            stride = word(args, axis + STRIDE)
            place = load_i64(origins, a, 2) * stride + word(args, axis + FIRST) + u
            if place < 0 or place >= word(args, axis + SIZE):
                outside = 1
            source += place * word(args, axis + X)
            step = divide(u, stride)
            target += step * word(args, axis + STEP)
            target += (u - step * stride) * word(args, axis + PHASE)
        store_i64(rows, 2 * r, source, 2)
        store_i64(rows, 2 * r + 1, select(outside != 0, -1 - target, target), 2)


@inline
def list_outputs(args: int, origins: int, line_length: int, rows: int) -> int:
    """For each row of a tile's outputs: its place in a panel, and its element in y. How many."""
    last = word(args, RANK) - 1
    first = load_i64(origins, last, 2) * word(args, AXIS + AXIS_WORDS * last + Y)
    count = 0
    for r in range(word(args, OUTPUT_ROWS)):
        panel, y, line, outside, rest = 0, first, 0, 0, r
        for a in range(last):
            axis = AXIS + AXIS_WORDS * a
            u = divide(rest, word(args, axis + OUTPUT_UNIT))
            rest -= u * word(args, axis + OUTPUT_UNIT)
            place = load_i64(origins, a, 2) + u
            if place >= word(args, axis + COUNT):
                outside = 1
            y += place * word(args, axis + Y)
            if word(args, axis + LINE_UNIT) != 0:
                line += u * word(args, axis + LINE_UNIT)
            else:
                panel += u * word(args, axis + STEP)
        if outside == 0:
            store_i64(rows, 2 * count, panel + line * line_length, 2)
            store_i64(rows, 2 * count + 1, y, 2)
            count += 1
    return count


@inline
def first_filter(args: int, part: int) -> int:
    """Where a slice of the filters begins; slices are whole blocks."""
    filters = word(args, FILTERS)
    blocks = divide(filters + ROWS - 1, ROWS)
    return least(filters, ROWS * divide(part * blocks, word(args, FILTER_SLICES)))


# -- copies ----------------------------------------------------------------------------------------


def _make_pack(dtype: str) -> Any:
    """``pack(args, x, first, last, origins, rows, scratch)``: a tile's signal, some channels."""
    number, load, store = KINDS[dtype]
    item, zero, fill = ITEMSIZE[dtype], number(0), make_fill(dtype)

    @inline
    def pack(
        args: int, x: int, first: int, last: int, origins: int, rows: int, scratch: int
    ) -> None:
        inner = word(args, RANK) - 1
        axis = AXIS + AXIS_WORDS * inner
        stride, extent = word(args, axis + STRIDE), word(args, axis + EXTENT)
        begin = load_i64(origins, inner, 2) * stride + word(args, axis + FIRST)
        across, size = word(args, axis + X), word(args, axis + SIZE)
        pitch, step = word(args, PITCH), across * stride
        for c in range(first, last):
            for r in range(word(args, INPUT_ROWS)):
                source, place = load_i64(rows, 2 * r, 2), load_i64(rows, 2 * r + 1, 2)
                exists = 1
                if place < 0:
                    place, exists = -1 - place, 0
                source = x + (c * word(args, X_CHANNEL) + source) * item
                target = scratch + ((c - first) * pitch + place) * item
                for phase in range(least(stride, extent)):
                    # Place i of the row is place `start + i * stride` of x; lo to hi exist.
                    start, count, hi, lo = begin + phase, extent, size - begin, -begin
                    if stride > 1:
                        count = divide(extent - phase + stride - 1, stride)
                        hi = divide(select(size > start, size - start, 0) + stride - 1, stride)
                        lo = divide(select(start < 0, -start, 0) + stride - 1, stride)
                    hi = select(hi > 0, least(hi, count), 0) * exists
                    lo = least(select(lo > 0, lo, 0), hi)
                    from_ = source + start * across * item
                    if step == 1:
                        fill(select(exists != 0, from_, target), target, lo, hi, count)
                    else:
                        for j in range(lo):
                            store(target, j, zero, 1)
                        if step == 2:
                            for j in range(lo, hi):
                                store(target, j, load(from_, 2 * j, 0), 1)
                        else:
                            for j in range(lo, hi):
                                store(target, j, load(from_, step * j, 0), 1)
                        for j in range(hi, count):
                            store(target, j, zero, 1)
                    target += word(args, axis + PHASE) * item

    return pack


# -- kernels ---------------------------------------------------------------------------------------


def make_product(dtype: str) -> Any:
    """Y from x and w. Operands: x, w, y, table, scratch.

    An iteration is a tile, a group and a slice of the filters, of which the last runs fastest.
    """
    _, load, store = KINDS[dtype]
    item, lane = ITEMSIZE[dtype], lanes(dtype)
    pack, products, copy = _make_pack(dtype), make_products(dtype), make_copy(dtype)

    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        x, w, y = operand(frame, args, 0), operand(frame, args, 1), operand(frame, args, 2)
        table = operand(frame, args, 3)
        scratch = operand(frame, args, 4) + chunk * word(args, SCRATCH)
        panel, origins = scratch + word(args, PANEL_AT), scratch + word(args, TABLES_AT)
        inputs = origins + 8 * word(args, RANK)
        outputs = inputs + 16 * word(args, INPUT_ROWS)
        starts = outputs + 16 * word(args, OUTPUT_ROWS)
        inner = AXIS + AXIS_WORDS * (word(args, RANK) - 1)
        slices, groups = word(args, FILTER_SLICES), word(args, GROUPS)
        w_pitch, y_pitch = word(args, W_FILTER), word(args, Y_FILTER)
        y_step = word(args, inner + Y)
        line = list_starts(args, lane, starts)
        pitch = word(args, LINES) * line
        last_tile, last_signal, rows, columns, vectors = -1, -1, 0, 0, 0
        for index in range(lo, hi):
            signal = divide(index, slices)
            tile = divide(signal, groups)
            part, group = index - signal * slices, signal - tile * groups
            if tile != last_tile:
                last_tile = tile
                list_origins(args, tile, origins)
                list_inputs(args, origins, inputs)
                rows = list_outputs(args, origins, line, outputs)
                place = load_i64(origins, word(args, RANK) - 1, 2)
                columns = least(word(args, inner + TILE), word(args, inner + COUNT) - place)
                end = load_i64(outputs, 2 * rows - 2, 2) + columns
                vectors = divide(end + lane - 1, lane)
            if signal != last_signal:
                last_signal = signal
                source = x + group * word(args, X_GROUP) * item
                pack(args, source, 0, word(args, CHANNELS), origins, inputs, scratch)
            f, end = first_filter(args, part), first_filter(args, part + 1)
            while f < end:
                height = least(ROWS, end - f)
                weights = w + (group * word(args, W_GROUP) + f * w_pitch) * item
                run = word(args, RUN_CELLS)
                depth = divide(word(args, CHANNELS) * word(args, CELLS), run)
                products(
                    scratch,
                    starts,
                    vectors,
                    table,
                    depth,
                    run,
                    weights,
                    w_pitch,
                    panel,
                    pitch,
                    height,
                )
                for i in range(height):
                    goal = y + (group * word(args, Y_GROUP) + (f + i) * y_pitch) * item
                    for r in range(rows):
                        source = panel + (i * pitch + load_i64(outputs, 2 * r, 2)) * item
                        target = goal + load_i64(outputs, 2 * r + 1, 2) * item
                        if y_step == 1:
                            copy(source, target, columns)
                        else:
                            for j in range(columns):
                                store(target, j * y_step, load(source, j, 1), 0)
                f += height

    return kernel


def make_weights(dtype: str) -> Any:
    """W from x and y. Operands: x, w, y, table, scratch.

    An iteration is a group, a slice of the filters and one of the channels, of which the last runs
    fastest; it sums over all tiles.
    """
    number, load, store = KINDS[dtype]
    item, lane = ITEMSIZE[dtype], lanes(dtype)
    zero, one = number(0), number(1)
    pack, sums, copy = _make_pack(dtype), make_sums(dtype), make_copy(dtype)

    def kernel(frame: int, args: int, lo: int, hi: int, chunk: int) -> None:
        x, w, y = operand(frame, args, 0), operand(frame, args, 1), operand(frame, args, 2)
        table = operand(frame, args, 3)
        scratch = operand(frame, args, 4) + chunk * word(args, SCRATCH)
        panel, origins = scratch + word(args, PANEL_AT), scratch + word(args, TABLES_AT)
        inputs = origins + 8 * word(args, RANK)
        outputs = inputs + 16 * word(args, INPUT_ROWS)
        starts = outputs + 16 * word(args, OUTPUT_ROWS)
        inner = AXIS + AXIS_WORDS * (word(args, RANK) - 1)
        channel_slices, filter_slices = word(args, CHANNEL_SLICES), word(args, FILTER_SLICES)
        w_pitch, y_pitch = word(args, W_FILTER), word(args, Y_FILTER)
        y_step, channels, cells = word(args, inner + Y), word(args, CHANNELS), word(args, CELLS)
        line = list_starts(args, lane, starts)
        pitch = word(args, LINES) * line
        mask = panel + ROWS * pitch * item
        # Tile -1 sets the weights to zero, the others add to them.
        for tile in range(-1, word(args, TILES)):
            rows, columns, vectors, last_signal = 0, 0, 0, -1
            if tile >= 0:
                list_origins(args, tile, origins)
                list_inputs(args, origins, inputs)
                rows = list_outputs(args, origins, line, outputs)
                place = load_i64(origins, word(args, RANK) - 1, 2)
                columns = least(word(args, inner + TILE), word(args, inner + COUNT) - place)
                end = load_i64(outputs, 2 * rows - 2, 2) + columns
                vectors = divide(end + lane - 1, lane)
                for j in range((ROWS + 1) * pitch):
                    store(panel, j, zero, 1)
                for r in range(rows):
                    for j in range(columns):
                        store(mask, load_i64(outputs, 2 * r, 2) + j, one, 1)
            for index in range(lo, hi):
                signal = divide(index, filter_slices)
                group = divide(signal, channel_slices)
                part, slice_ = index - signal * filter_slices, signal - group * channel_slices
                first = divide(slice_ * channels, channel_slices)
                last = divide((slice_ + 1) * channels, channel_slices)
                entries = table + 16 * first * cells
                count = (last - first) * cells
                if tile >= 0 and signal != last_signal:
                    last_signal = signal
                    source = x + group * word(args, X_GROUP) * item
                    pack(args, source, first, last, origins, inputs, scratch)
                held = scratch - first * word(args, PITCH) * item
                f, end = first_filter(args, part), first_filter(args, part + 1)
                while f < end:
                    height = least(ROWS, end - f)
                    goal = w + (group * word(args, W_GROUP) + f * w_pitch) * item
                    for i in range(height):
                        source = y + (group * word(args, Y_GROUP) + (f + i) * y_pitch) * item
                        for r in range(rows):
                            target = panel + (i * pitch + load_i64(outputs, 2 * r, 2)) * item
                            start = source + load_i64(outputs, 2 * r + 1, 2) * item
                            if y_step == 1:
                                copy(start, target, columns)
                            else:
                                for j in range(columns):
                                    store(target, j, load(start, j * y_step, 0), 1)
                        if tile < 0:
                            for k in range(count):
                                place = i * w_pitch + load_i64(entries, 2 * k + 1, 2)
                                store(goal, place, zero, 0)
                    if tile >= 0:
                        sums(
                            held,
                            entries,
                            count,
                            starts,
                            mask,
                            vectors,
                            panel,
                            pitch,
                            goal,
                            w_pitch,
                            height,
                        )
                    f += height

    return kernel
