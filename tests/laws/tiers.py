"""What the tests of the compiled tier share: a graph run both ways, and how far answers may lie."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

import numpy as np

from gradwire_engine.codegen.bind import Native
from gradwire_engine.codegen.cache import Cache
from gradwire_engine.codegen.compiler import Compiler
from gradwire_engine.codegen.programs import Programs
from gradwire_engine.codegen.schedule import schedule
from gradwire_engine.ir import Graph
from gradwire_engine.passes import optimize
from gradwire_engine.runtime import interpret

from .case import Array

TOLERANCE = {"float32": 2e-6, "float64": 1e-12}


@cache
def programs() -> Programs:
    """What compiles for tests; in one subprocess, as a test waits for one thing at a time."""
    return Programs(Compiler(Cache()), threads=2)


def compiled(graph: Graph) -> Native:
    """The compiled program of an optimized graph."""
    upgrade = programs().request(partial(schedule, graph, 2))
    assert upgrade.wait(300), "the compiler does not answer"
    assert upgrade.native is not None, upgrade.reason
    return upgrade.native


def agree(graph: Graph, arrays: Sequence[Array]) -> None:
    """Run a graph in both tiers and compare: types, special values, and numbers within tolerance.

    The tolerance is relative to the largest finite magnitude of a result, and to what the operands
    could have made of it: sums may cancel.
    """
    optimized = optimize(graph)
    expected = interpret(optimized, arrays)
    actual = compiled(optimized).run(arrays)
    scale = max([1.0, *(largest(a) for a in arrays)])
    for (name, id), a, b in zip(graph.outputs, actual, expected, strict=True):
        type = graph.type_of(id)
        assert (a.shape, a.dtype.name) == (type.shape, type.dtype), name
        if not type.is_float:
            np.testing.assert_array_equal(a, b, err_msg=name)
            continue
        bound = TOLERANCE[type.dtype] * max(scale, largest(b))
        np.testing.assert_allclose(a, b, rtol=TOLERANCE[type.dtype], atol=bound, err_msg=name)


def largest(array: Array) -> float:
    """The largest finite magnitude in an array."""
    finite = np.abs(array[np.isfinite(array)]) if array.dtype.kind == "f" else np.zeros(0)
    return float(finite.max(initial=0.0))
