"""The catalogue: every op by name, read from the declarations in this package.

`CATALOGUE` is sorted by name; `find` also takes aliases (GraphM's camelCase names among them).
Importing this package needs NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .. import errors
from ..spelling import close_names
from . import (
    attention,
    conv,
    elementwise,
    index,
    linalg,
    logic,
    nn,
    operators,
    pool,
    rearrange,
    reduce,
    shape,
    sources,
    window,
)
from .base import _ALIASES, _REGISTRY, Attribute, Composite, Op, Operand

__all__ = [
    "ALIASES",
    "CATALOGUE",
    "REVERSE_ONLY",
    "Attribute",
    "Composite",
    "Op",
    "Operand",
    "attention",
    "conv",
    "elementwise",
    "find",
    "index",
    "linalg",
    "logic",
    "nn",
    "operators",
    "pool",
    "rearrange",
    "reduce",
    "shape",
    "sources",
    "window",
]

CATALOGUE: Mapping[str, type[Op]] = MappingProxyType(dict(sorted(_REGISTRY.items())))
"""Every op, by canonical name."""

ALIASES: Mapping[str, str] = MappingProxyType(dict(sorted(_ALIASES.items())))
"""Other accepted names, each with its canonical one."""

REVERSE_ONLY: tuple[str, ...] = tuple(n for n, op in CATALOGUE.items() if op.reverse_only)
"""GraphM's `reverseOnlyJvpOps`: ops with a VJP but no JVP; empty by construction."""


def find(name: str) -> type[Op]:
    """The op called `name`, by canonical name or alias.

    Raises:
        UnknownOp: There is none; close names are suggested.
    """
    canonical = _ALIASES.get(name, name)
    op = _REGISTRY.get(canonical)
    if op is None:
        known = [*_REGISTRY, *_ALIASES]
        raise errors.UnknownOp(op=name, suggestions=close_names(name, known))
    return op
