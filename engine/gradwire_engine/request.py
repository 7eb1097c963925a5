"""What a caller may ask of the engine: runs and transforms, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from .builder import Ref

RESULTS = {
    "forward": ("outputs",),
    "vjp": ("outputs", "gradients"),
    "jvp": ("outputs", "tangents"),
}
"""By mode, the kinds of results that a run answers with."""

MODES = tuple(RESULTS)
TRANSFORMS = ("vjp", "jvp", "vmap", "linearize")
NAN_POLICIES = ("propagate", "error")
TIERS = ("auto", "compiled", "interpreted")
REDUCTIONS = ("sum", "mean")


@dataclass(frozen=True)
class TransformSpec:
    """One transform of a graph.

    Attributes:
        transform: One of `TRANSFORMS`.
        outputs: Which values the derived graph answers with; None: the declared ones.
        wrt: Inputs with derivatives (vjp, jvp, linearize); None: every differentiable one.
        axis_size: Length of the mapped axis (vmap).
        in_axes: Mapped axis by input name (vmap); None: not mapped.
        inputs: Names of the inputs given (linearize).
    """

    transform: str
    outputs: tuple[Ref, ...] | None = None
    wrt: tuple[str, ...] | None = None
    axis_size: int | None = None
    in_axes: Mapping[str, int | None] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunSpec:
    """One run, without its tensors.

    Attributes:
        mode: One of `MODES`.
        outputs: Refs or output names, as the caller wrote them; None: the declared outputs.
        wrt: Inputs whose gradients are wanted (vjp); None: every differentiable one.
        inputs: Names of the inputs given.
        cotangents: Keys of the cotangents given (output names, value names or ids as text).
        tangents: Names of the inputs whose tangents are given.
        transforms: Applied to the graph in order before it runs.
        in_axes: Mapped axis by path, ``inputs/x``, ``cotangents/y`` or ``tangents/x``; None: not
            mapped.
        reduce: ``sum`` or ``mean`` over the mapped axis by path, ``gradients/w``, ``outputs/y``...
        nan_policy: One of `NAN_POLICIES`.
        deadline_ms: Milliseconds after which the run stops; None: no limit.
        tier: One of `TIERS`.
    """

    mode: str = "forward"
    outputs: tuple[Ref, ...] | None = None
    wrt: tuple[str, ...] | None = None
    inputs: tuple[str, ...] = ()
    cotangents: tuple[str, ...] = ()
    tangents: tuple[str, ...] = ()
    transforms: tuple[TransformSpec, ...] = ()
    in_axes: Mapping[str, int | None] = field(default_factory=dict)
    reduce: Mapping[str, str] = field(default_factory=dict)
    nan_policy: str = "propagate"
    deadline_ms: float | None = None
    tier: str = "auto"

    @cached_property
    def key(self) -> str:
        """Equal for requests that differ only in their deadline."""
        return repr(replace(self, deadline_ms=None))


@dataclass(frozen=True, slots=True)
class Expected:
    """The type of a tensor that a caller may give; None in the shape: the mapped axis, any size.

    `source` is who wrote the node that it belongs to, if it belongs to one and that is known.
    """

    dtype: str
    shape: tuple[int | None, ...]
    source: str | None = None


@dataclass(frozen=True)
class RunResult:
    """The answer of a run.

    Attributes:
        results: Arrays by path: ``outputs/y``, ``gradients/x``, ``tangents/y``, in this order.
        tier: Which tier ran: ``compiled`` or ``interpreted``.
        compile_ms: Milliseconds spent on transforms, passes and planning, and on waiting for the
            compiled tier where the request insists on it.
        execute_ms: Milliseconds spent computing.
    """

    results: Mapping[str, np.ndarray[Any, Any]]
    tier: str
    compile_ms: float
    execute_ms: float
