"""Recomputation: values that are cheaper to compute again than to keep.

The derivative of a layer needs numbers that its forward pass can make on the side (the slope of a
gelu, the normalised rows of a layer norm). Kept, each costs memory for as long as the layers above
run, and is written and read once. Often they follow from what is in memory anyway: then the group
that needs them computes them itself.

For each pair of groups, all that the later reads of the earlier is considered together: it is
computed again if that reads no more bytes than it saves, and takes few operations.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .expressions import cost
from .fuse import Fusion, Group, is_number
from .space import boundaries

MOST_WORK = 40
"""So many simple operations an element may be spent to save a write and a read of it."""


def recompute(fusion: Fusion) -> None:
    """Give groups copies of members of earlier groups; afterwards drop what nobody needs."""
    readers = _readers(fusion)
    for group in reversed(fusion.groups):
        if group.alone:
            continue
        makers = {fusion.group_of[r] for r in _reads(fusion, group) if r in fusion.group_of}
        for maker in sorted(makers, key=lambda g: -g.index):
            if not maker.alone:
                _take_over(fusion, group, maker, readers)
    _prune(fusion)


def stored(fusion: Fusion) -> set[int]:
    """Real values that are read outside the groups that make them, or are outputs."""
    found = {fusion.layouts[id].buffer for _, id in fusion.graph.outputs}
    for group in fusion.groups:
        found.update(_reads(fusion, group))
    return found


def _operands(fusion: Fusion, id: int) -> list[int]:
    """The real values that a node reads; numbers are not read."""
    roots = (layout.buffer for layout in fusion.reads(id))
    return [r for r in roots if (n := fusion.node(r)) is None or not is_number(n)]


def _reads(fusion: Fusion, group: Group) -> set[int]:
    """What a group reads of others."""
    members = set(group.members)
    return {r for id in group.members for r in _operands(fusion, id) if r not in members}


def _readers(fusion: Fusion) -> dict[int, set[int]]:
    """For each real value, the indexes of the groups that read it; -1 for an output."""
    found: dict[int, set[int]] = {}
    for group in fusion.groups:
        for root in _reads(fusion, group):
            found.setdefault(root, set()).add(group.index)
    for _, id in fusion.graph.outputs:
        found.setdefault(fusion.layouts[id].buffer, set()).add(-1)
    return found


def _take_over(fusion: Fusion, group: Group, maker: Group, readers: dict[int, set[int]]) -> None:
    """Let `group` compute what it alone reads of `maker`, if that pays."""
    only = {group.index}
    wanted = [
        id
        for id in maker.members
        if readers.get(id) == only
        and maker.level[id] == "full"
        and fusion.graph.type_of(id).size == group.space.size
        and _read_whole(fusion, group, id)
    ]
    if not wanted:
        return
    copies, leaves = _closure(fusion, maker, wanted, readers)
    before = _reads(fusion, group)
    new = leaves - before
    saved = 2 * sum(_nbytes(fusion, id) for id in wanted), 0
    # A leaf that would otherwise not be in memory has to be written too. Those that are repeated
    # over the loops decide a tie, whatever their size, which differs from batch to batch.
    whole = {r for r in new if fusion.graph.type_of(r).size == group.space.size}
    costs = (_nbytes(fusion, r) * (1 if _kept(fusion, r, readers) else 2) for r in whole)
    spent = sum(costs), len(new - whole)
    work = sum(cost(_op(fusion, id)) for id in copies)
    if spent > saved or work > MOST_WORK * len(wanted):
        return
    if not all(group.space.fit(boundaries(fusion.graph.type_of(id).shape)) for id in copies):
        return
    group.members = sorted({*copies, *group.members})
    group.level.update(dict.fromkeys(copies, "full"))
    for id in wanted:
        readers.pop(id)
    for root in leaves:
        readers.setdefault(root, set()).add(group.index)


def _closure(
    fusion: Fusion, maker: Group, wanted: Iterable[int], readers: dict[int, set[int]]
) -> tuple[set[int], set[int]]:
    """The members to be copied for some values, and what they read from memory."""
    copies: set[int] = set()
    leaves: set[int] = set()
    wanted = set(wanted)
    stack = list(wanted)
    while stack:
        id = stack.pop()
        if id in copies:
            continue
        copies.add(id)
        for root in _operands(fusion, id):
            full = maker.level.get(root) == "full" and root in maker.members
            if full and (root in wanted or not readers.get(root)):
                stack.append(root)
            else:
                leaves.add(root)
    return copies, leaves


def _read_whole(fusion: Fusion, group: Group, root: int) -> bool:
    """Whether every member that reads a value reads it element by element, as it was made."""
    for id in group.members:
        for layout in fusion.reads(id):
            if layout.buffer == root and not (
                layout.is_dense
                and not layout.offset
                and layout.type.size == group.space.size
                and (id in group.reduced or group.level[id] == "full")
            ):
                return False
    return True


def _kept(fusion: Fusion, root: int, readers: dict[int, set[int]]) -> bool:
    """Whether a value is in memory whatever happens."""
    group = fusion.group_of.get(root)
    return group is None or group.alone or bool(readers.get(root))


def _op(fusion: Fusion, id: int) -> Any:
    node = fusion.node(id)
    assert node is not None
    return node.op


def _nbytes(fusion: Fusion, id: int) -> int:
    return fusion.graph.type_of(id).nbytes


def _prune(fusion: Fusion) -> None:
    """Drop members that neither leave their group nor lead to one that does.

    From the last group to the first: only later groups read what a group makes, so what leaves it
    is known by the time it is looked at.
    """
    outside = {fusion.layouts[id].buffer for _, id in fusion.graph.outputs}
    for group in reversed(fusion.groups):
        if not group.alone:
            needed: set[int] = set()
            for id in reversed(group.members):
                if id in needed or (id in outside and fusion.group_of[id] is group):
                    needed.add(id)
                    needed.update(_operands(fusion, id))
            group.members = [id for id in group.members if id in needed]
            for id in set(group.reduced) - needed:
                del group.reduced[id]
        outside |= _reads(fusion, group)
    fusion.groups[:] = [g for g in fusion.groups if g.members]
