"""Small helpers that the engine's tests share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradwire_engine import Builder, Engine, Entry, Graph, Input, RunSpec, Type

Array = np.ndarray[Any, Any]
ENGINE = Engine(compile=False, check_types=True)


def inputs(dtype: str = "float64", **shapes: Sequence[int]) -> list[Input]:
    """Differentiable inputs by name and shape."""
    return [Input(name, Type(tuple(s), dtype)) for name, s in shapes.items()]


def grow(
    specs: Sequence[Input], *entries: Entry, outputs: Mapping[str, int] | None = None
) -> Graph:
    """A graph from entries."""
    builder = Builder(specs)
    builder.append(entries)
    return builder.graph(outputs)


def run(graph: Graph, tensors: Mapping[str, Any], **options: Any) -> dict[str, Array]:
    """Run a graph; tensors by path, their keys filled into the request."""
    arrays = {path: np.asarray(value) for path, value in tensors.items()}

    def keys(head: str) -> tuple[str, ...]:
        return tuple(p.removeprefix(f"{head}/") for p in arrays if p.startswith(f"{head}/"))

    spec = RunSpec(
        inputs=keys("inputs"),
        cotangents=keys("cotangents"),
        tangents=keys("tangents"),
        **options,
    )
    return dict(ENGINE.prepare(graph, spec).execute(arrays).results)
