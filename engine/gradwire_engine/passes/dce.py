"""Dead code elimination: only what the outputs depend on is kept; inputs always are."""

from __future__ import annotations

from ..ir import Graph, GraphBuilder, import_nodes


def dce(graph: Graph) -> Graph:
    """The graph without nodes that no output depends on."""
    live = graph.reachable(id for _, id in graph.outputs)
    builder = GraphBuilder(inputs=list(graph.inputs))
    arguments = [builder.value(i) for i in range(len(graph.inputs))]
    env = import_nodes(builder, graph, arguments, live, names=True)
    return builder.graph([(name, env[id]) for name, id in graph.outputs])
