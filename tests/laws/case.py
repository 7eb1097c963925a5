"""One row of the law tests: an op, how to draw its operands, and an independent reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Rng = np.random.Generator


@dataclass(frozen=True)
class Draw:
    """How to draw one operand.

    Floats are uniform in [low, high] and at least `gap` away from every point in `kinks`; with
    `distinct`, all elements differ from each other by at least `gap` (for max and its kin). With
    `lattice` = (pitch, offset) they lie near offset + k * pitch, within a tenth of the pitch: two
    operands on lattices half a pitch apart never tie.
    Integers are uniform in [low, high] (both ends), bools fair coins.
    """

    shape: tuple[int, ...]
    low: float = -2.0
    high: float = 2.0
    dtype: str = "float"  # "float" takes the case's dtype; else "int64", "bool"
    kinks: tuple[float, ...] = ()
    gap: float = 0.02
    distinct: bool = False
    lattice: tuple[float, float] | None = None


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        op: Catalogue name.
        operands: How to draw each operand, in order.
        attrs: Attributes as the wire would have them (plain JSON values, arrays for tensors).
        reference: The same function in PyTorch on torch tensors; None where PyTorch has none.
        label: What distinguishes the row from others of the same op.
        order: Highest order of derivative that is checked against differences (0: none).
        integers: Whether the row also runs with its float operands as int64 (forward only).
    """

    op: str
    operands: tuple[Draw, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    reference: Callable[..., Any] | None = None
    label: str = ""
    order: int = 2
    integers: bool = False

    @property
    def id(self) -> str:
        """What pytest prints."""
        return f"{self.op}-{self.label}" if self.label else self.op


def draw(spec: Draw, rng: Rng, dtype: str) -> Array:
    """Draw one operand; see `Draw`."""
    if spec.dtype == "int64":
        return np.asarray(rng.integers(int(spec.low), int(spec.high) + 1, spec.shape, np.int64))
    if spec.dtype == "bool":
        return np.asarray(rng.random(spec.shape) < 0.5)
    size = int(np.prod(spec.shape, dtype=np.int64))
    if spec.distinct:
        grid = np.linspace(spec.low, spec.high, max(size, 2))[:size]
        values = rng.permutation(grid) + rng.uniform(-0.2, 0.2, size) * (
            (spec.high - spec.low) / max(size, 2)
        )
    else:
        values = rng.uniform(spec.low, spec.high, size)
    if spec.lattice is not None:
        pitch, offset = spec.lattice
        nearest = offset + pitch * np.round((values - offset) / pitch)
        values = nearest + pitch * rng.uniform(-0.1, 0.1, size)
    for kink in spec.kinks:
        near = np.abs(values - kink) < spec.gap
        values = np.where(near, kink + np.where(values >= kink, spec.gap, -spec.gap) * 2, values)
    return values.reshape(spec.shape).astype(dtype)
