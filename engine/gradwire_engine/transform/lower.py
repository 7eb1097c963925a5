"""Lowering: composites replaced by their expansions, so that only primitives are left."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir import Graph, GraphBuilder, Origin


@dataclass(frozen=True)
class Lowered:
    """A graph of primitives, and where each value of the original went."""

    graph: Graph
    ids: tuple[int, ...]


def lower(graph: Graph) -> Lowered:
    """Expand every composite; a node that serves one is tagged with the call it came from.

    The value of a named node keeps its name (the last node of its expansion carries it).
    """
    builder = GraphBuilder(inputs=list(graph.inputs), lowered=True)
    m = len(graph.inputs)
    ids = list(range(m))
    for k, node in enumerate(graph.nodes, start=m):
        builder.origin = Origin(k, "primal", node.op.name)
        builder.source = node.source
        operands = [builder.value(ids[i]) for i in node.inputs]
        if node.op.kind == "composite":
            before = len(builder.nodes)
            result = builder.apply(node.op, *operands)
            if node.name is not None and result.id >= m + before:
                builder.rename(result.id, node.name)
            ids.append(result.id)
        else:
            inputs = tuple(v.id for v in operands)
            ids.append(builder.push(node.op, inputs, node.type, node.name).id)
    outputs = [(name, ids[id]) for name, id in graph.outputs]
    return Lowered(builder.graph(outputs), tuple(ids))
