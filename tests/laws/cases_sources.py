"""Law rows of the ops without differentiable operands."""

from __future__ import annotations

import numpy as np
import torch

from .case import Case, Draw

_VALUE = np.array([[1.0, -2.5, np.inf], [0.0, -0.0, 3.0]])

CASES: tuple[Case, ...] = (
    Case("const", (), {"value": _VALUE}, lambda: torch.from_numpy(_VALUE), "matrix"),
    Case("const", (), {"value": np.array(3.0)}, lambda: torch.tensor(3.0).double(), "scalar"),
    Case("const", (), {"value": np.zeros((0, 2))}, lambda: torch.zeros(0, 2).double(), "empty"),
    Case(
        "const",
        (),
        {"value": np.array([True, False])},
        lambda: torch.tensor([True, False]),
        "bool",
    ),
    Case("iota", (), {"shape": [4]}, lambda: torch.arange(4), "vector"),
    Case(
        "iota",
        (),
        {"shape": [2, 3], "axis": 0, "dtype": "float64"},
        lambda: torch.arange(2).double()[:, None].expand(2, 3),
        "rows",
    ),
    Case(
        "iota",
        (),
        {"shape": [2, 3], "axis": -1},
        lambda: torch.arange(3).expand(2, 3),
        "columns",
    ),
    Case("iota", (), {"shape": [0, 3], "axis": 1}, lambda: torch.zeros(0, 3).long(), "empty"),
    Case("rand_uniform", (), {"shape": [2, 3], "seed": 7}, label="attribute"),
    Case(
        "rand_uniform",
        (),
        {"shape": [], "seed": 2**64 - 1, "stream": 3, "dtype": "float64"},
        label="scalar",
    ),
    Case("rand_uniform", (Draw((), -9, 9, "int64"),), {"shape": [4]}, label="operand"),
    Case(
        "rand_uniform",
        (Draw((2, 3), -9, 9, "int64"),),
        {"shape": [2], "stream": 1, "dtype": "float64"},
        label="seeds",
    ),
    Case("rand_uniform", (Draw((2,), -9, 9, "int64"),), {"shape": [0]}, label="empty"),
    Case("bernoulli_mask", (Draw((), 0, 1),), {"shape": [3, 2], "seed": 7}, label="attribute"),
    Case(
        "bernoulli_mask",
        (Draw((), 0, 1), Draw((), -9, 9, "int64")),
        {"shape": [4], "stream": 2},
        label="operand",
    ),
    Case(
        "bernoulli_mask",
        (Draw((), 0, 1), Draw((2, 1), -9, 9, "int64")),
        {"shape": []},
        label="seeds",
    ),
)
