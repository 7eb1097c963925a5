"""One op at one point: its value and its derivatives, for the tables of ties, kinks and edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradwire_engine import ops, passes, transform, verify
from gradwire_engine.ir import Graph, GraphBuilder, Input, Type, type_of
from gradwire_engine.runtime import interpret

Array = np.ndarray[Any, Any]


def single(name: str, operands: Sequence[Array], attrs: dict[str, Any]) -> Graph:
    """The graph y = op(x0, x1, ...)."""
    builder = GraphBuilder()
    values = [builder.input(Input(f"x{i}", type_of(a))) for i, a in enumerate(operands)]
    op = ops.find(name).parse(attrs)
    return builder.graph([("y", builder.apply(op, *values))])


def typed(name: str, *types: Type, **attrs: Any) -> Type:
    """The type of op(...), or the error of its typing."""
    result: Type = ops.find(name).parse(attrs).typing(*types)
    return result


def run(graph: Graph, arrays: Sequence[Any]) -> list[Array]:
    """Run as it is and optimised; both agree to the last NaN."""
    given = [np.asarray(a) for a in arrays]
    plain = interpret(graph, given)
    quick = interpret(passes.optimize(graph, verify.verify), given)
    for a, b in zip(plain, quick, strict=True):
        np.testing.assert_array_equal(a, b)
    return plain


def value(name: str, *operands: Any, dtype: str | None = None, **attrs: Any) -> Array:
    """op(...) at one point."""
    arrays = _arrays(operands, dtype)
    return run(single(name, arrays, attrs), arrays)[0]


def tangent(name: str, operands: Sequence[Any], directions: Sequence[Any], **attrs: Any) -> Array:
    """J dx; a direction for every operand, None for those that do not move."""
    arrays = _arrays(operands, None)
    moving = [i for i, d in enumerate(directions) if d is not None]
    graph = transform.jvp(single(name, arrays, attrs), [f"x{i}" for i in moving])
    return run(graph, [*arrays, *(_like(directions[i], arrays[i]) for i in moving)])[-1]


def gradients(name: str, *operands: Any, ct: Any = 1.0, **attrs: Any) -> list[Array]:
    """J^T ct for every float operand; `ct` is broadcast to the result."""
    arrays = _arrays(operands, None)
    graph = single(name, arrays, attrs)
    result = graph.type_of(graph.outputs[0][1])
    cotangent = np.broadcast_to(np.asarray(ct, result.dtype), result.shape)
    wrt = [f"x{i}" for i, a in enumerate(arrays) if a.dtype.kind == "f"]
    return run(transform.vjp(graph, wrt), [*arrays, cotangent])[1:]


def hessian(name: str, *operands: Any, **attrs: Any) -> Array:
    """All second derivatives at one point of an op of scalars: forward over reverse."""
    arrays = _arrays(operands, None)
    assert all(a.shape == () for a in arrays)
    wrt = [f"x{i}" for i in range(len(arrays))]
    graph = transform.jvp(transform.vjp(single(name, arrays, attrs), wrt), wrt)
    columns = []
    for i in range(len(arrays)):
        unit = [np.asarray(float(i == j), arrays[j].dtype) for j in range(len(arrays))]
        one = np.asarray(1.0, arrays[0].dtype)
        columns.append(np.stack(run(graph, [*arrays, one, *unit])[-len(arrays) :]))
    return np.stack(columns, axis=1)


def _arrays(operands: Sequence[Any], dtype: str | None) -> list[Array]:
    return [np.asarray(o, dtype=dtype) for o in operands]


def _like(direction: Any, array: Array) -> Array:
    return np.array(np.broadcast_to(np.asarray(direction, array.dtype), array.shape))
