"""Common subexpression elimination: equal ops on equal operands are computed once.

Ops compare by canonical text (`Op.key`), in which 0.0 differs from -0.0 and NaN equals itself. A
named node is never merged away: its name is somebody's handle.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Graph, GraphBuilder, Node, Value
from .rewrite import rewrite


def cse(graph: Graph) -> Graph:
    """The graph with each distinct computation once."""
    known: dict[tuple[str, tuple[int, ...]], Value] = {}

    def rule(builder: GraphBuilder, node: Node, operands: Sequence[Value]) -> Value | None:
        ids = tuple(v.id for v in operands)
        key = (node.op.key, ids)
        if node.name is None and key in known:
            return known[key]
        value = builder.push(node.op, ids, node.type, node.name)
        known.setdefault(key, value)
        return value

    return rewrite(graph, rule)
