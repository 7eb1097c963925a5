"""The linear map at a point in two graphs: one computes residuals, the other maps tangents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir import Graph, GraphBuilder, Input, Origin, Value
from .jvp import float_outputs, preflight, push, zero_tangent
from .lower import lower
from .names import output_names, value_names


@dataclass(frozen=True)
class Linearization:
    """A graph split at its point of linearization.

    Attributes:
        residual: From the original inputs to the residuals, in the order of `residual_names`.
        tangent: From the residuals and ``tangent.<input>`` to ``tangent.<output>``; the residual
            inputs come first.
        residual_names: Names of the residual inputs of `tangent`.
        residual_origins: Which value of the original graph each residual is.
    """

    residual: Graph
    tangent: Graph
    residual_names: tuple[str, ...]
    residual_origins: tuple[Origin | None, ...]


def linearize(graph: Graph, wrt: Sequence[str]) -> Linearization:
    """Split the JVP of `graph` into its nonlinear and its linear part.

    Args:
        graph: Any graph.
        wrt: Names of the inputs that have tangents.

    Raises:
        JvpUnavailable: A node on the way has no forward mode.
    """
    preflight(graph)
    lowered = lower(graph).graph
    fresh, fresh_out = value_names(lowered), output_names(graph.with_outputs([]))
    linear = [(name, fresh("tangent", name)) for name in wrt]
    pushed = push(lowered, linear)
    outputs = []
    for name, id in float_outputs(lowered):
        dy = pushed.tangents.get(id)
        if dy is None:
            dy = zero_tangent(pushed, lowered, id)
        outputs.append((fresh_out("tangent", name), dy.id))
    whole = pushed.builder.graph(outputs)
    tangent_ids = range(len(lowered.inputs), len(whole.inputs))
    moving = whole.dependents(tangent_ids)
    live = whole.reachable(id for _, id in outputs)
    m = len(whole.inputs)
    needed = _residual_ids(whole, moving, live)
    names = tuple(f"residual.{i}" for i in range(len(needed)))
    residual = _residual_graph(whole, moving, len(lowered.inputs), needed, names)
    builder = GraphBuilder(lowered=True)
    env: dict[int, Value] = {}
    for name, id in zip(names, needed, strict=True):
        env[id] = builder.input(Input(name, whole.type_of(id), differentiable=False))
    for name, tangent_id in zip((t for _, t in linear), tangent_ids, strict=True):
        env[tangent_id] = builder.input(Input(name, whole.type_of(tangent_id)))
    for k in range(m, whole.size):
        node = whole.nodes[k - m]
        if live[k] and moving[k]:
            builder.origin, builder.source = node.origin, node.source
            inputs = tuple(env[i].id for i in node.inputs)
            env[k] = builder.push(node.op, inputs, node.type, None)
    tangent = builder.graph([(name, env[id]) for name, id in outputs])
    return Linearization(residual, tangent, names, tuple(whole.origin_of(id) for id in needed))


def _residual_ids(whole: Graph, moving: Sequence[bool], live: Sequence[bool]) -> list[int]:
    """Values that no tangent reaches but that the tangent part reads, or answers with."""
    m = len(whole.inputs)
    needed = {id for _, id in whole.outputs if not moving[id]}
    for k in range(m, whole.size):
        if live[k] and moving[k]:
            needed |= {i for i in whole.nodes[k - m].inputs if not moving[i]}
    return sorted(needed)


def _residual_graph(
    whole: Graph, moving: Sequence[bool], inputs: int, needed: Sequence[int], names: Sequence[str]
) -> Graph:
    """`whole` without its tangent inputs and nodes, answering with the residuals."""
    builder = GraphBuilder(inputs=list(whole.inputs[:inputs]), lowered=True)
    m = len(whole.inputs)
    ids = {i: i for i in range(inputs)}
    for k in range(m, whole.size):
        node = whole.nodes[k - m]
        if not moving[k]:
            pushed = builder.push(node.op, tuple(ids[i] for i in node.inputs), node.type, None)
            ids[k] = pushed.id
    return builder.graph((n, ids[i]) for n, i in zip(names, needed, strict=True))
