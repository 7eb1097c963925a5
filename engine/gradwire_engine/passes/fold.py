"""Constant folding: what depends on constants alone is computed once, when the plan is made.

Folding must not make a graph large: a result is stored only when it is no larger than what its
operands hold in memory, or 64 KiB, and the results of one pass stay within a budget: a plan keeps
them, and no estimate of its memory counts them. A broadcast of a constant holds only what it
repeats, and stays a broadcast; an elementwise op on such operands is computed on one element and
broadcast again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir import Graph, GraphBuilder, Node, Value
from ..ops.attributes import Literal
from ..ops.logic import Elementwise
from ..ops.shape import BroadcastTo
from ..ops.sources import Const
from .rewrite import rewrite

KEEP_BELOW = 64 * 1024
BUDGET = 64 * 2**20

Array = np.ndarray[Any, Any]


def fold(graph: Graph) -> Graph:
    """The graph with constant subexpressions replaced by constants."""
    known: dict[int, Array] = {}
    spent = 0

    def rule(builder: GraphBuilder, node: Node, operands: Sequence[Value]) -> Value | None:
        nonlocal spent
        if not all(v.id in known for v in operands):
            return None
        ids = tuple(v.id for v in operands)
        arrays = [known[v.id] for v in operands]
        if isinstance(node.op, Const | BroadcastTo):
            value = builder.push(node.op, ids, node.type, node.name)
            known[value.id] = node.op.numpy(*arrays)
            return value
        if not operands:  # counting and random numbers: cheaper to make than to keep
            return None
        if isinstance(node.op, Elementwise) and node.type.rank and all(map(_uniform, arrays)):
            one = _compute(node.op, [array[(0,) * array.ndim] for array in arrays])
            scalar = builder.push(Const(Literal(one)), (), node.type.with_shape(()), None)
            spread = BroadcastTo(node.type.shape)
            value = builder.push(spread, (scalar.id,), node.type, node.name)
            known[scalar.id], known[value.id] = one, spread.numpy(one)
            return value
        if node.type.nbytes > max(KEEP_BELOW, sum(map(_held, arrays))):
            return None
        if spent + node.type.nbytes > BUDGET:
            return None
        spent += node.type.nbytes
        array = _compute(node.op, arrays)
        value = builder.push(Const(Literal(array)), (), node.type, node.name)
        known[value.id] = array
        return value

    return rewrite(graph, rule)


def _compute(op: Any, arrays: Sequence[Any]) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(op.numpy(*(np.asarray(array) for array in arrays)))


def _uniform(array: Array) -> bool:
    """Whether an array is one element in memory, repeated."""
    return array.size > 0 and not any(
        stride for stride, size in zip(array.strides, array.shape, strict=True) if size > 1
    )


def _held(array: Array) -> int:
    """Bytes in memory behind an array: a broadcast holds what it repeats."""
    repeats = (n for stride, n in zip(array.strides, array.shape, strict=True) if stride == 0)
    return array.nbytes // max(1, int(np.prod(list(repeats), dtype=np.int64)))
