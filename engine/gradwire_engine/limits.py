"""How large a graph may be: what holds for every value, whoever appended or derived it.

A value has at most `MAX_RANK` axes and takes no more bytes than the limit allows; a graph has no
more values than its owner may hold, and no name that is too long to be read back. `Builder` checks
entry by entry, transforms check their whole result here.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import errors
from .ir import MAX_RANK, Graph, Type

MAX_BYTES = 2**63 - 1
"""What an array can address on any machine."""

MAX_DERIVED_NAME = 1000
"""The most characters of a name in a derived graph, as in ``cotangent.cotangent.y``."""

MAX_INNER_RANK = 64
"""The most axes that NumPy gives an array: those of a value that only a rule ever sees."""

MAX_DERIVED = 30_000
"""How many values a derived graph may have at least, whatever the size of the one it is from."""

MAX_GROWTH = 30
"""How many times as large as its origin a derived graph may be, beyond `MAX_DERIVED`."""


def check_bytes(value: Type, limit: int | None) -> None:
    """A value's memory; raises `MemoryLimit`.

    Zero among the sizes makes a value empty, but the others still have to be addressable.
    """
    allowed = MAX_BYTES if limit is None else min(limit, MAX_BYTES)
    extent = value.extent
    if extent <= allowed:  # which is no less than the memory
        return
    actual = extent if extent > MAX_BYTES else value.nbytes
    if actual > allowed:
        raise errors.MemoryLimit(limit=allowed, actual=actual)


def check_rank(path: str, shape: tuple[int, ...], limit: int = MAX_RANK) -> None:
    """A value's number of axes; raises `InvalidShape`."""
    if len(shape) > limit:
        raise errors.InvalidShape(path=path, value=list(shape), reason=f"more than {limit} axes")


@dataclass(frozen=True)
class Limits:
    """What derived graphs are held to.

    Attributes:
        memory: Bytes that one value may take; None: what can be addressed.
        values: How many inputs, nodes and outputs a derived graph may have; None: no limit.
    """

    memory: int | None = None
    values: int | None = MAX_DERIVED

    def grown(self, origin: Graph) -> Limits:
        """The limits for what is derived from `origin`, step by step: large ones may grow more."""
        if self.values is None:
            return self
        return Limits(self.memory, max(self.values, MAX_GROWTH * _count(origin)))

    def check(self, graph: Graph, path: str) -> Graph:
        """A derived graph within the limits, unchanged.

        Args:
            graph: What a transform answered with.
            path: The request's path to the transform.

        Raises:
            QuotaExceeded, MemoryLimit, InvalidShape, InvalidName: It is too large.
        """
        if self.values is not None and _count(graph) > self.values:
            raise errors.QuotaExceeded(quota="nodes", limit=self.values, wanted=_count(graph))
        for id in range(graph.size):
            check_rank(path, graph.type_of(id).shape)
            check_bytes(graph.type_of(id), self.memory)
        for name in (*graph.names, *(output for output, _ in graph.outputs)):
            if len(name) > MAX_DERIVED_NAME:
                reason = f"names of derived values have at most {MAX_DERIVED_NAME} characters"
                raise errors.InvalidName(name=name[:300], reason=reason)
        return graph


def _count(graph: Graph) -> int:
    return graph.size + len(graph.outputs)


def check_program(graph: Graph, memory: int | None) -> None:
    """A graph about to run: its answers are values like any other, its inner ones NumPy's.

    Views are held to the limit too: they take no memory, but whatever reads one reads all of it.

    Raises:
        MemoryLimit, InvalidShape: A value is too large, or has too many axes.
    """
    for _, id in graph.outputs:
        check_rank("in_axes", graph.type_of(id).shape)
    for node in graph.nodes:
        check_rank("nodes", node.type.shape, MAX_INNER_RANK)
        check_bytes(node.type, memory)
