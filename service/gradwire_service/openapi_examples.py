"""The examples of the OpenAPI document: one story about a session called `example`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["STORY"]

Document = dict[str, Any]

_W: Final[Document] = {
    "dtype": "float32",
    "shape": [2, 3],
    "data": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
}
_POINT: Final = {
    "x": [1.0, 2.0, 3.0],
    "w": _W,
    "b": [0.0, 1.0],
}

STORY: Final[Mapping[tuple[str, str], Document]] = {
    ("createSession", "new"): {
        "name": "example",
        "inputs": [
            {"name": "x", "shape": [3]},
            {"name": "w", "shape": [2, 3]},
            {"name": "b", "shape": [2], "dtype": "float32", "differentiable": True},
        ],
    },
    ("appendNodes", "layer"): {
        "nodes": [
            {"op": "linear", "inputs": ["w", "b", "x"], "name": "h", "source": "model.py:12"},
            {"op": "tanh", "inputs": ["h"], "name": "y"},
            {"op": "const", "inputs": [], "attrs": {"value": [0.5, -0.5]}, "name": "target"},
            {
                "op": "mse_loss",
                "inputs": [{"id": 4, "shape": [2]}, "target"],
                "name": "loss",
            },
        ]
    },
    ("declareOutputs", "two"): {"outputs": {"loss": "loss", "y": 4}},
    ("forward", "point"): {"inputs": _POINT},
    ("forward", "batch"): {
        "inputs": {**_POINT, "x": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]},
        "in_axes": {"inputs/x": 0},
        "outputs": ["y"],
    },
    ("vjp", "gradients"): {"inputs": _POINT, "outputs": ["loss"], "wrt": ["w", "b"]},
    ("vjp", "cotangent"): {"inputs": _POINT, "cotangents": {"y": [1.0, 0.0]}},
    ("jvp", "direction"): {"inputs": _POINT, "tangents": {"x": [1.0, 0.0, 0.0]}},
    ("transformSession", "gradient"): {
        "transform": "vjp",
        "outputs": ["loss"],
        "wrt": ["w"],
        "name": "example_gradient",
    },
    ("createSession", "fork"): {
        "from": {"session": "example", "version": 2},
        "name": "example_fork",
    },
    ("putTensor", "weights"): _W,
    ("forward", "resident"): {
        "inputs": {**_POINT, "w": {"tensor": "w"}},
        "outputs": ["y"],
        "store": {"outputs/y": "activations"},
    },
    ("execute", "square"): {
        "inputs": [{"name": "x", "shape": [2], "dtype": "float64"}],
        "nodes": [
            {"op": "square", "inputs": ["x"], "name": "s"},
            {"op": "sum", "inputs": ["s"], "name": "total"},
        ],
        "run": {"mode": "vjp", "inputs": {"x": [3.0, 4.0]}},
    },
}
"""Examples by operation and label, in an order in which each works after those before it."""
