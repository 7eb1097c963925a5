"""The bound on the elements of one value, whatever its dtype: what a graph may declare at all."""

from __future__ import annotations

from collections.abc import Iterable

from gradwire_engine import Graph, Type
from gradwire_engine.errors import QuotaExceeded

__all__ = ["check_elements", "types_of"]


def check_elements(types: Iterable[Type], limit: int) -> None:
    """Look at the types of values.

    Raises:
        QuotaExceeded: One has more elements than the limit.
    """
    large = [each.size for each in types if each.size > limit]
    if large:
        raise QuotaExceeded(quota="elements", limit=limit, wanted=max(large))


def types_of(graph: Graph) -> Iterable[Type]:
    """The types of all values of a graph."""
    return map(graph.type_of, range(graph.size))
