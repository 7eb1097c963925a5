"""Passes: graph -> graph functions that change how a result is computed, never which.

`optimize` is for graphs about to run: derivatives have been taken, so `detach` may go, and names no
longer matter. `tidy` is for derived graphs that are kept, read and differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable

from ..ir import Graph, Node
from ..transform.lower import lower as _lower
from .cse import cse
from .dce import dce
from .fold import fold
from .simplify import simplify

__all__ = ["PIPELINE", "Pass", "cse", "dce", "fold", "lower", "optimize", "simplify", "tidy"]

Pass = Callable[[Graph], Graph]


def lower(graph: Graph) -> Graph:
    """Composites expanded; see `transform.lower`."""
    return _lower(graph).graph


def nameless(graph: Graph) -> Graph:
    """Node names dropped, so that nothing is kept for its name alone."""
    nodes = (Node(n.op, n.inputs, n.type, None, n.source, n.origin) for n in graph.nodes)
    return Graph(graph.inputs, tuple(nodes), graph.outputs)


PIPELINE: tuple[tuple[Pass, ...], ...] = (
    (lower, nameless, dce),
    (fold, cse, simplify, dce),
)
"""What `optimize` does: the first row once, the second until it changes nothing."""

MAX_ROUNDS = 8


def optimize(graph: Graph, check: Pass | None = None) -> Graph:
    """Make a graph ready to run.

    Args:
        graph: Any graph.
        check: Called between passes; tests give `verify` here.
    """
    once, repeated = PIPELINE
    for step in once:
        graph = _checked(step, graph, check)
    for _ in range(MAX_ROUNDS):
        before = len(graph.nodes)
        for step in repeated:
            graph = _checked(step, graph, check)
        if len(graph.nodes) == before:
            break
    return graph


def _checked(step: Pass, graph: Graph, check: Pass | None) -> Graph:
    result = step(graph)
    return result if check is None else check(result)


def tidy(graph: Graph) -> Graph:
    """A derived graph without duplicates and dead nodes; names and stop-gradients stay."""
    return dce(cse(graph))
