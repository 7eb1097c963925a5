"""From a run's request to one executable graph: mode, mapping and reductions as graph transforms.

A mapped VJP is either the map of the VJP (stacked, per-sample gradients) or the VJP of the map
(gradients of unmapped inputs summed over samples, never stacked); a request may ask for both, and
then both are built over the same inputs and merged, so that common work is done once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import transform
from .ir import Graph, GraphBuilder, Input, Value, import_nodes
from .ops.reduce import ReduceMean, ReduceSum
from .ops.shape import BroadcastTo, Transpose


@dataclass(frozen=True)
class Question:
    """What is to be computed, names already resolved.

    Attributes:
        mode: ``forward``, ``vjp`` or ``jvp``.
        graph: Outputs selected, one for each answer.
        wrt: Inputs with gradients (vjp) or tangents (jvp).
        seeds: Names of the outputs that have cotangents.
        axes: Mapped axis from the front, by input name; None when nothing is mapped.
        seed_axes: Mapped axis of a cotangent, by output name.
        tangent_axes: Mapped axis of a tangent, by input name.
        reduce: ``sum`` or ``mean`` by (``outputs``/``gradients``/``tangents``, name).
    """

    mode: str
    graph: Graph
    wrt: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ()
    axes: Mapping[str, int] | None = None
    seed_axes: Mapping[str, int] | None = None
    tangent_axes: Mapping[str, int] | None = None
    reduce: Mapping[tuple[str, str], str] | None = None

    @property
    def answers(self) -> tuple[tuple[str, str], ...]:
        """Kind and name of each result, such as (``gradients``, ``x``), in order."""
        graph = self.graph
        found = [("outputs", name) for name, _ in graph.outputs]
        if self.mode == "vjp":
            found += [("gradients", name) for name in self.wrt]
        elif self.mode == "jvp":
            floats = [name for name, id in graph.outputs if graph.type_of(id).is_float]
            found += [("tangents", name) for name in floats]
        return tuple(found)


@dataclass(frozen=True)
class Program:
    """An executable graph and what its inputs and outputs mean.

    Attributes:
        graph: Inputs are the question's, then cotangents (of `seeds`) or tangents (of `wrt`).
        answers: For each output of the graph: kind and name, such as (``gradients``, ``x``).
    """

    graph: Graph
    answers: tuple[tuple[str, str], ...]


def build(question: Question, size: int | None) -> Program:
    """Make the graph that answers a question; `size` is the length of the mapped axis, if any."""
    mapped = question.axes is not None and size is not None
    if question.mode == "vjp":
        program = _mapped_vjp(question, size) if mapped and size is not None else _vjp(question)
    else:
        program = _jvp(question) if question.mode == "jvp" else _forward(question)
        if mapped and size is not None:
            axes = _axes(question, program.graph)
            program = Program(transform.vmap(program.graph, size, axes), program.answers)
    done = {("gradients", name) for name in _summed(question)} if mapped else set()
    left = {answer: how for answer, how in (question.reduce or {}).items() if answer not in done}
    return _reduce(program, left)


def _summed(question: Question) -> tuple[str, ...]:
    """Inputs whose gradients the VJP of the map sums by itself: unmapped and reduced."""
    axes, reduce = question.axes or {}, question.reduce or {}
    return tuple(n for n in question.wrt if n not in axes and ("gradients", n) in reduce)


def _forward(question: Question) -> Program:
    return Program(question.graph, question.answers)


def _jvp(question: Question) -> Program:
    return Program(transform.jvp(question.graph, question.wrt), question.answers)


def _vjp(question: Question) -> Program:
    derived = transform.vjp(question.graph, question.wrt, question.seeds)
    return Program(derived, question.answers)


def _axes(question: Question, graph: Graph) -> dict[str, int]:
    """Mapped axes of a program's inputs: the question's own, then those of seeds or tangents."""
    axes = dict(question.axes or {})
    extra = graph.inputs[len(question.graph.inputs) :]
    order: list[str] = []
    given: Mapping[str, int] = {}
    if question.mode == "vjp":
        order = [name for name, _ in question.graph.outputs if name in question.seeds]
        given = question.seed_axes or {}
    elif question.mode == "jvp":
        order, given = list(question.wrt), question.tangent_axes or {}
    for spec, name in zip(extra, order, strict=True):
        if name in given:
            axes[spec.name] = given[name]
    return axes


def _mapped_vjp(question: Question, size: int) -> Program:
    """Stacked gradients by vmap of vjp, reduced ones of unmapped inputs by vjp of vmap."""
    axes, reduce = question.axes or {}, question.reduce or {}
    summed = _summed(question)
    stacked = tuple(name for name in question.wrt if name not in summed)
    single = transform.vjp(question.graph, stacked, question.seeds)
    first = transform.vmap(single, size, _axes(question, single))
    answers = [("outputs", name) for name, _ in question.graph.outputs]
    answers += [("gradients", name) for name in stacked]
    if not summed:
        return Program(first, tuple(answers))
    second = transform.vjp(transform.vmap(question.graph, size, axes), summed, question.seeds)
    merged, gradients = _merge(first, second, question, size)
    named: list[tuple[str, Value | int]] = list(merged.graph(first.outputs).outputs)
    for name, total in zip(summed, gradients, strict=True):
        if reduce["gradients", name] == "mean":
            total = total / float(size)
        named.append((f"gradient of {name}", total))
        answers.append(("gradients", name))
    return _in_order(Program(merged.graph(named), tuple(answers)), question.wrt)


def _merge(
    first: Graph, second: Graph, question: Question, size: int
) -> tuple[GraphBuilder, list[Value]]:
    """Both graphs in one builder over the inputs of the first; the gradients of the second.

    Cotangents of the second belong to stacked outputs: axis 0 is the mapped one.
    """
    builder = GraphBuilder(inputs=list(first.inputs), lowered=True)
    values = [builder.value(i) for i in range(len(first.inputs))]
    import_nodes(builder, first, values)
    m = len(question.graph.inputs)
    axes = _axes(question, second)
    arguments = values[:m]
    for spec, value in zip(second.inputs[m:], values[m:], strict=True):
        arguments.append(_stack(value, axes.get(spec.name), size))
    env = import_nodes(builder, second, arguments)
    offset = len(question.graph.outputs)
    return builder, [env[id] for _, id in second.outputs[offset:]]


def _stack(value: Value, axis: int | None, size: int) -> Value:
    """A cotangent with its mapped axis in front, repeated where it has none."""
    if axis is None:
        return BroadcastTo((size, *value.shape), tuple(range(1, value.rank + 1)))(value)
    if axis == 0:
        return value
    return Transpose((axis, *(a for a in range(value.rank) if a != axis)))(value)


def _in_order(program: Program, wrt: Sequence[str]) -> Program:
    """Gradients in the order of `wrt`, whichever way they were computed."""
    rank = {name: i for i, name in enumerate(wrt)}
    pairs = list(zip(program.answers, program.graph.outputs, strict=True))
    pairs.sort(key=lambda p: -1 if p[0][0] == "outputs" else rank[p[0][1]])
    answers = tuple(answer for answer, _ in pairs)
    return Program(program.graph.with_outputs([o for _, o in pairs]), answers)


def _reduce(program: Program, reduce: Mapping[tuple[str, str], str]) -> Program:
    """Sum or average stacked answers over axis 0 where the request says so."""
    if not reduce:
        return program
    graph = program.graph
    builder = GraphBuilder(inputs=list(graph.inputs), lowered=True)
    values = [builder.value(i) for i in range(len(graph.inputs))]
    env = import_nodes(builder, graph, values)
    outputs: list[tuple[str, Value | int]] = []
    for answer, (name, id) in zip(program.answers, graph.outputs, strict=True):
        how = reduce.get(answer)
        value = env[id]
        if how is not None:
            value = (ReduceMean(0) if how == "mean" else ReduceSum(0))(value)
        outputs.append((name, value))
    return Program(builder.graph(outputs), program.answers)


def with_taps(graph: Graph, nodes: Sequence[int]) -> tuple[Graph, tuple[str, ...]]:
    """A graph in which each of `nodes` has an input added to it, whose gradient is its cotangent.

    Used to look at intermediate cotangents; fed with zeros the taps change no value.
    """
    builder = GraphBuilder()
    env: dict[int, Value] = {i: builder.input(spec) for i, spec in enumerate(graph.inputs)}
    tapped = set(nodes)
    taps = {id: builder.input(Input(f"tap {id}", graph.type_of(id))) for id in nodes}
    for k, node in enumerate(graph.nodes, start=len(graph.inputs)):
        value = builder.push(node.op, tuple(env[i].id for i in node.inputs), node.type, None)
        env[k] = value + taps[k] if k in tapped else value
    result = builder.graph([(name, env[id]) for name, id in graph.outputs])
    return result, tuple(f"tap {id}" for id in nodes)
