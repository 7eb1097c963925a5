"""Reverse mode: linearize by pushing symbolic tangents forward, then transpose the linear part."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Graph, GraphBuilder, Origin, Value
from ..ops.sources import constant
from .jvp import float_outputs, push
from .lower import lower
from .names import output_names, value_names
from .transpose import transpose


def vjp(graph: Graph, wrt: Sequence[str], seeds: Sequence[str] | None = None) -> Graph:
    """The graph of values and gradients.

    Args:
        graph: Any graph.
        wrt: Names of the inputs whose gradients are wanted.
        seeds: Names of the outputs that have cotangents; those of the others are zero. By default
            every float output has one.

    Returns:
        Inputs as before, then ``cotangent.<output>`` for each of `seeds`, in the order of the
        outputs; outputs as before, then ``gradient.<input>`` for each of `wrt`.
    """
    lowered = lower(graph).graph
    fresh, fresh_out = value_names(lowered), output_names(graph)
    # The tangent inputs live only until they are transposed; their names cannot clash with any.
    linear = [(name, f"tangent of {name}") for name in wrt]
    pushed = push(lowered, linear)
    floats = float_outputs(lowered)
    linearized = pushed.builder.graph([])
    places = []
    for name, id in floats:
        if seeds is not None and name not in seeds:
            continue
        dy = pushed.tangents.get(id)
        at = dy.id if dy is not None else pushed.primals[id].id
        places.append((fresh("cotangent", name), at))
    primal_ids = [pushed.primals[id].id for _, id in lowered.outputs]
    pulled = transpose(linearized, [t for _, t in linear], places, primal_ids)
    outputs: list[tuple[str, Value | int]] = [
        (name, pulled.values[id]) for (name, _), id in zip(lowered.outputs, primal_ids, strict=True)
    ]
    for name, ct in zip(wrt, pulled.cotangents, strict=True):
        if ct is None:
            ct = _zero_gradient(pulled.builder, graph, name)
        outputs.append((fresh_out("gradient", name), ct))
    return pulled.builder.graph(outputs)


def _zero_gradient(builder: GraphBuilder, graph: Graph, name: str) -> Value:
    """The exact zero of an input that no cotangent reaches."""
    id = graph.names[name]
    builder.origin = Origin(id, "cotangent", "input")
    return constant(graph.type_of(id), 0.0, builder)
