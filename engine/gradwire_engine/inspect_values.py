"""`nan_policy: error`: find the first non-finite value of a run, in the order a reader would look.

Inputs come first, then the user's nodes by rising id; then for a VJP the cotangents by falling id,
for a JVP the tangents by rising id. Composites count as one node: their inner values are not the
user's. Cotangents are observed through zero inputs added at every node (`program.with_taps`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from . import errors
from .ir import Graph
from .program import Question, with_taps

Array = np.ndarray[Any, Any]
Answers = list[tuple[tuple[str, str], Array]]
Observe = Callable[[Question], Answers]
Seen = Iterator[tuple[str, int, Array, bool]]
"""Stage, value id, array, and whether axis 0 counts samples."""


def first_non_finite(
    question: Question,
    mapped: bool,
    tensors: Mapping[str, Array],
    hidden: frozenset[str],
    run: Observe,
) -> errors.NonFinite | None:
    """The first non-finite value of a run as an error, or None.

    Args:
        question: The run.
        mapped: Whether results carry a leading axis of samples.
        tensors: The tensors given, by path.
        hidden: Inputs that are not the caller's.
        run: Computes another question on the same tensors.
    """
    graph = question.graph
    for stage, id, array, sampled in _observations(question, mapped, tensors, hidden, run):
        if np.isfinite(array).all():
            continue
        flat = np.ascontiguousarray(array).reshape(array.shape[0] if sampled else 1, -1)
        sample, index = (int(i) for i in np.argwhere(~np.isfinite(flat))[0])
        m = len(graph.inputs)
        node = graph.nodes[id - m] if id >= m else None
        return errors.NonFinite(
            stage=stage,
            node=id,
            name=graph.name_of(id),
            op=node.op.name if node is not None else None,
            sample=sample if sampled else None,
            index=index,
            value=_word(float(flat[sample, index])),
            source=node.source if node is not None else None,
        )
    return None


def _word(value: float) -> str:
    if value != value:
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _observations(
    question: Question,
    mapped: bool,
    tensors: Mapping[str, Array],
    hidden: frozenset[str],
    run: Observe,
) -> Seen:
    graph = question.graph
    yield from _given(question, "inputs", "input", tensors, question.axes or {}, hidden)
    nodes = _float_nodes(graph)
    named = [(f"value {id}", id) for id in nodes]
    watched = replace(question, mode="forward", graph=graph.with_outputs(named), reduce=None)
    if nodes:
        for id, (_, array) in zip(nodes, run(watched), strict=True):
            yield "forward", id, array, mapped
    if question.mode == "vjp":
        yield from _cotangents(question, mapped, nodes, run)
    elif question.mode == "jvp":
        yield from _tangents(question, mapped, tensors, nodes, hidden, run)


def _float_nodes(graph: Graph) -> list[int]:
    """Nodes that the outputs depend on and that can be non-finite."""
    live = graph.reachable(id for _, id in graph.outputs)
    m = len(graph.inputs)
    return [id for id in range(m, graph.size) if live[id] and graph.type_of(id).is_float]


def _given(
    question: Question,
    head: str,
    stage: str,
    tensors: Mapping[str, Array],
    axes: Mapping[str, int],
    hidden: frozenset[str],
) -> Seen:
    for id, spec in enumerate(question.graph.inputs):
        array = tensors.get(f"{head}/{spec.name}")
        if array is None or spec.name in hidden or array.dtype.kind != "f":
            continue
        axis = axes.get(spec.name)
        yield stage, id, array if axis is None else np.moveaxis(array, axis, 0), axis is not None


def _cotangents(question: Question, mapped: bool, nodes: Sequence[int], run: Observe) -> Seen:
    tapped, taps = with_taps(question.graph, nodes)
    ids = dict(zip(taps, nodes, strict=True))
    watched = replace(question, graph=tapped, wrt=(*question.wrt, *taps), reduce=None)
    found: dict[int, Array] = {}
    for (kind, name), array in run(watched):
        if kind == "gradients":
            id = ids.get(name, question.graph.input_id(name))
            if id is not None:
                found[id] = array
    for id in sorted(found, reverse=True):
        yield "cotangent", id, found[id], mapped


def _tangents(
    question: Question,
    mapped: bool,
    tensors: Mapping[str, Array],
    nodes: Sequence[int],
    hidden: frozenset[str],
    run: Observe,
) -> Seen:
    yield from _given(question, "tangents", "tangent", tensors, question.tangent_axes or {}, hidden)
    if not nodes:
        return
    named = [(f"value {id}", id) for id in nodes]
    answers = run(replace(question, graph=question.graph.with_outputs(named), reduce=None))
    tangents = [array for (kind, _), array in answers if kind == "tangents"]
    for id, array in zip(nodes, tangents, strict=True):
        yield "tangent", id, array, mapped
