"""The one walker that all passes share: copy a graph node by node, replacing as one goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..ir import Graph, GraphBuilder, Node, Value

Rule = Callable[[GraphBuilder, Node, Sequence[Value]], Value | None]
"""Given the new builder, an old node and its new operands: what stands for it, or None to copy."""


def rewrite(graph: Graph, rule: Rule) -> Graph:
    """Rebuild `graph`, asking `rule` at every node; names are kept where a node is copied."""
    builder = GraphBuilder(inputs=list(graph.inputs), lowered=True)
    env = [builder.value(i) for i in range(len(graph.inputs))]
    for node in graph.nodes:
        builder.origin, builder.source = node.origin, node.source
        operands = [env[i] for i in node.inputs]
        value = rule(builder, node, operands)
        if value is None:
            value = builder.push(node.op, tuple(v.id for v in operands), node.type, node.name)
        env.append(value)
    return builder.graph([(name, env[id]) for name, id in graph.outputs])
