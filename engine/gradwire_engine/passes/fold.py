"""Constant folding: what depends on constants alone is computed once, when the plan is made.

Folding must not make a graph large: a result is stored only when it is no larger than its operands
or 64 KiB. Broadcasts of constants stay broadcasts (they cost nothing at run time) but count as
known, so that arithmetic on them folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir import Graph, GraphBuilder, Node, Value
from ..ops.attributes import Literal
from ..ops.shape import BroadcastTo
from ..ops.sources import Const
from .rewrite import rewrite

KEEP_BELOW = 64 * 1024


def fold(graph: Graph) -> Graph:
    """The graph with constant subexpressions replaced by constants."""
    known: dict[int, np.ndarray[Any, Any]] = {}

    def rule(builder: GraphBuilder, node: Node, operands: Sequence[Value]) -> Value | None:
        if not all(v.id in known for v in operands):
            return None
        ids = tuple(v.id for v in operands)
        small = node.type.nbytes <= max(KEEP_BELOW, sum(v.type.nbytes for v in operands))
        if not isinstance(node.op, Const | BroadcastTo) and (not operands or not small):
            return None
        arrays = [known[v.id] for v in operands]
        with np.errstate(all="ignore"):
            array = node.op.numpy(*arrays)
        if isinstance(node.op, Const | BroadcastTo):
            value = builder.push(node.op, ids, node.type, node.name)
        else:
            value = builder.push(Const(Literal(array)), (), node.type, node.name)
        known[value.id] = array
        return value

    return rewrite(graph, rule)
