"""From an optimized graph to a schedule: fuse, then emit every group's calls in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..ir import Graph, GraphBuilder, Node, Value
from ..ops.elementwise import exp, log
from ..ops.nn import LogSoftmax, Softmax
from ..ops.reduce import ReduceMax, ReduceSum
from ..passes.rewrite import rewrite
from .batch import batched
from .emit import Emitter
from .fuse import Fusion, Group, fuse
from .loops import emit_group
from .lowering import conv, index, matmul, move, pooling, random, scan, window
from .program import Layout, Schedule, dense_strides
from .recompute import recompute, stored
from .storage import Storage

Lowering = Callable[[Emitter, Any, Sequence[Layout], Layout], bool]

LOWERINGS: dict[str, Lowering] = {
    **conv.LOWERINGS,
    **index.LOWERINGS,
    **matmul.LOWERINGS,
    **move.LOWERINGS,
    **pooling.LOWERINGS,
    **random.LOWERINGS,
    **scan.LOWERINGS,
    **window.LOWERINGS,
}


def schedule(graph: Graph, threads: int) -> Schedule:
    """Everything that computes a graph's outputs from its inputs, in order.

    Args:
        graph: Primitives only, optimized.
        threads: How many chunks a large call should have.
    """
    graph = pooling.with_pools(spelled_out(graph))
    emit = _planned(batched(graph), threads)
    if emit.narrow:  # one large sample is worth kernels of its own
        emit = _planned(graph, threads)
    outputs = tuple(graph.type_of(id) for _, id in graph.outputs)
    return Schedule(tuple(emit.buffers), tuple(emit.steps), outputs)


def _planned(graph: Graph, threads: int) -> Emitter:
    """The calls that compute a graph, which may have a batch of one (see `batch`)."""
    fusion = fuse(graph)
    emit = Emitter(threads, move.lower_copy)
    storage = Storage(fusion, emit)
    recompute(fusion)
    outside = stored(fusion)
    for group in fusion.groups:
        if group.alone:
            _emit_alone(emit, fusion, group, storage)
        else:
            leaving = (id for id in group.members if fusion.group_of[id] is group)
            emit_group(emit, fusion, group, outside.intersection(leaving), storage)
    for id, place in storage.copies:
        if place.type.size:
            emit.copy(storage.layout(id), place)
    return emit


def spelled_out(graph: Graph) -> Graph:
    """The graph with `softmax` and `log_softmax` in terms of reductions and pointwise ops."""

    def rule(_: GraphBuilder, node: Node, operands: Sequence[Value]) -> Value | None:
        if not isinstance(node.op, Softmax | LogSoftmax) or not node.type.shape:
            return None
        if node.type.size == 0:
            return None
        (x,) = operands
        shifted = x - ReduceMax(-1, keepdims=True)(x)
        e = exp(shifted)
        total = ReduceSum(-1, keepdims=True)(e)
        if isinstance(node.op, LogSoftmax):
            return shifted - log(total)
        return e * (1.0 / total)  # of 1 to n: one division for a row instead of one an element

    return rewrite(graph, rule)


def _emit_alone(emit: Emitter, fusion: Fusion, group: Group, storage: Storage) -> None:
    """A node with a kernel of its own, or by its NumPy meaning where it has none."""
    (id,) = group.members
    node = fusion.node(id)
    assert node is not None
    if node.type.size == 0:
        return
    result = storage.layout(id)
    if id in fusion.sums:
        for k, product in enumerate(fusion.sums[id]):
            factor = fusion.node(product)
            assert factor is not None
            factors = [storage.layout(i) for i in factor.inputs]
            matmul.lower_dot(emit, factor.op, factors, result, accumulate=k > 0)
        return
    operands = [storage.layout(i) for i in node.inputs]
    if node.op.name == "reshape":
        emit.copy(*_reshaping(operands[0], result))
        return
    lowering = LOWERINGS.get(node.op.name)
    if lowering is None or not lowering(emit, node.op, operands, result):
        emit.host(node.op, operands, result)


def _reshaping(source: Layout, result: Layout) -> tuple[Layout, Layout]:
    """The copy that a reshape amounts to: the operand's elements in their order."""
    return source, replace(result, shape=source.shape, strides=dense_strides(source.shape))
