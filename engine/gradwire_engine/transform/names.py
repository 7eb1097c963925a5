"""Names of derived inputs and outputs: ``cotangent.y``, ``gradient.x``, ``tangent.x``, ``v7``."""

from __future__ import annotations

from collections.abc import Iterable

from ..ir import Graph


class Fresh:
    """Hands out names that are not taken: ``cotangent.y``, else ``cotangent2.y``, and so on."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    def __call__(self, role: str, name: str) -> str:
        """A free name for `role` of the value called `name`."""
        candidate, number = f"{role}.{name}", 1
        while candidate in self._taken:
            number += 1
            candidate = f"{role}{number}.{name}"
        self._taken.add(candidate)
        return candidate


def value_names(graph: Graph) -> Fresh:
    """Free names for new inputs of `graph`."""
    return Fresh(graph.names)


def output_names(graph: Graph) -> Fresh:
    """Free names for new outputs of `graph`."""
    return Fresh(name for name, _ in graph.outputs)
