"""Tier 0: the NumPy meaning of a graph, op by op. It is the oracle for every faster way to run.

Buffers are dropped as soon as no later step reads them; the deadline is checked between steps.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import errors
from ..ir import Graph, type_of
from ..transform.lower import lower
from .plan import Plan, make_plan

Array = np.ndarray[Any, Any]


def execute(
    plan: Plan,
    arguments: Sequence[Array | None],
    *,
    deadline: float | None = None,
    deadline_ms: float = 0.0,
    check_types: bool = False,
) -> list[Array]:
    """Run a plan.

    Args:
        plan: What to run.
        arguments: One array for each input, in order; None where no step reads it.
        deadline: A `time.monotonic` moment after which the run stops.
        deadline_ms: The deadline as the caller stated it, for the error.
        check_types: Compare every result with its static type (tests do).

    Returns:
        One contiguous array for each output, in order; none aliases an argument or another output.

    Raises:
        DeadlineExceeded: The deadline passed between two steps.
    """
    values: list[Any] = [*arguments, *([None] * len(plan.graph.nodes))]
    with np.errstate(all="ignore"):
        for step in plan.steps:
            if deadline is not None and time.monotonic() > deadline:
                raise errors.DeadlineExceeded(deadline_ms=deadline_ms)
            op: Any = step.op
            result = op.numpy(*[values[i] for i in step.inputs])
            if check_types:
                _check(plan.graph, step.result, result)
            values[step.result] = result
            for dead in step.frees:
                values[dead] = None
            del result
    return _outputs(plan.graph, values, arguments)


def _check(graph: Graph, id: int, result: Any) -> None:
    expected = graph.type_of(id)
    if not isinstance(result, np.ndarray | np.generic) or type_of(np.asarray(result)) != expected:
        node = graph.nodes[id - len(graph.inputs)]
        raise AssertionError(f"%{id} {node.op.name}: expected {expected}, NumPy gave {result!r}")


def _outputs(graph: Graph, values: Sequence[Any], arguments: Sequence[Array | None]) -> list[Array]:
    """Outputs as arrays of their own: partial views, constants, inputs and repeats are copied."""
    taken = {id(_owner(array)) for array in arguments if array is not None}
    results: list[Array] = []
    for _, output in graph.outputs:
        array = np.asarray(values[output])
        owner = _owner(array)
        whole = owner.nbytes == array.nbytes and array.flags.c_contiguous and array.flags.writeable
        if id(owner) in taken or not whole:
            array = np.array(array, order="C", copy=True)
        taken.add(id(owner))
        results.append(array)
    return results


def _owner(array: Array) -> Array:
    """The array whose memory this one looks at: itself, or the end of its chain of bases."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def interpret(
    graph: Graph, arguments: Sequence[Array | None], *, check_types: bool = True
) -> list[Array]:
    """Run any graph at once, without passes: lower, plan, execute."""
    return execute(make_plan(lower(graph).graph), arguments, check_types=check_types)
