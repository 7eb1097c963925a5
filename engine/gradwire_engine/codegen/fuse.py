"""Fusion: which nodes of a graph are computed together, in one pass over memory.

Every node is a view (costs nothing, see `views`), a number, or *real*: it has elements of its own.
Real nodes with kernels of their own stand alone; pointwise ops and reductions gather in groups. A
group is one loop nest over a space of N elements. Its members live on one of three levels:

- ``full``: a value for each of the N elements;
- ``outer``: a value for each row, where the rows are what remains once the *inner* axes are reduced
  away: softmax's maximum and sum, and what is computed from them;
- ``done``: the result of a reduction that is complete only when the whole loop nest has run
  (over the outer axes, or over everything); only later groups can use it.

Nothing that is decided looks at how many elements an axis has, but for rows too long to be worth
two passes: another batch shall have the same kernels (see `batch` for a batch of one).

Groups are kept in an order in which they can run: a node joins a group only if all that it needs
from elsewhere comes from groups before that one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..ir import Graph, Node, Type
from .batch import elements
from .expressions import expression
from .program import Layout, dense, dense_strides
from .space import Intervals, Space, boundaries, complement, count, intervals, strides_over
from .views import reshaped, view

REDUCTIONS = {"reduce_sum": "sum", "reduce_max": "max", "reduce_min": "min"}
MAX_MEMBERS, MAX_OPERANDS = 400, 40
SERIAL_ROW = 1 << 15
"""A single row of more elements than this is not worth two passes on one thread."""


@dataclass(eq=False)
class Group:
    """Nodes that are computed together.

    Attributes:
        index: Position in the order of execution.
        space: What the loops run over.
        inner: The axes reduced over between stages; None while no member needs one.
        members: Ids of the nodes, in order.
        level: ``full``, ``outer`` or ``done`` for each member.
        reduced: The intervals that each reduction among them runs over.
        reads: Real values from other groups.
        alone: A single node with a kernel of its own; there is no space.
    """

    index: int
    space: Space
    inner: Intervals | None = None
    members: list[int] = field(default_factory=list)
    level: dict[int, str] = field(default_factory=dict)
    reduced: dict[int, Intervals] = field(default_factory=dict)
    reads: set[int] = field(default_factory=set)
    alone: bool = False

    @property
    def rows(self) -> Intervals:
        """The axes that are not inner."""
        return complement(self.space.size, self.inner or ())


@dataclass(eq=False)
class Fusion:
    """A graph cut into groups.

    Attributes:
        graph: What was cut.
        layouts: Where the elements of each value lie; the `buffer` of a layout is the id of the
            real value (or input) that holds them.
        sums: Sums of matrix products that are computed in place, and the products.
        orders: Matrix products that are stored with their axes in another order, and which.
        groups: In order of execution.
        group_of: The group of each real node.
    """

    graph: Graph
    layouts: list[Layout]
    sums: dict[int, tuple[int, ...]]
    orders: dict[int, tuple[int, ...]]
    groups: list[Group] = field(default_factory=list)
    group_of: dict[int, Group] = field(default_factory=dict)

    def node(self, id: int) -> Node | None:
        """The node that makes a value; None for an input."""
        k = id - len(self.graph.inputs)
        return self.graph.nodes[k] if k >= 0 else None

    def reads(self, id: int) -> list[Layout]:
        """What the node that makes a value reads."""
        m = len(self.graph.inputs)
        nodes = (self.graph.nodes[k - m] for k in self.sums.get(id, (id,)))
        return [self.layouts[i] for node in nodes for i in node.inputs]


def fuse(graph: Graph) -> Fusion:
    """Cut a graph of primitives into groups."""
    m = len(graph.inputs)
    layouts = [dense(i, spec.type) for i, spec in enumerate(graph.inputs)]
    users = _users(graph)
    sums = _sums_of_products(graph, users)
    absorbed = _absorbed(graph, sums)
    fusion = Fusion(graph, layouts, sums, _wanted_orders(graph, users, sums))
    readers: dict[int, list[Group]] = {}
    for k, node in enumerate(graph.nodes):
        id = m + k
        fusion.layouts.append(_layout(fusion, id, node))
        if fusion.layouts[id].buffer != id or is_number(node) or node.op.name in ("iota", "const"):
            continue
        if id in absorbed:
            continue
        operands = [fusion.layouts[i] for i in node.inputs]
        if id in sums or not fusible(fusion, node):
            group = Group(len(fusion.groups), Space(1), members=[id], alone=True)
            fusion.groups.append(group)
            fusion.group_of[id] = group
            continue
        size = operands[0].type.size if node.op.name in REDUCTIONS else node.type.size
        for group in _candidates(fusion, operands, size, readers):
            if _join(fusion, group, id, node, operands):
                break
        else:
            group = _insert(fusion, operands, size)
            if not _join(fusion, group, id, node, operands):
                raise AssertionError(f"{node.op.name} fits no group, not even its own")
        for operand in operands:
            known = readers.setdefault(operand.buffer, [])
            if not known or known[-1] is not group:
                known.append(group)
    return fusion


def is_number(node: Node) -> bool:
    """Whether a node is a constant of one element, which kernels take as an argument."""
    return node.op.name == "const" and node.type.size == 1


def fusible(fusion: Fusion, node: Node) -> bool:
    """Whether a node is computed by generated loops."""
    operands = [fusion.layouts[i] for i in node.inputs]
    if node.type.size == 0 or any(o.type.size == 0 for o in operands):
        return False
    if not operands or node.op.name == "reshape":  # a reshape that no strides express
        return False
    return node.op.name in REDUCTIONS or expression(node.op) is not None


def _users(graph: Graph) -> list[list[int]]:
    """The nodes that read each value, by index; -1 for an output."""
    users: list[list[int]] = [[] for _ in range(graph.size)]
    for k, node in enumerate(graph.nodes):
        for i in node.inputs:
            users[i].append(k)
    for _, id in graph.outputs:
        users[id].append(-1)
    return users


def _sums_of_products(graph: Graph, users: list[list[int]]) -> dict[int, tuple[int, ...]]:
    """Sums of matrix products that nothing else reads: each is added to the one before."""
    m = len(graph.inputs)
    terms: dict[int, tuple[int, ...]] = {}
    for k, node in enumerate(graph.nodes):
        if node.op.name == "dot_general":
            terms[m + k] = (m + k,)
        elif node.op.name == "add" and len(set(node.inputs)) == 2:
            a, b = node.inputs
            if all(i in terms and len(users[i]) == 1 for i in (a, b)):
                terms[m + k] = terms.pop(a) + terms.pop(b)
    return {id: found for id, found in terms.items() if len(found) > 1}


def _wanted_orders(
    graph: Graph, users: list[list[int]], sums: dict[int, tuple[int, ...]]
) -> dict[int, tuple[int, ...]]:
    """Matrix products that only a transposition reads: they are stored as it wants them."""
    m = len(graph.inputs)
    found: dict[int, tuple[int, ...]] = {}
    for k, node in enumerate(graph.nodes):
        readers = users[m + k]
        if (node.op.name == "dot_general" or m + k in sums) and len(readers) == 1:
            user = graph.nodes[readers[0]]
            if readers[0] >= 0 and user.op.name == "transpose":
                found[m + k] = user.op.order()
    return found


def _absorbed(graph: Graph, sums: dict[int, tuple[int, ...]]) -> set[int]:
    """The products in sums, and the partial sums: they have no memory of their own."""
    m = len(graph.inputs)
    found: set[int] = set()
    for id in sums:
        stack = list(graph.nodes[id - m].inputs)
        while stack:
            part = stack.pop()
            found.add(part)
            if graph.nodes[part - m].op.name == "add":
                stack += graph.nodes[part - m].inputs
    return found


def _permuted(id: int, type: Type, order: Sequence[int]) -> Layout:
    """A value stored so that its transposition by `order` is dense."""
    steps = dense_strides([type.shape[a] for a in order])
    strides = [0] * type.rank
    for step, axis in zip(steps, order, strict=True):
        strides[axis] = step
    return Layout(id, 0, type.shape, tuple(strides), type.dtype)


def _layout(fusion: Fusion, id: int, node: Node) -> Layout:
    if node.inputs and node.type.size:
        source = fusion.layouts[node.inputs[0]]
        found = view(node.op, source)
        if found is None and node.op.name in REDUCTIONS and source.type.size == node.type.size:
            found = reshaped(source, node.type.shape)  # nothing but axes of size 1 is reduced
        if found is not None:
            return found
    if node.op.name == "iota" and node.type.size:
        axis = node.op.axis % node.type.rank
        strides = tuple(int(a == axis) for a in range(node.type.rank))
        return Layout(id, 0, node.type.shape, strides, node.type.dtype)
    if id in fusion.orders:
        return _permuted(id, node.type, fusion.orders[id])
    return dense(id, node.type)


def _least(fusion: Fusion, operands: Sequence[Layout]) -> int:
    """The position of the last group that some operands come from; -1 for none."""
    groups = (fusion.group_of.get(o.buffer) for o in operands)
    return max((g.index for g in groups if g is not None), default=-1)


def _waits_for(fusion: Fusion, group: Group) -> int:
    """The position of the last group that another one needs; -1 for none."""
    makers = (fusion.group_of.get(root) for root in group.reads)
    return max((g.index for g in makers if g is not None), default=-1)


def _insert(fusion: Fusion, operands: Sequence[Layout], size: int) -> Group:
    """A new group: at the end, or if it is over a single element, right after those it needs.

    So it keeps nobody apart: a scale factor of the gradient must not come between a loss and the
    derivatives that share it.
    """
    place = _least(fusion, operands) + 1 if size == 1 else len(fusion.groups)
    group = Group(place, Space(size))
    fusion.groups.insert(place, group)
    for later in fusion.groups[place + 1 :]:
        later.index += 1
    return group


def _candidates(
    fusion: Fusion, operands: Sequence[Layout], size: int, readers: dict[int, list[Group]]
) -> Iterable[Group]:
    """Groups that may take in a node over `size` elements, best first.

    Its producers', then readers of the same data, then the latest ones over as many elements: to
    share a loop with strangers costs nothing, and often their relatives come later.
    """
    least = _least(fusion, operands)
    producers = [g for o in operands if (g := fusion.group_of.get(o.buffer)) is not None]
    order = sorted(producers, key=lambda g: -g.index)
    if size == 1:
        # Only those that need not wait for more than this node does.
        near = (g for g in fusion.groups[max(least, 0) :][:6] if g.space.size == size)
        order += [g for g in near if _waits_for(fusion, g) <= least]
    else:
        order += [g for o in operands for g in reversed(readers.get(o.buffer, ())[-4:])]
        order += [g for g in reversed(fusion.groups[-6:]) if g.space.size == size]
    seen: set[int] = set()
    for group in order:
        if group.index >= least and not group.alone and group.index not in seen:
            seen.add(group.index)
            yield group


def _join(fusion: Fusion, group: Group, id: int, node: Node, operands: Sequence[Layout]) -> bool:
    """Make a node a member of a group, if it fits; nothing changes where it does not."""
    if len(group.members) >= MAX_MEMBERS or len(group.reads) >= MAX_OPERANDS:
        return False
    saved = list(group.space.bounds), group.inner
    place = _reduction if node.op.name in REDUCTIONS else _pointwise
    level = place(fusion, group, node, operands)
    if level is None:
        group.space.bounds = saved[0]
        if saved[1] is None and group.inner is not None:
            group.inner = None
            group.level.update(dict.fromkeys(group.reduced, "done"))
        return False
    if node.op.name in REDUCTIONS:
        group.reduced[id] = _axes(node, operands[0])
    group.members.append(id)
    group.level[id] = level
    fusion.group_of[id] = group
    group.reads.update(o.buffer for o in operands if fusion.group_of.get(o.buffer) is not group)
    return True


def _reduction(fusion: Fusion, group: Group, node: Node, operands: Sequence[Layout]) -> str | None:
    """The level of a reduction's result, if the group can hold it."""
    x, size = operands[0], group.space.size
    if x.type.size != size or not group.space.fit(boundaries(x.shape)):
        return None
    # First what it reads: that may decide which axes are the inner ones.
    if not _fits(fusion, group, operands, "full"):
        return None
    chosen = _axes(node, x)
    if group.inner is not None:
        if not _agree(size, group.inner, [chosen]):
            return None
        return "outer" if chosen == group.inner else "done"
    # Undecided yet: some choice of inner axes must suit all reductions.
    all_of_them = [*group.reduced.values(), chosen]
    if not any(_agree(size, inner, all_of_them) for inner in set(all_of_them)):
        return None
    return "done"


def _axes(node: Node, x: Layout) -> Intervals:
    """The axes that a reduction of `x` runs over."""
    return intervals(x.shape, node.op.axes(len(x.shape)))


def _pointwise(fusion: Fusion, group: Group, node: Node, operands: Sequence[Layout]) -> str | None:
    size, found = node.type.size, boundaries(node.type.shape)
    if size == group.space.size:
        fits = group.space.fit(found) and _fits(fusion, group, operands, "full")
        return "full" if fits else None
    outer = [o for o in operands if group.level.get(o.buffer) in ("outer", "done")]
    if not outer or not _settle(group, outer[0].buffer) or size != count(group.rows):
        return None
    lifted = group.space.lift(found, group.rows)
    if 0 in lifted or not group.space.fit(lifted):
        return None
    return "outer" if _fits(fusion, group, operands, "outer") else None


def _fits(fusion: Fusion, group: Group, operands: Sequence[Layout], level: str) -> bool:
    """Whether each operand, where it comes from this group, is read just as it is made."""
    for operand in operands:
        if fusion.group_of.get(operand.buffer) is not group:
            continue
        made = group.level[operand.buffer]
        if made == "done" and not _settle(group, operand.buffer):
            return False
        made = group.level[operand.buffer]
        if made == level:
            if not operand.is_dense or operand.offset:
                return False
            whole = group.space.size if level == "full" else count(group.rows)
            if operand.type.size != whole:
                return False
        elif made == "outer" and level == "full":
            if not _spread(group, operand):
                return False
        else:
            return False
    return True


def _spread(group: Group, operand: Layout) -> bool:
    """Whether a value of each row is read along that row, and nowhere else."""
    atoms = group.space.atoms()
    steps = strides_over(operand.shape, operand.strides, atoms)
    if steps is None or operand.offset:
        return False
    expected, step = [0] * len(atoms), 1
    rows = group.rows
    for i in reversed(range(len(atoms))):
        low, high = atoms[i]
        if any(a <= low and high <= b for a, b in rows):
            expected[i] = step
            step *= high // low
    return steps == expected


def _settle(group: Group, root: int) -> bool:
    """Let the result of a reduction be used within its group: its axes become the inner ones."""
    if group.level[root] == "outer":
        return True
    chosen = group.reduced[root]
    if group.inner is not None or not _agree(group.space.size, chosen, group.reduced.values()):
        return False
    everything = count(chosen) == group.space.size
    if everything and elements(group.space.size) > SERIAL_ROW:
        return False
    group.inner = chosen
    for id, axes in group.reduced.items():
        if axes == chosen:
            group.level[id] = "outer"
    return True


def _agree(size: int, inner: Intervals, others: Iterable[Intervals]) -> bool:
    """Whether reductions over `others` can share a loop nest whose inner axes are `inner`."""
    innermost = inner[0][0] == 1
    for axes in others:
        if axes == inner:
            continue
        if not innermost or (axes != complement(size, inner) and count(axes) != size):
            return False
    return True
