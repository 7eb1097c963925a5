"""Batching: a graph over samples from a graph over one, without a loop.

A mapped value carries the batch in its leading axis; a value that depends on no mapped input stays
as it is, computed once. Each op's `vmap` rule says how it acts on such operands.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..ir import Graph, GraphBuilder, Input, Value
from ..ops.shape import BroadcastTo, Transpose
from .lower import lower


def mapped_axis(axis: int, rank: int) -> int | None:
    """The batch axis, from the front, of an input of `rank` axes a sample; None: out of range."""
    total = rank + 1
    return axis % total if -total <= axis < total else None


def vmap(graph: Graph, size: int, in_axes: Mapping[str, int]) -> Graph:
    """Map `graph` over an axis of some inputs.

    Args:
        graph: Any graph.
        size: Length of the mapped axis, at least 0.
        in_axes: The mapped axis for each mapped input, by name; negative ones count from the end of
            the mapped shape. Must be in range.

    Returns:
        Mapped inputs gain an axis of `size`; every output gains axis 0 (one that depends on no
        mapped input is repeated).
    """
    lowered = lower(graph).graph
    builder = GraphBuilder(lowered=True)
    axes: dict[int, int] = {}
    for i, spec in enumerate(lowered.inputs):
        shape = list(spec.type.shape)
        if spec.name in in_axes:
            axis = mapped_axis(in_axes[spec.name], spec.type.rank)
            if axis is None:
                raise ValueError(f"in_axes[{spec.name!r}] is out of range")
            axes[i] = axis
            shape.insert(axis, size)
        builder.input(Input(spec.name, spec.type.with_shape(shape), spec.differentiable))
    env: dict[int, Value] = {}
    mapped = set(axes)
    for i in range(len(lowered.inputs)):
        env[i] = builder.value(i)
        if axes.get(i, 0) != 0:
            builder.origin = lowered.origin_of(i)
            rest = [a for a in range(env[i].rank) if a != axes[i]]
            env[i] = Transpose((axes[i], *rest))(env[i])
    for k, node in enumerate(lowered.nodes, start=len(lowered.inputs)):
        builder.origin, builder.source = node.origin, node.source
        operands = [env[i] for i in node.inputs]
        flags = tuple(i in mapped for i in node.inputs)
        if any(flags):
            env[k] = node.op.vmap(size, flags, *operands)
            mapped.add(k)
        else:
            env[k] = builder.push(node.op, tuple(v.id for v in operands), node.type, None)
        _carry_name(builder, env[k], node.name)
    builder.source = None
    outputs: list[tuple[str, Value | int]] = []
    for name, id in lowered.outputs:
        y = env[id]
        if id not in mapped:
            builder.origin = lowered.origin_of(id)
            y = BroadcastTo((size, *y.shape), tuple(range(1, y.rank + 1)))(y)
        outputs.append((name, y))
    return builder.graph(outputs)


def _carry_name(builder: GraphBuilder, value: Value, name: str | None) -> None:
    """Give a node its original's name, unless its rule answered with an older value."""
    index = value.id - len(builder.inputs)
    if name is not None and index == len(builder.nodes) - 1 and builder.nodes[index].name is None:
        builder.rename(value.id, name)
