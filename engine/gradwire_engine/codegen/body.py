"""The lines inside the loops of a kernel: loads, values and the positions they are read at.

Names in the text: ``p`` operands, ``w`` and ``n`` arguments, ``i`` row loops, ``k`` and ``j`` loops
within a row, ``b`` and ``a`` positions, ``x`` loads, ``c`` coordinates, ``v`` values, ``r`` values
of a row, ``q`` memory of the chunk's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

from .arrange import Loops, Pattern
from .batch import elements
from .emit import Emitter
from .expressions import SUFFIX, expression, numbers
from .fuse import REDUCTIONS, is_number
from .nest import Access, Nest
from .program import Layout
from .source import Source
from .storage import Storage
from .totals import WIDTH, Total, run_bytes


class Body:
    """Names values, and collects the lines that compute them.

    Args:
        nest: What is computed.
        loops: The loops around it.
        emit: Where memory of chunks is declared.
        storage: Where values live.
        chunks: How many chunks there are.
        width: How many lanes are taken at a time; 0 without lanes.

    Attributes:
        source: The kernel in the making.
        lines: What the current loop holds so far; see `begin`.
        last_read: The last stage that loads each value from elsewhere.
    """

    def __init__(
        self, nest: Nest, loops: Loops, emit: Emitter, storage: Storage, chunks: int, width: int
    ) -> None:
        self.nest, self.loops, self.source = nest, loops, Source()
        self.width = width
        self.lines: list[str] = []
        self._emit, self._storage, self._chunks = emit, storage, chunks
        self._fusion = nest.fusion
        self._local = {id: k for k, id in enumerate(nest.group.members)}
        self._positions: dict[Pattern, int] = {}
        self._used: dict[Pattern, None] = {}
        self._words: dict[tuple[Any, ...], str] = {}
        self._operands: dict[tuple[int, int], int] = {}
        self._memory: dict[tuple[str, int], str] = {}
        self._hoisted: dict[int, str] = {}
        self._known: dict[tuple[Any, ...], str] = {}
        self._stage = 0
        self.last_read: dict[int, int] = {}

    # -- names -------------------------------------------------------------------------------------

    def begin(self, stage: int) -> None:
        """Start the lines of another loop, in which values of earlier stages are known."""
        self.lines, self._known, self._used, self._stage = [], {}, {}, stage

    def local(self, id: int) -> int:
        """The number of a member in names."""
        return self._local[id]

    def dtype(self, id: int) -> str:
        """The dtype of a member."""
        return self._fusion.graph.type_of(id).dtype

    def total(self, id: int) -> Total:
        """How a reduction is accumulated."""
        node: Any = self._fusion.node(id)
        return Total(REDUCTIONS[node.op.name], SUFFIX[self.nest.operands(id)[0].dtype])

    def word(self, key: tuple[Any, ...], value: int) -> str:
        """The name of an integer argument; the same for the same key."""
        if key not in self._words:
            self._words[key] = self.source.word(value)
        return self._words[key]

    def pattern(self, access: Access) -> Pattern:
        """How an access steps through the loops."""
        return self.loops.patterns[access]

    # -- positions ---------------------------------------------------------------------------------

    def position(self, pattern: Pattern, *, within: bool = True) -> str:
        """Where an access is at: within the row's loops, or on the level of rows."""
        number = self._positions.setdefault(pattern, len(self._positions))
        if within:
            self._used[pattern] = None
        deep = within and any(pattern.loops[:-1])
        terms = [f"{'a' if deep else 'b'}{number}"] if deep or any(pattern.rows) else []
        last = pattern.loops[-1]
        if last and (within or self.loops.lanes):
            terms.append("j" if last == 1 else f"j * {self.word(('step', pattern, -1), last)}")
        return " + ".join(terms) or "0"

    def row_starts(self) -> list[str]:
        """Lines that compute where each pattern's row begins."""
        return [
            f"b{number} = " + self._sum(pattern, "row", "i", pattern.rows)
            for pattern, number in self._positions.items()
            if any(pattern.rows)
        ]

    def run_starts(self) -> list[str]:
        """Lines that compute where the innermost run of each pattern of this loop begins."""
        lines = []
        for pattern in self._used:
            if any(pattern.loops[:-1]):
                number = self._positions[pattern]
                start = f"b{number} + " if any(pattern.rows) else ""
                lines.append(
                    f"a{number} = {start}" + self._sum(pattern, "step", "k", pattern.loops[:-1])
                )
        return lines

    def _sum(self, pattern: Pattern, key: str, index: str, steps: tuple[int, ...]) -> str:
        return " + ".join(
            f"{index}{d} * {self.word((key, pattern, d), step)}"
            for d, step in enumerate(steps)
            if step
        )

    # -- fetching ahead ----------------------------------------------------------------------------

    def fetches(self, stage: int, block: int, end: str) -> list[str]:
        """Lines that ask for the memory that others will be the first to touch, a block from s on.

        A pass over a row that is in cache computes, and the memory has nothing to do meanwhile: it
        can bring what the next pass reads and writes, and in the second pass the next row. Rows of
        less than a block are over before the memory has answered.
        """
        nest, loops = self.nest, self.loops
        if nest.stages == 1 or loops.flat or loops.lanes or len(loops.inner) > 1:
            return []
        if elements(loops.inner[0]) < block:
            return []
        lines = []
        for access, pattern in loops.patterns.items():
            root = access.root
            if pattern.loops != (1,) or not any(pattern.rows):
                continue
            start = self.position(pattern, within=False)
            if root in self._local:
                if root not in nest.stored or nest.stage.get(root) != stage + 1:
                    continue
                verb, number = "write", self.destination(root)
            else:
                node = self._fusion.node(root)
                first = nest.first_read.get(root)
                if (node is not None and node.op.name == "iota") or first is None:
                    continue
                last, step = len(pattern.rows) - 1, pattern.rows[-1]
                if first == 0 and stage == 1 and step:
                    start += f" + {self.word(('row', pattern, last), step)}"
                elif first != stage + 1:
                    continue
                verb, number = "read", self._source_of(access, self.dtype(root))
            size = WIDTH[SUFFIX[self.dtype(root)]]
            begin, stop = (
                f"{size} * ({start} + {at})" for at in ("s", f"least(s + {block}, {end})")
            )
            lines.append(f"fetch_{verb}(p{number}, {begin}, {stop})")
        return lines

    # -- memory ------------------------------------------------------------------------------------

    def own_memory(self, what: str, id: int, elements: int, kind: str) -> str:
        """The address of memory that each chunk has for itself; ``q<operand>``."""
        key = (what, id)
        if key not in self._memory:
            step = run_bytes(elements, kind)
            buffer = self._emit.temp(step * self._chunks)
            number = self.source.operand(Layout(buffer, 0, (), (), "bool"), write=True)
            self.source.opening(f"q{number} = p{number} + chunk * {self.source.word(step)}")
            self._memory[key] = f"q{number}"
        return self._memory[key]

    def destination(self, id: int) -> int:
        """The operand that a stored member is written to."""
        if (id, 0) not in self._operands:
            place = self._storage.place(id)
            self._operands[id, 0] = self.source.operand(place, write=True)
        return self._operands[id, 0]

    def origin(self, root: int) -> int:
        """The operand that a value from elsewhere is read from."""
        return self._operands[root, 0]

    def kept_at(self, id: int) -> str:
        """The address where a full member is written, and read back by later stages."""
        if id in self.nest.stored:
            return f"p{self.destination(id)}"
        kind = SUFFIX[self.dtype(id)]
        return self.own_memory("kept", id, elements(prod(self.loops.inner)), kind)

    # -- values ------------------------------------------------------------------------------------

    def need(self, roots: Iterable[int]) -> None:
        """Add the lines that compute some full members, and all that these need."""
        nest, wanted = self.nest, set[int]()
        stack = [r for r in roots if self._is_full(r)]
        while stack:
            id = stack.pop()
            if id in wanted or ("v", id) in self._known:
                continue
            wanted.add(id)
            if not self._read_back(id):
                stack += [o.buffer for o in nest.operands(id) if self._is_full(o.buffer)]
        for id in sorted(wanted):
            name, kind = f"v{self._local[id]}", SUFFIX[self.dtype(id)]
            if self._read_back(id):
                where = self.kept_at(id)
                at = self.position(self.pattern(nest.own(id)))
                self.lines.append(f"{name} = load_{kind}({where}, {at}, {where[1:]})")
            else:
                self.lines.append(f"{name} = {self.expression(id)}")
            self._known["v", id] = name

    def _is_full(self, root: int) -> bool:
        return root in self._local and self.nest.level(root) == "full"

    def _read_back(self, id: int) -> bool:
        return id in self.nest.kept and self.nest.stage[id] < self._stage

    def expression(self, id: int) -> str:
        """The expression for a pointwise member, of names that are known or now loaded."""
        node: Any = self._fusion.node(id)
        operands = self.nest.operands(id)
        within = self.nest.level(id) == "full"
        by = 1 if node.op.name == "div" else -1
        names = [self.read(o, within=within, divisor=k == by) for k, o in enumerate(operands)]
        write = expression(node.op)
        assert write is not None
        given = []
        for k, value in enumerate(numbers(node.op)):
            key = ("number", id, k)
            if key not in self._words:
                self._words[key] = self.source.number(value, operands[0].dtype)
            given.append(self._words[key])
        return write(SUFFIX[operands[0].dtype], names, given)

    def read(self, operand: Layout, *, within: bool, divisor: bool = False) -> str:
        """The name of an operand's value; `within` the loops of a row, or on the level of rows.

        A number that divides has a name of its own: it may be the size of a batch, which happens to
        be what another number is.
        """
        root, kind = operand.buffer, SUFFIX[operand.dtype]
        node = self._fusion.node(root)
        if node is not None and is_number(node):
            key = ("constant", root, divisor)
            if key not in self._words:
                value = node.op.value.array.reshape(-1)[0]
                self._words[key] = self.source.number(value, operand.dtype)
            return self._words[key]
        if root in self._local:
            if self._is_full(root):
                return self._known["v", root]
            return self.row_value(root)
        access = self.nest.access(operand, full=within)
        pattern = self.pattern(access)
        if node is not None and node.op.name == "iota":
            return self._coordinate(access, pattern, kind, within=within)
        number = self._source_of(access, operand.dtype)
        if pattern.constant:
            if number not in self._hoisted:
                self._hoisted[number] = f"x{number}"
                self.source.opening(f"x{number} = load_{kind}(p{number}, 0, {number})")
            return self._hoisted[number]
        load = ("x", number, pattern, within)
        if load not in self._known:
            at = self.position(pattern, within=within)
            name = f"x{number}_{self._positions[pattern]}"
            self.lines.append(f"{name} = load_{kind}(p{number}, {at}, {number})")
            self._known[load] = name
            self.last_read[access.root] = self._stage
        return self._known[load]

    def _source_of(self, access: Access, dtype: str) -> int:
        key = (access.root, access.offset)
        if key not in self._operands:
            place = self._storage.place(access.root)
            layout = Layout(place.buffer, place.offset + elements(access.offset), (), (), dtype)
            self._operands[key] = self.source.operand(layout)
        return self._operands[key]

    def _coordinate(self, access: Access, pattern: Pattern, kind: str, *, within: bool) -> str:
        """A value of an iota: the position along its axis."""
        key = ("iota", access, within)
        if key not in self._known:
            name = f"c{sum(k[0] == 'iota' for k in self._known)}"
            start = self.word(("start", access), access.offset)
            at = self.position(pattern, within=within)
            self.lines.append(f"{name} = {kind}({at} + {start})")
            self._known[key] = name
        return self._known[key]

    def row_value(self, id: int) -> str:
        """The name of a row's value; in a loop over lanes it is read from their memory."""
        name = f"r{self._local[id]}"
        key = ("r", id)
        if self.loops.lanes and key not in self._known:
            kind = SUFFIX[self.dtype(id)]
            wide = self.total(id).wide if id in self.nest.group.reduced else kind
            where = self.own_memory("total", id, self.width, wide)
            load = f"load_{wide}({where}, j - j0, {where[1:]})"
            self.lines.append(f"{name} = {load if wide == kind else f'{kind}({load})'}")
        self._known[key] = name
        return name

    def name_row_value(self, id: int) -> None:
        """Add the line that computes a row's value from others and from row-wise loads."""
        value = self.expression(id)
        self.lines.append(f"r{self._local[id]} = {value}")
        self._known["r", id] = f"r{self._local[id]}"
