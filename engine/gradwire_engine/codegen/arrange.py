"""Loops from atoms: neighbouring axes that every access steps through evenly become one loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .fuse import is_number
from .nest import Access, Nest


@dataclass(frozen=True)
class Pattern:
    """Steps that several accesses share: over the loops of rows, and over those within a row."""

    rows: tuple[int, ...]
    loops: tuple[int, ...]

    @property
    def constant(self) -> bool:
        """Whether it is one element for all."""
        return not any(self.rows) and not any(self.loops)


@dataclass(frozen=True)
class Loops:
    """The loops of a nest.

    Attributes:
        rows: Sizes of the loops that rows are numbered by, outermost first; without the lanes.
        inner: Sizes of the loops within a row; the last runs over the lanes if there are any.
        lanes: How many rows lie side by side; 0 where each runs alone.
        flat: There are no rows: chunks divide the only loop.
        patterns: How each access steps through them.
    """

    rows: tuple[int, ...]
    inner: tuple[int, ...]
    lanes: int
    flat: bool
    patterns: dict[Access, Pattern]


def arrange(nest: Nest) -> Loops:
    """Merge the atoms of a nest into loops."""
    accesses = _accesses(nest)
    cut = len(nest.row_atoms)
    rows, row_steps = _collapse(nest.row_atoms, [a.steps[:cut] for a in accesses])
    inner, inner_steps = _collapse(nest.inner_atoms, [a.steps[cut:] for a in accesses])
    flat = not nest.inner_atoms and len(rows) <= 1
    lanes = rows[-1] if nest.columns else 0
    # Lanes, and without inner axes the last loop over the rows, run within each row.
    take = 1 if rows and (lanes or not nest.inner_atoms) else 0
    split = len(rows) - take
    patterns = {
        access: Pattern(outer[:split], (*within, *outer[split:]) or (0,))
        for access, outer, within in zip(accesses, row_steps, inner_steps, strict=True)
    }
    return Loops(rows[:split], (*inner, *rows[split:]) or (1,), lanes, flat, patterns)


def _accesses(nest: Nest) -> list[Access]:
    """Every access of a nest once, in order."""
    found: dict[Access, None] = {}
    members = set(nest.group.members)
    for id in nest.group.members:
        full = id in nest.group.reduced or nest.level(id) == "full"
        for operand in nest.operands(id):
            node = nest.fusion.node(operand.buffer)
            if operand.buffer not in members and (node is None or not is_number(node)):
                found[nest.access(operand, full=full)] = None
        if id in nest.stored or id in nest.kept or nest.level(id) == "column":
            found[nest.own(id)] = None
    return list(found)


def _collapse(
    atoms: Sequence[tuple[int, int]], steps: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Merge neighbouring atoms wherever every access steps through both as through one."""
    sizes: list[int] = []
    merged: list[list[int]] = [[] for _ in steps]
    for i, (low, high) in enumerate(atoms):
        size = high // low
        if sizes and all(m[-1] == s[i] * size for m, s in zip(merged, steps, strict=True)):
            sizes[-1] *= size
            for m, s in zip(merged, steps, strict=True):
                m[-1] = s[i]
            continue
        sizes.append(size)
        for m, s in zip(merged, steps, strict=True):
            m.append(s[i])
    return tuple(sizes), [tuple(m) for m in merged]
