"""Transforms: functions from graph to graph.

`jvp` pushes tangents, `vjp` pulls cotangents (it is `jvp`, then `transpose` of the linear part),
`vmap` batches, `linearize` fixes the point. They compose in any order, since each result is a graph
of ops of the catalogue.
"""

from .jvp import jvp
from .linearize import Linearization, linearize
from .lower import Lowered, lower
from .transpose import transpose
from .vjp import vjp
from .vmap import vmap

__all__ = [
    "Linearization",
    "Lowered",
    "jvp",
    "linearize",
    "lower",
    "transpose",
    "vjp",
    "vmap",
]
