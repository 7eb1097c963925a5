"""Every op against PyTorch in float64: values, gradients and tangents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from .case import Array
from .harness import IDS, close, differentiable, run, subject
from .rows import ROWS

pytestmark = pytest.mark.oracle

known = [r for r, case in enumerate(ROWS) if case.reference is not None]
every_row = pytest.mark.parametrize("row", known, ids=[IDS[r] for r in known])
smooth = [r for r in known if differentiable(r)]
every_smooth_row = pytest.mark.parametrize("row", smooth, ids=[IDS[r] for r in smooth])


def _reference(row: int, operands: list[torch.Tensor]) -> torch.Tensor:
    reference = ROWS[row].reference
    assert reference is not None
    result: torch.Tensor = reference(*operands)
    return result


def _tensors(arrays: list[Array]) -> list[torch.Tensor]:
    return [torch.from_numpy(np.array(a)) for a in arrays]


def _numpy(tensor: torch.Tensor) -> Array:
    return np.asarray(tensor.detach().resolve_conj().numpy())


@every_row
def test_values(row: int) -> None:
    s = subject(row)
    (y,) = run(s.graph, s.arrays)
    close(y, _numpy(_reference(row, _tensors(s.arrays))), 1e-12, 1e-13)


@every_row
def test_float32_values(row: int) -> None:
    s = subject(row, "float32")
    (y,) = run(s.graph, s.arrays)
    expected = _numpy(_reference(row, _tensors(s.arrays)))
    close(y, expected.astype(y.dtype), 5e-6, 1e-6)


def _differentiated(row: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    s = subject(row)
    operands = _tensors(s.arrays)
    moving = [operands[i].requires_grad_() for i in s.floats]
    return _reference(row, operands), moving


def _or_zeros(gradients: Any, like: list[torch.Tensor]) -> list[torch.Tensor]:
    return [torch.zeros_like(x) if g is None else g for g, x in zip(gradients, like, strict=True)]


@every_smooth_row
def test_gradients(row: int) -> None:
    s = subject(row)
    y, moving = _differentiated(row)
    expected = [torch.zeros_like(x) for x in moving]
    if y.requires_grad:
        g = torch.from_numpy(np.array(s.cotangent))
        expected = _or_zeros(torch.autograd.grad(y, moving, g, allow_unused=True), moving)
    for actual, wanted in zip(s.pull(s.cotangent), expected, strict=True):
        close(actual, _numpy(wanted), 1e-10, 1e-12)


@pytest.mark.slow
@every_smooth_row
def test_tangents(row: int) -> None:
    """J dx as the gradient of <J^T g, dx> by g."""
    s = subject(row)
    y, moving = _differentiated(row)
    expected = torch.zeros_like(y)
    if y.requires_grad:
        g = torch.zeros_like(y, requires_grad=True)
        pulled = torch.autograd.grad(y, moving, g, create_graph=True, allow_unused=True)
        dx = _tensors(s.directions)
        terms = [(p * d).sum() for p, d in zip(pulled, dx, strict=True) if p is not None]
        total = sum(terms, torch.zeros((), dtype=torch.float64))
        if total.requires_grad:
            (expected,) = torch.autograd.grad(total, [g], materialize_grads=True)
    close(s.push(s.directions), _numpy(expected), 1e-10, 1e-12)
