"""The loop nest of a fused group, as data: loops, memory accesses and stages.

The nest has *rows*, the iterations that run in parallel, and under each row the loops of its
*stages*. A stage is one pass over the elements of a row; each reduction whose result is needed
within the row ends one:

    for row in range(lo, hi):
        stage 0: the maximum of the row
        stage 1: e = exp(x - maximum), kept in the result's memory; the sum of e
        stage 2: e / sum

What a later stage needs again is read back if it was expensive and computed again if it was cheap;
a row is small enough to be in cache by then.

A row runs over the inner axes. Where those do not include the fastest one (a sum over the first
axis of a matrix), the nest has *columns*: many rows are taken side by side, the innermost loop runs
over them, and what is one number a row becomes a short vector of *lanes*. A group without inner
axes is one row (*flat*) when all its values step evenly through memory.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .batch import elements
from .expressions import cost
from .fuse import Fusion, Group
from .program import Layout
from .space import Intervals, complement, count, strides_over

Atoms = list[tuple[int, int]]

WORTH_KEEPING = 6
"""A value that takes so many simple operations is read back rather than computed again."""

NARROW_COLUMNS = 2048
"""Sums over leading axes that leave no more than this are gathered row by row."""


@dataclass(frozen=True)
class Access:
    """How the elements of a value are read or written.

    Attributes:
        root: The real value that is read, or the member that is written.
        offset: Position of the first element.
        steps: Per atom of the nest (rows first, then inner), in elements.
    """

    root: int
    offset: int
    steps: tuple[int, ...]


@dataclass
class Nest:
    """See the module's text.

    Attributes:
        fusion: Types and nodes.
        group: What is computed.
        inner: The axes of a row; may be empty.
        columns: Whether many rows run side by side.
        row_atoms: The atoms that rows are numbered by, slowest first.
        inner_atoms: Those within a row.
        stage: The pass in which each full member is computed.
        ready: The stage before which each outer member is known.
        kept: Full members that a later stage reads back.
        stored: Members that leave the group.
        first_read: The first stage that reads each value from elsewhere, element by element.
    """

    fusion: Fusion
    group: Group
    inner: Intervals
    columns: bool
    row_atoms: Atoms
    inner_atoms: Atoms
    stored: AbstractSet[int]
    stage: dict[int, int] = field(default_factory=dict)
    ready: dict[int, int] = field(default_factory=dict)
    kept: set[int] = field(default_factory=set)
    first_read: dict[int, int] = field(default_factory=dict)

    @cached_property
    def stages(self) -> int:
        """How many passes there are."""
        return 1 + max([*self.stage.values(), *(self.stage_of(r) for r in self.group.reduced)])

    def stage_of(self, id: int) -> int:
        """The pass in which a reduction runs, or a full member is computed."""
        if id in self.group.reduced:
            (source,) = self.fusion.graph.nodes[id - len(self.fusion.graph.inputs)].inputs
            return self.operand_stage(self.fusion.layouts[source])
        return self.stage[id]

    def operand_stage(self, operand: Layout) -> int:
        """The first pass in which an operand can be used."""
        root = operand.buffer
        if root in self.stage:
            return self.stage[root]
        return self.ready.get(root, 0)

    def operands(self, id: int) -> list[Layout]:
        """The operands of a member."""
        node = self.fusion.node(id)
        assert node is not None
        return [self.fusion.layouts[i] for i in node.inputs]

    def level(self, id: int) -> str:
        """``full``, ``row`` (a number a row), ``column`` (summed over rows) or ``all``."""
        axes = self.group.reduced.get(id)
        if axes is None:
            return "full" if self.group.level[id] == "full" else "row"
        if axes == self.inner:
            return "row"
        return "all" if count(axes) == self.group.space.size else "column"

    def access(self, operand: Layout, *, full: bool) -> Access:
        """How an operand from elsewhere is read by a full or by an outer member."""
        space = self.group.space
        rows, atoms = self.row_atoms, space.atoms()
        if not full:
            steps = strides_over(operand.shape, operand.strides, rows)
            assert steps is not None, "an outer operand lines up with the rows"
            return Access(operand.buffer, operand.offset, (*steps, *(0 for _ in self.inner_atoms)))
        found = strides_over(operand.shape, operand.strides, atoms)
        assert found is not None, "a full operand lines up with the space"
        by_atom = dict(zip(atoms, found, strict=True))
        order = (*rows, *self.inner_atoms)
        return Access(operand.buffer, operand.offset, tuple(by_atom[a] for a in order))

    def own(self, id: int) -> Access:
        """How a member is written: dense, in its place or in the memory of the chunk."""
        level = self.level(id)
        if level == "full":
            lie = self.group.space.atoms() if id in self.stored else self.inner_atoms
        else:
            lie = {"row": self.row_atoms, "column": self.inner_atoms}.get(level, [])
        step, steps = 1, {}
        for atom in reversed(lie):
            steps[atom] = step
            step *= atom[1] // atom[0]
        order = (*self.row_atoms, *self.inner_atoms)
        return Access(id, 0, tuple(steps.get(a, 0) for a in order))


def make_nest(fusion: Fusion, group: Group, stored: AbstractSet[int]) -> Nest:
    """Arrange a group as loops.

    Args:
        fusion: Where the group comes from.
        group: One that is not `alone`.
        stored: The members whose values leave the group.
    """
    inner, columns = _choose(group)
    space = group.space
    rows = complement(space.size, inner)
    nest = Nest(fusion, group, inner, columns, space.atoms(rows), space.atoms(inner), stored)
    for id in group.members:
        if id in group.reduced:
            if nest.level(id) == "row":
                nest.ready[id] = nest.stage_of(id) + 1
            continue
        stages = [nest.operand_stage(o) for o in nest.operands(id)]
        chosen = nest.stage if nest.level(id) == "full" else nest.ready
        chosen[id] = max(stages, default=0)
    _keep(nest)
    return nest


def _choose(group: Group) -> tuple[Intervals, bool]:
    """The inner axes of a group, and whether its rows run side by side."""
    size = group.space.size
    if group.inner is not None:
        return group.inner, group.inner[0][0] != 1
    partial = [axes for axes in group.reduced.values() if count(axes) != size]
    if not partial:
        return (), False
    for axes in partial:
        if axes[0][0] == 1:
            return axes, False
    rest = complement(size, partial[0])
    if len(rest) == 1 and elements(count(rest)) <= NARROW_COLUMNS:
        return rest, False
    return partial[0], True


def _keep(nest: Nest) -> None:
    """Find the full members that later stages read back instead of computing them again.

    On the way it is seen where values from elsewhere are read first.
    """
    price: dict[int, int] = {}
    for id in nest.stage:
        node: Any = nest.fusion.node(id)
        below = sum(price.get(o.buffer, 0) for o in nest.operands(id))
        price[id] = min(cost(node.op) + below, WORTH_KEEPING)

    def visit(root: int, stage: int, seen: set[int]) -> None:
        stack = [root]
        while stack:
            id = stack.pop()
            if id not in nest.stage:
                nest.first_read.setdefault(id, stage)
            if id not in nest.stage or id in seen:
                continue
            seen.add(id)
            worth = price[id] >= WORTH_KEEPING and not nest.columns
            if nest.stage[id] < stage and (id in nest.stored or worth):
                nest.kept.add(id)
            else:
                stack += [o.buffer for o in nest.operands(id)]

    for stage in range(nest.stages):
        seen: set[int] = set()
        for id in nest.group.members:
            if id in nest.group.reduced:
                if nest.stage_of(id) == stage:
                    visit(nest.operands(id)[0].buffer, stage, seen)
            elif nest.stage.get(id) == stage and (id in nest.stored or id in nest.kept):
                visit(id, stage, seen)


def work(nest: Nest) -> float:
    """Nanoseconds that a group takes on one thread, roughly."""
    moved = len(nest.group.reads) + len(nest.stored)
    computed = sum(
        cost(n.op) for id in nest.group.members if (n := nest.fusion.node(id)) is not None
    )
    return elements(nest.group.space.size) * (0.15 * moved + 0.05 * computed)
