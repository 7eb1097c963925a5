"""A batch of one: the axis that other batches have more of is an axis to the planner all the same.

How a graph is planned follows from its shapes, and in shapes an axis of one element cannot be told
from none. So here the axis that leads most values, if it has one element, gets `BATCH` of them, a
prime that no size in memory comes near. What is planned then is what any other batch would get, and
each size, stride and offset is a polynomial in `BATCH`, of which `elements` takes the value at one.

Any graph that is well typed with such an axis may be planned so, as its kernels are right for every
size. Which axes of values are the batch follows from one of an input: axes of one element are tried
in turn. From there it spreads forward by the ops' typing. Where an op meets it in one operand and
not in the other, the other is traced back to what may as well be larger (another input, constants,
random numbers, a broadcast); what remains of one element, as a mean over the batch does, is
broadcast.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from math import prod
from typing import Any

from ..errors import EngineError
from ..ir import Graph, GraphBuilder, Node, Type, Value
from ..ops.linalg import DotGeneral
from ..ops.logic import Elementwise
from ..ops.shape import BroadcastTo, Reshape, Slice
from .program import Layout

BATCH = 2**61 - 1
"""How many elements an axis of one is planned to have."""

TRIED = 8
"""So many axes of inputs are tried as the batch."""


def elements(planned: int) -> int:
    """A planned size, stride or offset with one element in place of `BATCH`."""
    found = 0
    while planned:
        planned, digit = divmod(planned + BATCH // 2, BATCH)
        found += digit - BATCH // 2
    return found


def type_in_memory(planned: Type) -> Type:
    """A planned type with its sizes in memory."""
    return planned.with_shape(map(elements, planned.shape))


def layout_in_memory(planned: Layout) -> Layout:
    """A planned layout with its sizes, strides and offset in memory."""
    return replace(
        planned,
        offset=elements(planned.offset),
        shape=tuple(map(elements, planned.shape)),
        strides=tuple(map(elements, planned.strides)),
    )


def batched(graph: Graph) -> Graph:
    """The graph as it is planned: itself, or with an axis of `BATCH` where its batch is one.

    Values may be broadcast where they were not; inputs, outputs and their order stay.
    """
    sizes = Counter(shape[0] for shape in _shapes(graph) if shape)
    ones = sorted(
        (axis, i)
        for i, spec in enumerate(graph.inputs)
        for axis, size in enumerate(spec.type.shape)
        if size == 1
    )
    if not sizes[1] or any(0 in shape for shape in _shapes(graph)):
        return graph
    least = max((count for size, count in sizes.items() if size != 1), default=0)
    best, seen = graph, set[tuple[int, int]]()
    for axis, i in ones[:TRIED]:
        if (i, axis) in seen:
            continue
        spread = _Spread(graph, (i, axis))
        found = spread.run()
        seen |= spread.wide
        if found is None:
            continue
        leads = sum(bool(shape) and shape[0] >= BATCH for shape in _shapes(found))
        if leads > least:
            best, least = found, leads
    return best


def _shapes(graph: Graph) -> Iterable[tuple[int, ...]]:
    return (graph.type_of(id).shape for id in range(graph.size))


class _Clash(Exception):
    """The graph has no such axis."""


class _Spread:
    """What becomes of a graph if one axis of an input is the batch.

    Args:
        graph: The graph.
        start: The input and its axis.

    Attributes:
        wide: Axes of inputs and nodes that are of `BATCH` where they need not be.
    """

    def __init__(self, graph: Graph, start: tuple[int, int]) -> None:
        self._graph, self.wide = graph, {start}
        self._traced: set[tuple[int, int]] = set()

    def run(self) -> Graph | None:
        """The graph; None where the axis cannot be a batch."""
        try:
            known = 0
            while known < len(self.wide):
                known = len(self.wide)
                found = self._forward()
            return found
        except (_Clash, EngineError):
            return None

    def _forward(self) -> Graph:
        """The graph, as far as it is known what is wide."""
        graph = self._graph
        builder = GraphBuilder(lowered=True)
        env = [
            builder.input(replace(spec, type=self._widened(i, spec.type)))
            for i, spec in enumerate(graph.inputs)
        ]
        for id, node in enumerate(graph.nodes, len(graph.inputs)):
            builder.origin, builder.source = node.origin, node.source
            operands = [env[i] for i in node.inputs]
            self._match(node, operands)
            op, type = self._typed(id, node, operands)
            if type_in_memory(type) != node.type:
                raise _Clash
            env.append(builder.push(op, tuple(x.id for x in operands), type, node.name))
        return builder.graph([(name, env[id]) for name, id in graph.outputs])

    def _widened(self, id: int, type: Type) -> Type:
        shape = (BATCH if (id, axis) in self.wide else n for axis, n in enumerate(type.shape))
        return type.with_shape(shape)

    # -- forward -----------------------------------------------------------------------------------

    def _match(self, node: Node, operands: list[Value]) -> None:
        """Give all operands of an op the batch that some of them have."""
        pairs: list[tuple[tuple[int, int], tuple[int, int]]] = []
        if isinstance(node.op, Elementwise):
            rank = node.type.rank
            wide = {
                a: k for k, x in enumerate(operands) for a in range(rank) if x.shape[a] == BATCH
            }
            pairs = [((k, a), (n, a)) for a, k in wide.items() for n in range(len(operands))]
        elif isinstance(node.op, DotGeneral):
            r = node.op.roles(*(x.rank for x in operands))
            for a, b in zip((*r.contract_a, *r.batch_a), (*r.contract_b, *r.batch_b), strict=True):
                pairs += [((0, a), (1, b)), ((1, b), (0, a))]
        for (k, a), (n, b) in pairs:
            x = operands[n]
            if operands[k].shape[a] == BATCH and x.shape[b] == 1:
                self._trace(node.inputs[n], b)
                shape = (BATCH if axis == b else size for axis, size in enumerate(x.shape))
                operands[n] = BroadcastTo(tuple(shape))(x)

    def _typed(self, id: int, node: Node, operands: Sequence[Value]) -> tuple[Any, Type]:
        """An op for operands with a batch, and the type of its result."""
        op: Any = node.op
        before = [self._graph.type_of(i) for i in node.inputs]
        if not operands:
            return op, self._widened(id, node.type)
        if isinstance(op, BroadcastTo):
            (x,), shape = operands, list(self._widened(id, node.type).shape)
            place = op.placement(x.type)
            for size, wide, axis in zip(before[0].shape, x.shape, place, strict=True):
                shape[axis] = wide if size == op.shape[axis] else op.shape[axis]
            op = BroadcastTo(tuple(shape), place)
        elif all(x.type == type for x, type in zip(operands, before, strict=True)):
            return op, node.type
        elif isinstance(op, Reshape):
            op = Reshape(_regrouped(operands[0].shape, node.type.shape))
        elif isinstance(op, Slice):
            sizes = zip(op.starts, op.limits, before[0].shape, operands[0].shape, strict=True)
            limits = (wide if (a, b) == (0, n) else b for a, b, n, wide in sizes)
            op = Slice(op.starts, tuple(limits), op.strides)
        return op, op.typing(*(x.type for x in operands))

    # -- back --------------------------------------------------------------------------------------

    def _trace(self, id: int, axis: int) -> None:
        """Widen what an axis of one element comes from, if there is anything to widen."""
        stack = [(id, axis)]
        while stack:
            at = stack.pop()
            if at not in self._traced:
                self._traced.add(at)
                came = self._before(*at)
                stack += came or ()
                if came is None:
                    self.wide.add(at)

    def _before(self, id: int, axis: int) -> list[tuple[int, int]] | None:
        """Which axes an axis of a value comes from; None if it begins here."""
        k = id - len(self._graph.inputs)
        if k < 0 or not self._graph.nodes[k].inputs:
            return None
        node = self._graph.nodes[k]
        source = self._graph.type_of(node.inputs[0])
        if isinstance(node.op, Elementwise):
            return [(i, axis) for i in node.inputs]
        if isinstance(node.op, BroadcastTo):
            place = node.op.placement(source)
            return [(node.inputs[0], place.index(axis))] if axis in place else None
        if isinstance(node.op, Reshape):
            found = _counterpart(node.type.shape, axis, source.shape)
            return [] if found is None else [(node.inputs[0], found)]
        return list(self._typed_from(node, axis))

    def _typed_from(self, node: Node, axis: int) -> Iterable[tuple[int, int]]:
        """The axes of operands that an axis of a result is, one by one, by the op's typing."""
        types = [self._graph.type_of(i) for i in node.inputs]
        wanted = [BATCH if a == axis else size for a, size in enumerate(node.type.shape)]
        for k, (id, type) in enumerate(zip(node.inputs, types, strict=True)):
            for a in (a for a, size in enumerate(type.shape) if size == 1):
                shape = (*type.shape[:a], BATCH, *type.shape[a + 1 :])
                with suppress(EngineError):
                    found = node.op.typing(*types[:k], type.with_shape(shape), *types[k + 1 :])
                    if list(found.shape) == wanted:
                        yield id, a


def _regrouped(source: Sequence[int], target: Sequence[int]) -> tuple[int, ...]:
    """The sizes of a reshape to `target` (as in memory) of something that has a batch.

    A batch goes to an axis of one element where it was, or is merged with a neighbour.
    """
    shape, actual = list(target), [elements(size) for size in source]
    for axis, planned in enumerate(source):
        size, factor = actual[axis], 1
        while planned % BATCH == 0:
            planned, factor = planned // BATCH, factor * BATCH
        if planned != size:
            raise _Clash
        if factor == 1:
            continue
        # A batch is the slowest part of an axis that it was merged into.
        at = prod(actual[axis:])
        own = _ones_at(actual, at) if size == 1 else []
        free = _ones_at(target, at)
        if free:
            place = own.index(axis) - max(len(own) - len(free), 0) if own else 0
            free = free[max(place, 0) :]
        left = [a for a in range(len(target)) if prod(target[a + 1 :]) >= at]
        right = [a for a in range(len(target)) if prod(target[a:]) <= at]
        within = [a for a in range(len(target)) if a not in left and a not in right]
        choices = (left[-1:], right[:1]) if size == 1 else (right[:1], left[-1:])
        chosen = next((c for c in (free, within, *choices) if c), None)
        if chosen is None:
            raise _Clash
        shape[chosen[0]] *= factor
    return tuple(shape)


def _ones_at(shape: Sequence[int], at: int) -> list[int]:
    """The axes of one element between those that hold `at` elements together and the others."""
    return [a for a, n in enumerate(shape) if n == 1 and prod(shape[a:]) == at]


def _counterpart(target: Sequence[int], axis: int, source: Sequence[int]) -> int | None:
    """The axis of a reshape's operand that an axis of one of its result was."""
    at = prod(target[axis:])
    ones, found = _ones_at(target, at), _ones_at(source, at)
    place = ones.index(axis) + max(len(found) - len(ones), 0)
    return found[place] if place < len(found) else None
