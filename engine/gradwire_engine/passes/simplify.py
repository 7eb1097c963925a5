"""Simplification by identities that hold for every float, NaN, infinity and signed zero included.

So there is no x*0 -> 0, no x-x -> 0, no x/x -> 1, no x+0 -> x (it would keep a -0.0) and no
reassociation. A named node is left as it is: its name is somebody's handle. `scale` and `div` by 1
stay too: graphs that differ in their factors only, or in what a mean is taken over, shall be one
graph to the compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..ir import Graph, GraphBuilder, Node, Value
from ..ops import elementwise, logic, reduce, shape
from ..ops.sources import known_number
from .rewrite import rewrite

Identity = Callable[[Any, Sequence[Value]], Value | None]


def simplify(graph: Graph) -> Graph:
    """The graph with identities removed and chains of rearrangements shortened."""

    def rule(builder: GraphBuilder, node: Node, operands: Sequence[Value]) -> Value | None:
        if node.name is not None:
            return None
        identity = RULES.get(type(node.op))
        return identity(node.op, operands) if identity is not None else None

    return rewrite(graph, rule)


def _maker(value: Value) -> Node | None:
    index = value.id - len(value.builder.inputs)
    return value.builder.nodes[index] if index >= 0 else None


def _same_shape(op: Any, operands: Sequence[Value]) -> Value | None:
    (x,) = operands
    target = op.typing(x.type)
    return x if target == x.type else None


def _broadcast(op: Any, operands: Sequence[Value]) -> Value | None:
    (x,) = operands
    if x.shape == op.shape:
        return x
    node = _maker(x)
    if node is not None and isinstance(node.op, shape.BroadcastTo):
        inner = x.builder.value(node.inputs[0])
        outer_place = op.placement(x.type)
        place = tuple(outer_place[p] for p in node.op.placement(inner.type))
        stretches = any(
            s != 1 and s != op.shape[p] for s, p in zip(inner.shape, place, strict=True)
        )
        return None if stretches else shape.BroadcastTo(op.shape, place)(inner)
    return None


def _reshape(op: Any, operands: Sequence[Value]) -> Value | None:
    (x,) = operands
    target = op.target(x.type)
    if target == x.shape:
        return x
    node = _maker(x)
    if node is not None and isinstance(node.op, shape.Reshape):
        inner = x.builder.value(node.inputs[0])
        return inner if inner.shape == target else shape.Reshape(target)(inner)
    return None


def _transpose(op: Any, operands: Sequence[Value]) -> Value | None:
    (x,) = operands
    perm = tuple(p % x.rank for p in op.perm)
    if perm == tuple(range(x.rank)):
        return x
    node = _maker(x)
    if node is not None and isinstance(node.op, shape.Transpose):
        inner = x.builder.value(node.inputs[0])
        before = tuple(p % x.rank for p in node.op.perm)
        merged = tuple(before[p] for p in perm)
        return inner if merged == tuple(range(x.rank)) else shape.Transpose(merged)(inner)
    return None


def _neg(op: Any, operands: Sequence[Value]) -> Value | None:
    node = _maker(operands[0])
    if node is not None and isinstance(node.op, elementwise.Neg):
        return operands[0].builder.value(node.inputs[0])
    return None


def _mul(op: Any, operands: Sequence[Value]) -> Value | None:
    a, b = operands
    if known_number(b) == 1.0:
        return a
    return b if known_number(a) == 1.0 else None


def _where(op: Any, operands: Sequence[Value]) -> Value | None:
    return operands[1] if operands[1].id == operands[2].id else None


def _detach(op: Any, operands: Sequence[Value]) -> Value | None:
    return operands[0]


def _reduce(op: Any, operands: Sequence[Value]) -> Value | None:
    (x,) = operands
    return x if op.axes(x.rank) == () else None


RULES: dict[type, Identity] = {
    elementwise.Neg: _neg,
    elementwise.Mul: _mul,
    logic.Where: _where,
    elementwise.Cast: _same_shape,
    elementwise.Detach: _detach,
    reduce.ReduceSum: _reduce,
    shape.BroadcastTo: _broadcast,
    shape.Reshape: _reshape,
    shape.Transpose: _transpose,
}
