"""Forward mode: a graph that computes its outputs and pushes tangents through, node by node.

Primal nodes come first for each node, its tangent right after; a tangent that is zero is not
computed at all (it is None here). The rules are those of the ops; see `Op.push_forward`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .. import errors
from ..ir import Graph, GraphBuilder, Input, Type, Value
from ..ops.base import Op
from ..ops.sources import constant
from .lower import lower
from .names import output_names, value_names


@dataclass(frozen=True)
class Pushed:
    """A builder holding primal and tangent nodes, and the tangents by lowered value id."""

    builder: GraphBuilder
    primals: dict[int, Value]
    tangents: dict[int, Value]


def float_outputs(graph: Graph) -> list[tuple[str, int]]:
    """The outputs that carry derivatives, in order."""
    return [(name, id) for name, id in graph.outputs if graph.type_of(id).is_float]


def reverse_only_nodes(graph: Graph) -> list[int]:
    """Ids of nodes whose op has no forward mode; looks at the graph as the user wrote it."""
    m = len(graph.inputs)
    return [m + k for k, node in enumerate(graph.nodes) if node.op.reverse_only]


def preflight(graph: Graph) -> None:
    """Refuse a forward-mode request that would meet a reverse-only op.

    Raises:
        JvpUnavailable: With the ops and the ids of the nodes in question.
    """
    live = graph.reachable(id for _, id in graph.outputs)
    nodes = [id for id in reverse_only_nodes(graph) if live[id]]
    if nodes:
        m = len(graph.inputs)
        ops = sorted({graph.nodes[id - m].op.name for id in nodes})
        raise errors.JvpUnavailable(ops=ops, nodes=nodes, source=graph.source_of(nodes[0]))


def push(graph: Graph, tangent_names: Sequence[tuple[str, str]]) -> Pushed:
    """Primal and tangent nodes of a lowered graph.

    Args:
        graph: Primitives only.
        tangent_names: Pairs (input name, name of its tangent input), in the order of the inputs to
            be added.
    """
    builder = GraphBuilder(lowered=True)
    primals = {i: builder.input(spec) for i, spec in enumerate(graph.inputs)}
    tangents: dict[int, Value] = {}
    for name, tangent_name in tangent_names:
        id = graph.input_id(name)
        if id is None:
            raise errors.UnknownInput(input=name)
        tangents[id] = builder.input(Input(tangent_name, graph.inputs[id].type))
    live = graph.reachable(id for _, id in graph.outputs)
    for k, node in enumerate(graph.nodes, start=len(graph.inputs)):
        if not live[k]:
            continue
        builder.origin, builder.source = node.origin, node.source
        operands = tuple(primals[i] for i in node.inputs)
        y = primals[k] = builder.push(node.op, tuple(v.id for v in operands), node.type, node.name)
        if not node.type.is_float:
            continue
        if node.origin is not None:
            builder.origin = node.origin.serving("tangent")
        dy = _push_node(node.op, y, operands, tuple(tangents.get(i) for i in node.inputs))
        if dy is not None:
            tangents[k] = dy
    return Pushed(builder, primals, tangents)


def _push_node(
    op: Op, y: Value, operands: tuple[Value, ...], tangents: tuple[Value | None, ...]
) -> Value | None:
    if not op.reverse_only:
        return op.push_forward(y, operands, tangents)
    total: Value | None = None
    for i, t in enumerate(tangents):
        if t is not None and op.base_operand(i) not in op.nondiff:
            part = ReverseOnlyTangent(op, i)(t, y, *operands)
            total = part if total is None else total + part
    return total


class ReverseOnlyTangent(Op, inputs=("dx", "*rest"), linear_in=("dx",), private=True):
    """Stands for the tangent that a reverse-only op cannot compute, until it is transposed.

    It appears inside a VJP only, between linearization and transposition, and never runs.
    """

    op: Any = None
    position: Any = 0

    def typing(self, dx: Type, *rest: Type) -> Type:
        return rest[0]

    def transpose_dx(self, ct: Value, dx: Type, *rest: Value) -> Value:
        rule = getattr(self.op, f"vjp_{self.op.base_operand(self.position)}")
        result: Value = rule(ct, *rest)
        return result


def jvp(graph: Graph, wrt: Sequence[str]) -> Graph:
    """The graph of values and tangents.

    Args:
        graph: Any graph.
        wrt: Names of the inputs that have tangents.

    Returns:
        Inputs as before, then ``tangent.<input>`` for each of `wrt`; outputs as before, then
        ``tangent.<output>`` for each float output.

    Raises:
        JvpUnavailable: A node on the way has no forward mode.
    """
    preflight(graph)
    lowered = lower(graph).graph
    fresh, fresh_out = value_names(lowered), output_names(graph)
    pushed = push(lowered, [(name, fresh("tangent", name)) for name in wrt])
    outputs: list[tuple[str, Value | int]] = [
        (name, pushed.primals[id]) for name, id in lowered.outputs
    ]
    for name, id in float_outputs(lowered):
        dy = pushed.tangents.get(id)
        if dy is None:
            dy = zero_tangent(pushed, lowered, id)
        outputs.append((fresh_out("tangent", name), dy))
    return pushed.builder.graph(outputs)


def zero_tangent(pushed: Pushed, lowered: Graph, id: int) -> Value:
    """The tangent of a value that depends on no input with one, as a node."""
    origin = lowered.origin_of(id)
    pushed.builder.origin = None if origin is None else origin.serving("tangent")
    pushed.builder.source = None
    return constant(lowered.type_of(id), 0.0, pushed.builder)
