"""Transposition of the linear part of a graph: cotangents of outputs pulled back to linear inputs.

The nodes that do not depend on the linear inputs are copied as they are (they hold residuals); the
others are linear by construction and are walked backwards, each by its op's transpose rule. A node
that no cotangent reaches is skipped, so an unreached input gets an exact zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..ir import Graph, GraphBuilder, Input, Node, Type, Value, import_nodes


@dataclass(frozen=True)
class Pulled:
    """The builder of the transposed graph, its copied values and the pulled-back cotangents."""

    builder: GraphBuilder
    values: dict[int, Value]
    cotangents: list[Value | None]


def transpose(
    graph: Graph, linear: Sequence[str], seeds: Sequence[tuple[str, int]], keep: Sequence[int] = ()
) -> Pulled:
    """Transpose `graph` in its inputs `linear`.

    Args:
        graph: Primitives only, linear in the inputs called `linear`.
        linear: Names of the linear inputs; the result has no such inputs.
        seeds: Pairs (name of a new cotangent input, id of the value that it belongs to); the value
            need not depend on a linear input.
        keep: Values that are wanted in the result too; they depend on no linear input.

    Returns:
        The builder; new values for the copied ids; one cotangent for each of `linear`, in order,
        None where no seed reaches it.
    """
    linear_ids = [_id(graph, name) for name in linear]
    tangent = graph.dependents(linear_ids)
    builder = GraphBuilder(lowered=True)
    values: dict[int, Value] = {}
    for i, spec in enumerate(graph.inputs):
        if i not in linear_ids:
            values[i] = builder.input(spec)
    accumulated: dict[int, Value] = {}
    arriving: list[tuple[int, Value]] = []
    for name, id in seeds:
        arriving.append((id, builder.input(Input(name, graph.type_of(id)))))
    needed = graph.reachable([*keep, *(id for _, id in seeds)])
    residual = [n and not t for n, t in zip(needed, tangent, strict=True)]
    arguments = [values.get(i) for i in range(len(graph.inputs))]
    values |= _copy(builder, graph, arguments, residual)
    for id, ct in arriving:
        if tangent[id]:
            _accumulate(accumulated, id, ct)
    m = len(graph.inputs)
    for k in range(graph.size - 1, m - 1, -1):
        ct_k = accumulated.pop(k, None)
        if ct_k is not None:
            _pull_node(builder, graph, graph.nodes[k - m], ct_k, tangent, values, accumulated)
    builder.origin = builder.source = None
    return Pulled(builder, values, [accumulated.get(id) for id in linear_ids])


def _id(graph: Graph, name: str) -> int:
    id = graph.input_id(name)
    if id is None:
        raise KeyError(name)
    return id


def _copy(
    builder: GraphBuilder, graph: Graph, arguments: Sequence[Value | None], keep: Sequence[bool]
) -> dict[int, Value]:
    present = {i: v for i, v in enumerate(arguments) if v is not None}
    stand_in = next(iter(present.values()), None)
    # Linear inputs have no value here and no kept node reads them; any handle fills their place.
    filled = [present.get(i, stand_in) for i in range(len(arguments))]
    env = import_nodes(builder, graph, filled, keep, names=True)  # type: ignore[arg-type]
    return {i: v for i, v in env.items() if i >= len(arguments) or i in present}


def _accumulate(accumulated: dict[int, Value], id: int, ct: Value) -> None:
    before = accumulated.get(id)
    accumulated[id] = ct if before is None else before + ct


def _pull_node(
    builder: GraphBuilder,
    graph: Graph,
    node: Node,
    ct: Value,
    tangent: Sequence[bool],
    values: Mapping[int, Value],
    accumulated: dict[int, Value],
) -> None:
    op = node.op
    builder.source = node.source
    if node.origin is not None:
        builder.origin = node.origin.serving("cotangent")
    names = [op.base_operand(i) for i in range(len(node.inputs))]
    arguments: list[Value | Type] = []
    for id, name in zip(node.inputs, names, strict=True):
        as_type = tangent[id] or (op.jointly and name in op.linear_in)
        arguments.append(graph.type_of(id) if as_type else values[id])
    variadic = {o.name for o in op.operands if o.variadic}
    for i, (id, name) in enumerate(zip(node.inputs, names, strict=True)):
        if not tangent[id]:
            continue
        rule = getattr(op, f"transpose_{name}")
        part = rule(ct, i, *arguments) if name in variadic else rule(ct, *arguments)
        _accumulate(accumulated, id, part)
