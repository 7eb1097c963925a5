"""Sums and extremes over sliding windows, and transposes of such sums, found in a graph.

Average pooling is a sum over the kernel axes of `unfold`, its transpose the `fold` of something
broadcast over them; smooth max pooling starts with an extreme of windows. `with_pools` replaces
each by one op with a kernel of its own, which takes padding and a division by a constant along.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir import Graph, GraphBuilder, Node, Type, Value
from ...ops.base import Array, Op
from ...ops.elementwise import Div
from ...ops.reduce import ReduceMax, ReduceMin, ReduceSum
from ...ops.shape import BroadcastTo, Pad, Reshape
from ...ops.sources import known_number
from ...ops.window import Fold, Unfold
from ...ops.window_numpy import Grid, overlap_add, windows
from ...passes.dce import dce
from ...passes.rewrite import rewrite
from ..emit import Emitter
from ..program import Layout
from .window import lower_window_reduce, lower_window_spread


class PoolReduce(Op, inputs=("x",), private=True):
    """The sum, maximum or minimum of each window of x: [*lead, *size] to [*lead, *out].

    Cells in the padding count as 0; sums are divided by `divisor`.
    """

    how: Any
    grid: Any
    divisor: Any = 1.0

    def typing(self, x: Type) -> Type:
        """One element for each window."""
        return x.with_shape((*x.shape[: x.rank - self.grid.rank], *self.grid.out))

    def numpy(self, x: Array) -> Array:
        """The windows, reduced."""
        lead = x.ndim - self.grid.rank
        axes = tuple(range(lead, lead + self.grid.rank))
        ufunc: np.ufunc = {"sum": np.add, "max": np.maximum, "min": np.minimum}[self.how]
        result = ufunc.reduce(windows(x, self.grid), axis=axes)
        return np.asarray(result if self.divisor == 1 else result / self.divisor, dtype=x.dtype)


class PoolSpread(Op, inputs=("ct",), private=True):
    """The transpose of a sum over windows: ct [*lead, *out] to [*lead, *size]."""

    grid: Any
    divisor: Any = 1.0

    def typing(self, ct: Type) -> Type:
        """One element for each cell."""
        return ct.with_shape((*ct.shape[: ct.rank - self.grid.rank], *self.grid.size))

    def numpy(self, ct: Array) -> Array:
        """The windows, added back."""
        grid = self.grid
        lead = ct.shape[: ct.ndim - grid.rank]
        narrow = ct.reshape(*lead, *(1,) * grid.rank, *grid.out)
        total = overlap_add(np.broadcast_to(narrow, (*lead, *grid.kernel, *grid.out)), grid)
        return np.asarray(total if self.divisor == 1 else total / self.divisor, dtype=ct.dtype)


def with_pools(graph: Graph) -> Graph:
    """The graph with `PoolReduce` and `PoolSpread` wherever a part of it amounts to one.

    Args:
        graph: Primitives only.
    """
    return dce(rewrite(graph, _Rules(graph)))


REDUCTIONS = {ReduceSum: "sum", ReduceMax: "max", ReduceMin: "min"}


class _Rules:
    """The replacements, as a rule of `rewrite`.

    What is absorbed into a pool stays behind for others that use it; a division is absorbed only if
    nobody else wants the undivided value.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._uses = Counter(i for node in graph.nodes for i in node.inputs)
        self._uses.update(id for _, id in graph.outputs)

    def __call__(self, _: GraphBuilder, node: Node, operands: Sequence[Value]) -> Value | None:
        if node.type.size == 0 or any(v.type.size == 0 for v in operands):
            return None
        match node.op:
            case ReduceSum() | ReduceMax() | ReduceMin():
                return self._reduce(node, operands[0])
            case Fold():
                return self._spread(node, operands[0])
            case Pad():
                return _cropped(node.op, operands[0])
            case Div() if self._uses[node.inputs[0]] == 1:
                return _divided(*operands)
        return None

    def _reduce(self, node: Node, view: Value) -> Value | None:
        """A reduction over exactly the kernel axes of an unfolded value."""
        how = REDUCTIONS[type(node.op)]
        made = _maker(view, Unfold)
        if made is None:
            return None
        unfold, (x,) = made
        rank = unfold.spatial(x.rank)
        lead = x.rank - rank
        if node.op.axes(view.rank) != tuple(range(lead, lead + rank)):
            return None
        grid = unfold.grid(x.shape[lead:])
        padded = _maker(x, Pad)
        margin = _margin(padded[0], x.rank, lead) if padded is not None else None
        if padded is not None and margin is not None and not any(grid.padding):
            (x,) = padded[1]
            grid = Grid(x.shape[lead:], grid.kernel, grid.stride, margin)
        return _shaped(PoolReduce(how, grid)(x), node.type)

    def _spread(self, node: Node, wide: Value) -> Value | None:
        """A fold of something that is the same for all cells of a window."""
        made = _maker(wide, BroadcastTo)
        if made is None:
            return None
        broadcast, (x,) = made
        grid = node.op.target(wide.type)
        lead = wide.rank - 2 * grid.rank
        kept = {p: n for p, n in zip(broadcast.placement(x.type), x.shape, strict=True) if n != 1}
        for axis, size in enumerate(wide.shape):
            inside = lead <= axis < lead + grid.rank
            if kept.get(axis, 1) != (1 if inside else size):
                return None
        divisor, divided = 1.0, _maker(x, Div)
        (source,) = self._graph.nodes[node.inputs[0] - len(self._graph.inputs)].inputs
        if divided is not None and self._uses[source] == 1:
            number = _divisor(divided[1][1])
            if number is not None:
                divisor, x = number, divided[1][0]
        narrow = x.type.with_shape((*wide.shape[:lead], *grid.out))
        return PoolSpread(grid, divisor)(_shaped(x, narrow))


def _divided(x: Value, by: Value) -> Value | None:
    """A sum of windows divided by a number."""
    shaped = _maker(x, Reshape)
    made = _maker(x if shaped is None else shaped[1][0], PoolReduce)
    number = _divisor(by)
    if made is None or number is None or made[0].how != "sum" or made[0].divisor != 1:
        return None
    pool, (source,) = made
    return _shaped(PoolReduce("sum", pool.grid, number)(source), x.type)


def _divisor(value: Value) -> float | None:
    """The number that a value is, if its inverse is a number too, in any float dtype."""
    number = known_number(value)
    return number if number is not None and 1e-30 < abs(number) < 1e30 else None


def _cropped(op: Pad, x: Value) -> Value | None:
    """A spread whose margins are cut off: they were the padding of the windows."""
    made = _maker(x, PoolSpread)
    if made is None:
        return None
    (spread, (ct,)), lead = made, x.rank - made[0].grid.rank
    grid = spread.grid
    cut = _margin(op, x.rank, lead, sign=-1)
    if cut is None or any(grid.padding):
        return None
    size = tuple(n - 2 * p for n, p in zip(grid.size, cut, strict=True))
    return PoolSpread(Grid(size, grid.kernel, grid.stride, cut), spread.divisor)(ct)


def _maker(value: Value, kind: type[Op]) -> tuple[Any, tuple[Value, ...]] | None:
    """The op that made a value and its operands, if it is one of a kind."""
    builder = value.builder
    k = value.id - len(builder.inputs)
    if k < 0 or not isinstance(builder.nodes[k].op, kind):
        return None
    return builder.nodes[k].op, tuple(builder.value(i) for i in builder.nodes[k].inputs)


def _margin(op: Pad, rank: int, lead: int, sign: int = 1) -> tuple[int, ...] | None:
    """How many zeros an op puts on either side (sign -1: cuts off) of all axes but the leading."""
    margins = op.margins(rank)
    even = all(low == high and low * sign >= 0 and not gap for low, high, gap in margins)
    if not even or op.value != 0 or any(low for low, _, _ in margins[:lead]):
        return None
    return tuple(low * sign for low, _, _ in margins[lead:])


def _shaped(x: Value, type: Type) -> Value:
    return x if x.type == type else Reshape(type.shape)(x)


def lower_pool_reduce(emit: Emitter, op: Any, operands: Sequence[Layout], result: Layout) -> bool:
    """See `window.lower_window_reduce`."""
    lower_window_reduce(emit, op.how, operands[0], op.grid, result, divisor=op.divisor)
    return True


def lower_pool_spread(emit: Emitter, op: Any, operands: Sequence[Layout], result: Layout) -> bool:
    """See `window.lower_window_spread`."""
    lower_window_spread(emit, operands[0], op.grid, result, divisor=op.divisor)
    return True


LOWERINGS = {"pool_reduce": lower_pool_reduce, "pool_spread": lower_pool_spread}
