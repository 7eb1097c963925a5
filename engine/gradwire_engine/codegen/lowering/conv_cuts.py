"""How a convolution is cut: what tilings cost, about, and the cheapest of those worth trying.

Costs are cycles of the busiest thread. They need not be exact: they weigh what is computed and
dropped at the ends of rows against copies, halos and idle threads.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache

from ...ir import ITEMSIZE
from .conv_blocks import (
    LANES,
    PRODUCT_PANELS,
    ROWS,
    WEIGHTS_PANELS,
    WIDTHS,
    Axis,
    Cut,
    Problem,
    Tiling,
)

TILE_BYTES = (64 << 10, 128 << 10, 224 << 10)
"""Sizes of the signal of a tile that are tried."""

PANEL_BYTES = 20 << 10
"""Up to here a panel and its mask stay in the first cache, beside the signal."""

SCRATCH_BYTES = 160 << 10
"""Up to here the scratch memory of a chunk stays in the second cache, beside the weights."""

CROWDED = 1 / (1 << 20)
"""How much slower, relatively, each byte beyond that makes the inner loop."""

SLOWER = 1.25
"""How much slower the inner loop is where a panel leaves the first cache."""


def block_cycles(rows: int, columns: int) -> float:
    """What a step of the inner loop costs, for all blocks that cover rows x columns vectors."""
    full, rest = divmod(rows, ROWS)
    return full * _block_cycles(ROWS, columns) + (_block_cycles(rest, columns) if rest else 0)


def _block_cycles(rows: int, columns: int) -> float:
    wide, narrow = WIDTHS[rows]
    widest, rest = divmod(columns, wide)
    wider, single = divmod(rest, narrow)
    # Two multiply-adds a cycle or two loads; a sum waits four cycles for itself.
    return sum(
        count * max(rows * width / 2, (rows + 1.5 * width + 2) / 2, 4)
        for count, width in ((widest, wide), (wider, narrow), (single, 1))
    )


def crowding(tiling: Tiling, channels: int, panels: int) -> float:
    """How much slower a tile is than if its scratch memory were small, as a factor."""
    _, _, nbytes = tiling.places(channels, panels)
    return 1 + CROWDED * max(0, nbytes - SCRATCH_BYTES)


@lru_cache(maxsize=1024)
def cut_product(problem: Problem, threads: int) -> Cut:
    """How to compute y: the cheapest of some tilings."""
    best, least = None, math.inf
    for tiling in tilings(problem, problem.channels):
        whole = tiling.tiles * problem.groups
        blocks = -(-problem.filters // ROWS)
        for slices in range(1, min(blocks, 2 * threads) + 1 if whole < 4 * threads else 2):
            # Slices of whole blocks: the largest one counts.
            filters = min(problem.filters, ROWS * -(-blocks // slices))
            depth = problem.channels * problem.cells
            calls = -(-filters // ROWS) * (tiling.vectors / WIDTHS[ROWS][0] + 1)
            cycles = block_cycles(filters, tiling.vectors) * depth + 40 * calls
            cycles += problem.channels * tiling.pack_cycles
            cycles += filters * tiling.copy_cycles(tiling.axes[-1].y)
            cycles *= crowding(tiling, problem.channels, PRODUCT_PANELS)
            cycles *= -(-whole * slices // threads)
            if cycles < least:
                best, least = Cut(tiling, slices, 1, whole * slices, cycles), cycles
    assert best is not None
    return best


@lru_cache(maxsize=1024)
def cut_weights(problem: Problem, threads: int) -> Cut:
    """How to compute w: the cheapest of some tilings."""
    best, least = None, math.inf
    item, lanes = ITEMSIZE[problem.dtype], LANES[problem.dtype]
    blocks = -(-problem.filters // ROWS)
    for parts in (1, 2, 4, 8, 16):
        if parts > problem.channels:
            break
        channels = -(-problem.channels // parts)
        for tiling in tilings(problem, channels):
            for slices in range(1, min(blocks, threads) + 1):
                filters = min(problem.filters, ROWS * -(-blocks // slices))
                cells = channels * problem.cells
                calls = -(-filters // ROWS) * (cells / WIDTHS[ROWS][0] + 1)
                cycles = block_cycles(filters, cells) * tiling.vectors + 60 * calls
                if tiling.vectors * lanes * item * (ROWS + 1) > PANEL_BYTES:
                    cycles *= SLOWER
                cycles += channels * tiling.pack_cycles
                cycles += filters * tiling.copy_cycles(tiling.axes[-1].y)
                cycles *= crowding(tiling, channels, WEIGHTS_PANELS)
                iterations = problem.groups * parts * slices
                cycles *= tiling.tiles * -(-iterations // threads)
                if cycles < least:
                    best, least = Cut(tiling, slices, parts, iterations, cycles), cycles
    assert best is not None
    return best


def tilings(problem: Problem, channels: int) -> Iterator[Tiling]:
    """Tilings worth a thought, where so many channels of the signal are held."""
    item, lanes = ITEMSIZE[problem.dtype], LANES[problem.dtype]
    order = sorted(problem.axes, key=lambda a: -abs(a.x))
    long = [a for a in order if abs(a.x) == 1 and a.count >= 4 * lanes]
    rooms = [max(1, nbytes // (item * max(channels, 1))) for nbytes in TILE_BYTES]
    for inner in long or order:
        axes = (*(a for a in order if a is not inner), inner)
        for flat in range(1, len(axes) + 1):
            tiles = dict.fromkeys(t for room in rooms for t in _grown(problem, axes, flat, room))
            yield from (Tiling(problem, axes, tile, flat) for tile in tiles)


def _grown(
    problem: Problem, axes: tuple[Axis, ...], flat: int, room: int
) -> Iterator[tuple[int, ...]]:
    """Tiles as large as `room` elements a channel allow, the inner axes first; and some smaller."""
    tile = [1] * len(axes)
    for i in reversed(range(len(axes))):
        count = max(axes[i].count, 1)

        def fitting(size: int, i: int = i) -> bool:
            grown = (*tile[:i], size, *tile[i + 1 :])
            return Tiling(problem, axes, grown, flat).pitch <= room

        most = 1 + bisect_right(range(2, count + 1), False, key=lambda t: not fitting(t))
        if most < count or i == 0:
            least = -(-count // most)
            for parts in range(least, min(count, least + 4) + 1):
                size = -(-count // parts)
                yield (*tile[:i], size, *tile[i + 1 :])
            return
        tile[i] = count
