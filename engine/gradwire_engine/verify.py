"""What a well-formed graph is. Tests run this between passes; a failure is a bug of ours."""

from __future__ import annotations

from .ir import Graph


class Malformed(AssertionError):
    """A graph breaks an invariant; the message says which node and how."""


def verify(graph: Graph) -> Graph:
    """Check every invariant and return the graph.

    Raises:
        Malformed: An operand refers forward, a stored type is not what the op's typing says, two
            values share a name, or an output does not exist.
    """
    m = len(graph.inputs)
    seen: set[str] = set()
    for k, node in enumerate(graph.nodes, start=m):
        if any(not 0 <= i < k for i in node.inputs):
            raise Malformed(f"%{k} = {node.op.name}{node.inputs} refers forward")
        expected = node.op.typing(*(graph.type_of(i) for i in node.inputs))
        if expected != node.type:
            raise Malformed(f"%{k} = {node.op.name} is marked {node.type}, typing says {expected}")
    for name in [spec.name for spec in graph.inputs] + [n.name for n in graph.nodes if n.name]:
        if name in seen:
            raise Malformed(f"two values are called {name!r}")
        seen.add(name)
    for name, id in graph.outputs:
        if not 0 <= id < graph.size:
            raise Malformed(f"output {name!r} is %{id}, which does not exist")
    return graph
