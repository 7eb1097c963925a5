"""Transforms as requests ask for them: names resolved, options checked, points bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import errors, transform
from .ir import Graph, GraphBuilder, Input, import_nodes
from .limits import Limits
from .ops.attributes import Literal
from .ops.sources import Const
from .passes import tidy
from .request import TRANSFORMS, TransformSpec
from .selection import (
    check_axis,
    check_word,
    derived_output_names,
    differentiable,
    find_input,
    require_float_output,
    select_outputs,
)
from .transform.linearize import Linearization


@dataclass(frozen=True)
class Derived:
    """A derived graph; after `linearize`, also how to compute its residual inputs.

    Attributes:
        graph: The derived graph. Its residual inputs, if any, come first.
        point: For `linearize`: the residual graph and the residuals' names; else None.
        needed: For `linearize`: the inputs that a point has to give.
    """

    graph: Graph
    point: Linearization | None = None
    needed: tuple[str, ...] = ()


def derive(
    graph: Graph,
    spec: TransformSpec,
    hidden: frozenset[str] = frozenset(),
    path: str = "",
    limits: Limits | None = None,
) -> Derived:
    """Apply one transform.

    Args:
        graph: What is transformed.
        spec: The transform and its options.
        hidden: Inputs that are no concern of the caller's (residuals of an earlier linearization).
        path: Prefix of option paths in errors, such as ``transforms/0/``.
        limits: What the result is held to; None: nothing.

    Raises:
        EngineError: An option, name or output is not acceptable, or the result is too large.
    """
    derived = _derive(graph, spec, hidden, path)
    if limits is not None:
        limits.check(derived.graph, f"{path}transform")
    return derived


def _derive(graph: Graph, spec: TransformSpec, hidden: frozenset[str], path: str) -> Derived:
    check_word(f"{path}transform", spec.transform, TRANSFORMS)
    chosen = derived_output_names(graph, select_outputs(graph, spec.outputs))
    selected = graph.with_outputs(chosen)
    if spec.transform == "vmap":
        return Derived(_vmap(selected, spec, hidden, path))
    require_float_output(graph, chosen)
    wrt = differentiable(graph, spec.wrt, hidden)
    if spec.transform == "vjp":
        return Derived(tidy(transform.vjp(selected, wrt)))
    if spec.transform == "jvp":
        return Derived(tidy(transform.jvp(selected, wrt)))
    split = transform.linearize(selected, wrt)
    needed = tuple(i.name for i in needed_inputs(selected) if i.name not in hidden)
    return Derived(tidy(split.tangent), split, needed)


def _vmap(graph: Graph, spec: TransformSpec, hidden: frozenset[str], path: str) -> Graph:
    if spec.axis_size is None or spec.axis_size < 0:
        raise errors.InvalidOption(
            path=f"{path}axis_size", value=spec.axis_size, reason="vmap needs a size of at least 0"
        )
    axes = {}
    for name, axis in spec.in_axes.items():
        declared = find_input(graph, name, hidden)
        if axis is None:
            continue
        axes[name] = check_axis(f"{path}in_axes/{name}", axis, declared.type.rank)
    return tidy(transform.vmap(graph, spec.axis_size, axes))


def bind(split: Linearization, graph: Graph, residuals: Sequence[np.ndarray[Any, Any]]) -> Graph:
    """The linear map `graph` of `split` with its residual inputs replaced by constants."""
    constants = dict(zip(split.residual_names, residuals, strict=True))
    origins = dict(zip(split.residual_names, split.residual_origins, strict=True))
    builder = GraphBuilder()
    arguments = {}
    for i, spec in enumerate(graph.inputs):
        if spec.name not in constants:
            arguments[i] = builder.input(spec)
    for i, spec in enumerate(graph.inputs):
        if spec.name in constants:
            builder.origin = origins[spec.name]
            arguments[i] = builder.apply(Const(Literal.adopt(constants[spec.name])))
    ordered = [arguments[i] for i in range(len(graph.inputs))]
    env = import_nodes(builder, graph, ordered, names=True)
    return builder.graph([(name, env[id]) for name, id in graph.outputs])


def needed_inputs(graph: Graph) -> list[Input]:
    """The inputs that the outputs depend on, in order."""
    live = graph.reachable(id for _, id in graph.outputs)
    return [spec for i, spec in enumerate(graph.inputs) if live[i]]
