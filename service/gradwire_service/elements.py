"""The bound on the elements of one value, whatever its dtype: what a graph may declare at all."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from gradwire_engine import Graph, Type
from gradwire_engine.errors import QuotaExceeded

__all__ = ["check_elements", "types_of"]


def check_elements(types: Iterable[Type], limit: int) -> None:
    """Look at the types of values.

    Raises:
        QuotaExceeded: One has more elements than the limit.
    """
    largest = 0
    for shape, _ in types:  # a `size` would be a call more for each append
        largest = max(largest, prod(shape))
    if largest > limit:
        raise QuotaExceeded(quota="elements", limit=limit, wanted=largest)


def types_of(graph: Graph) -> Iterable[Type]:
    """The types of all values of a graph."""
    return map(graph.type_of, range(graph.size))
