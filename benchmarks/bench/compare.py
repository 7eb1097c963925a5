"""Whether two answers are the same: differences measured against the size of what was computed.

The entries of one output share their operands, so rounding is judged against the output's largest
magnitude, not entry by entry. An output that is zero but for rounding (a gradient that cancels
exactly) has no size of its own: a share of the largest of its kind is allowed there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .cases import Array

OWN = 5e-5
"""Allowed, of the output's largest magnitude: a few hundred roundings of float32."""

KIND = 1e-6
"""Allowed, of the largest magnitude among the gradients (or tangents) of the case."""


TINY = 1e-30
"""Allowed between zeros."""


def worst(ours: Sequence[Array], theirs: Sequence[Array]) -> float:
    """The largest difference over what is allowed; at most 1 means the same answer.

    Args:
        ours: The value, then gradients or the tangent.
        theirs: The peer's, alike.
    """
    if len(ours) != len(theirs):
        return float("inf")
    sizes = [float(np.max(np.abs(b), initial=0.0)) for b in theirs]
    largest = max(sizes[1:], default=0.0)
    found = 0.0
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a.shape != b.shape:
            return float("inf")
        allowed = max(OWN * sizes[i] + (KIND * largest if i else 0.0), TINY)
        share = float(np.max(np.abs(a - b), initial=0.0)) / allowed
        found = max(found, float("inf") if np.isnan(share) else share)
    return found
