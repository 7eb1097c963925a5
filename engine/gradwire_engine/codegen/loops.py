"""From a loop nest to a kernel: the nest of a fused group, written out as Python source."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from math import prod

from .arrange import arrange
from .batch import elements
from .body import Body
from .emit import Emitter
from .expressions import SUFFIX
from .fuse import SERIAL_ROW, Fusion, Group
from .nest import Access, Nest, make_nest, work
from .program import chunks_for
from .storage import Storage
from .totals import Total, emit_combine

BLOCK = 4096
"""So many terms are added up in float32 before they go to a float64 total."""

FLUSH = 256
"""So many rows are."""

FETCH = 256
"""So many elements of a row are asked for at a time, before they are needed."""

LANES = 1024
"""How many rows are taken side by side at most."""


def emit_group(
    emit: Emitter, fusion: Fusion, group: Group, stored: AbstractSet[int], storage: Storage
) -> None:
    """Append the calls that compute a fused group.

    Args:
        emit: Where calls go.
        fusion: The graph that the group is part of.
        group: What is computed.
        stored: The members whose values leave the group.
        storage: Where values live.
    """
    Writer(emit, make_nest(fusion, group, stored), storage).write()


class Writer:
    """Writes one nest. Beside the names of `body`: ``u`` and ``t`` are totals, of a block and all.

    Args:
        emit: Where calls go.
        nest: What is written.
        storage: Where values live.
    """

    def __init__(self, emit: Emitter, nest: Nest, storage: Storage) -> None:
        self.emit, self.nest, self.storage = emit, nest, storage
        self.loops = arrange(nest)
        self.count, self.width = self._count()
        self.chunks = chunks_for(self.count, work(nest), emit.threads)
        emit.narrow |= self._is_narrow()
        self.body = Body(nest, self.loops, emit, storage, self.chunks, self.width)
        self.source = self.body.source
        reduced = nest.group.reduced
        self.over_rows = [id for id in reduced if nest.level(id) == "column"]
        self.over_all = [id for id in reduced if nest.level(id) == "all"]
        self.row_size = elements(prod(self.loops.inner))

    def _count(self) -> tuple[int, int]:
        """How many iterations there are, and how many lanes are taken at a time."""
        loops = self.loops
        if loops.flat:
            return elements(loops.inner[-1]), 0
        rows, lanes = elements(prod(loops.rows)), elements(loops.lanes)
        if not lanes:
            return rows, 0
        share = -(-lanes * rows // self.emit.threads)
        width = min(lanes, LANES, max(share, 64))
        return rows * -(-lanes // width), width

    def _is_narrow(self) -> bool:
        """Whether there would be more chunks if a batch of one were no axis."""
        space = self.nest.group.space
        size = elements(space.size)
        if size == space.size or (self.nest.group.inner is not None and size <= SERIAL_ROW):
            return False
        return self.chunks < chunks_for(size, work(self.nest), self.emit.threads)

    def write(self) -> None:
        """Emit the call, and those that combine what its chunks leave."""
        source, body = self.source, self.body
        for id in self.over_all:
            source.opening(f"t{body.local(id)} = {body.total(id).neutral}")
        for id in self.over_rows:
            self._clear(id)
        if self.loops.flat:
            self._stage(0)
        else:
            self._rows()
        partial = []
        for id in self.over_rows:
            if body.total(id).blocked:
                self._flush(id)
            partial.append((id, self._total_of_rows(id), self.row_size))
        for id in self.over_all:
            wide = body.total(id).wide
            where = body.own_memory("total", id, 1, wide)
            source.add(f"store_{wide}({where}, 0, t{body.local(id)}, {where[1:]})")
            partial.append((id, where, 1))
        names = [n.op.name for id in self.nest.group.members if (n := self.nest.fusion.node(id))]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        self.emit.call(
            source.kernel(" ".join(names[:8]) + more),
            source.operands,
            source.words,
            count=self.count,
            chunks=self.chunks,
            writes=source.writes,
            reuse=self._reuse(),
        )
        for id, where, size in partial:
            result = self.storage.place(id)
            operand = source.operands[int(where[1:])]
            emit_combine(self.emit, operand, body.total(id), result, self.chunks, size)

    # -- rows --------------------------------------------------------------------------------------

    def _rows(self) -> None:
        """The loop over rows."""
        source, body = self.source, self.body
        source.add("for row in range(lo, hi):")
        source.depth += 1
        # The stages come first: they say which positions they need.
        before = source.take()
        for stage in range(self.nest.stages):
            self._stage(stage)
            self._row_members(stage + 1)
        stages = source.take()
        source.put(before)
        rest = "row"
        if self.loops.lanes:
            blocks = body.word(("blocks",), -(-elements(self.loops.lanes) // self.width))
            width = body.word(("width",), self.width)
            source.add(
                f"j0 = remainder(row, {blocks}) * {width}",
                f"j1 = least(j0 + {width}, {body.word(('lanes',), self.loops.lanes)})",
                f"rest = divide(row, {blocks})",
            )
            rest = "rest"
        for d in reversed(range(1, len(self.loops.rows))):
            size = body.word(("rows", d), self.loops.rows[d])
            source.add(f"i{d} = remainder({rest}, {size})", f"rest = divide({rest}, {size})")
            rest = "rest"
        if self.loops.rows:
            source.add(f"i0 = {rest}")
        source.add(*body.row_starts())
        source.put(stages)
        blocked = [id for id in self.over_rows if body.total(id).blocked]
        if blocked:
            source.add(f"if remainder(row - lo, {FLUSH}) == {FLUSH - 1}:")
            source.depth += 1
            for id in blocked:
                self._flush(id)
            source.depth -= 1
        source.depth -= 1

    def _row_members(self, stage: int) -> None:
        """Values of the row that are known before `stage`: computed, and stored where needed."""
        nest, source, body = self.nest, self.source, self.body
        members = [id for id, ready in nest.ready.items() if ready == stage]
        if not members:
            return
        body.begin(stage)
        stores: list[str] = []
        for id in members:
            kind, name = SUFFIX[body.dtype(id)], f"r{body.local(id)}"
            if id not in nest.group.reduced:
                body.name_row_value(id)
                if self.loops.lanes:
                    where = body.own_memory("total", id, self.width, kind)
                    stores.append(f"store_{kind}({where}, j - j0, {name}, {where[1:]})")
            elif self.loops.lanes:
                body.row_value(id)
            else:
                total = f"t{body.local(id)}"
                body.lines.append(
                    f"{name} = {kind}({total})" if body.total(id).blocked else f"{name} = {total}"
                )
            if id in nest.stored:
                number = body.destination(id)
                at = body.position(body.pattern(nest.own(id)), within=False)
                stores.append(f"store_{kind}(p{number}, {at}, {name}, {number})")
        if self.loops.lanes:
            source.add("for j in range(j0, j1):")
            source.depth += 1
        source.add(*body.lines, *stores)
        source.depth -= 1 if self.loops.lanes else 0

    # -- stages ------------------------------------------------------------------------------------

    def _stage(self, stage: int) -> None:
        """One pass over the elements of a row."""
        nest, body = self.nest, self.body
        reductions = [id for id in nest.group.reduced if nest.stage_of(id) == stage]
        written = [
            id
            for id, at in nest.stage.items()
            if at == stage and (id in nest.stored or id in nest.kept)
        ]
        if not reductions and not written:
            return
        body.begin(stage)
        sources = [nest.operands(id)[0] for id in reductions]
        body.need([*(o.buffer for o in sources), *written])
        ends: list[str] = []
        for id, operand in zip(reductions, sources, strict=True):
            ends.append(self._accumulate(id, body.read(operand, within=True)))
        for id in written:
            where = body.kept_at(id)
            at = body.position(body.pattern(nest.own(id)))
            kind = SUFFIX[body.dtype(id)]
            ends.append(f"store_{kind}({where}, {at}, v{body.local(id)}, {where[1:]})")
        if self.loops.lanes:
            self._lane_loops(reductions, [*body.lines, *ends])
        else:
            self._row_loops(stage, reductions, [*body.lines, *ends])

    def _accumulate(self, id: int, term: str) -> str:
        """The line that adds a term to a reduction."""
        body, total = self.body, self.body.total(id)
        what = "block" if total.blocked else "total"
        if self.loops.lanes:
            where = body.own_memory(what, id, self.width, total.kind)
            return _add_at(where, "j - j0", total, term)
        if id in self.over_rows:
            where = body.own_memory(what, id, self.row_size, total.kind)
            return _add_at(where, body.position(body.pattern(self.nest.own(id))), total, term)
        name = f"{'u' if total.blocked else 't'}{body.local(id)}"
        return f"{name} = {total.add(name, term)}"

    def _open(self, depth: int) -> list[str]:
        """Open the outer loops within a row; the names of the sizes of all."""
        sizes = [self.body.word(("loop", d), size) for d, size in enumerate(self.loops.inner)]
        for d in range(depth):
            self.source.add(f"for k{d} in range({sizes[d]}):")
            self.source.depth += 1
        return sizes

    def _row_loops(self, stage: int, reductions: Sequence[int], lines: Sequence[str]) -> None:
        """Loops over the elements of one row, around `lines`."""
        source, body = self.source, self.body
        depth = source.depth
        single = [id for id in reductions if id not in self.over_rows]
        blocked = [body.local(id) for id in single if body.total(id).blocked]
        for id in single:
            if id not in self.over_all:
                source.add(f"t{body.local(id)} = {body.total(id).neutral}")
        start, end = "lo", "hi"
        if not self.loops.flat:
            start, end = "0", self._open(len(self.loops.inner) - 1)[-1]
            source.add(*body.run_starts())
        fetches = body.fetches(stage, FETCH, end)
        if blocked or fetches:
            block = FETCH if fetches else BLOCK
            source.add(f"for s in range({start}, {end}, {block}):")
            source.depth += 1
            source.add(*fetches, *(f"u{k} = f32(0)" for k in blocked))
            start, end = "s", f"least(s + {block}, {end})"
        source.add(f"for j in range({start}, {end}):", *(f"    {line}" for line in lines))
        source.add(*(f"t{k} = t{k} + f64(u{k})" for k in blocked))
        source.depth = depth

    def _lane_loops(self, reductions: Sequence[int], lines: Sequence[str]) -> None:
        """Loops over the elements of rows that lie side by side, around `lines`."""
        source, body = self.source, self.body
        depth, last = source.depth, len(self.loops.inner) - 2
        blocked = [id for id in reductions if body.total(id).blocked]
        if reductions:
            source.add("for j in range(j0, j1):")
        for id in reductions:
            total = body.total(id)
            where = body.own_memory("total", id, self.width, total.wide)
            source.add(f"    store_{total.wide}({where}, j - j0, {total.neutral}, {where[1:]})")
        size = self._open(last)[last]
        start, end = "0", size
        if blocked:
            source.add(f"for s in range(0, {size}, {FLUSH}):")
            source.depth += 1
            source.add("for j in range(j0, j1):")
            for id in blocked:
                block = body.own_memory("block", id, self.width, "f32")
                source.add(f"    store_f32({block}, j - j0, f32(0), {block[1:]})")
            start, end = "s", f"least(s + {FLUSH}, {size})"
        source.add(f"for k{last} in range({start}, {end}):")
        source.depth += 1
        source.add(*body.run_starts(), "for j in range(j0, j1):", *(f"    {x}" for x in lines))
        source.depth -= 1
        if blocked:
            source.add("for j in range(j0, j1):")
        for id in blocked:
            block = body.own_memory("block", id, self.width, "f32")
            wide = body.own_memory("total", id, self.width, "f64")
            source.add(f"    {_move(block, wide, 'j - j0')}")
        source.depth = depth

    # -- reductions over the rows ------------------------------------------------------------------

    def _total_of_rows(self, id: int) -> str:
        return self.body.own_memory("total", id, self.row_size, self.body.total(id).wide)

    def _clear(self, id: int) -> None:
        """Set a chunk's totals of a reduction over rows to their neutral element."""
        body, total, where = self.body, self.body.total(id), self._total_of_rows(id)
        self.source.add(
            f"for z in range({body.word(('row size',), self.row_size)}):",
            f"    store_{total.wide}({where}, z, {total.neutral}, {where[1:]})",
        )
        if total.blocked:
            block = body.own_memory("block", id, self.row_size, "f32")
            self.source.add(f"    store_f32({block}, z, f32(0), {block[1:]})")

    def _flush(self, id: int) -> None:
        """Add the float32 totals of the last rows to the float64 ones, and start again."""
        block = self.body.own_memory("block", id, self.row_size, "f32")
        self.source.add(
            f"for z in range({self.body.word(('row size',), self.row_size)}):",
            f"    {_move(block, self._total_of_rows(id), 'z')}",
            f"    store_f32({block}, z, f32(0), {block[1:]})",
        )

    # -- memory ------------------------------------------------------------------------------------

    def _reuse(self) -> list[tuple[int, int]]:
        """Stored members that may take the memory of an operand read at the same positions.

        Either the member is computed from what is read there in the same iteration, or the whole
        row has been read by the time it is written.
        """
        nest, body, graph = self.nest, self.body, self.nest.fusion.graph
        read: dict[int, list[Access]] = {}
        members = set(nest.group.members)
        for access in self.loops.patterns:
            if access.root not in members and access.root in body.last_read:
                read.setdefault(access.root, []).append(access)
        needed: dict[int, set[int]] = {}
        pairs = []
        for id in nest.group.members:
            roots = [o.buffer for o in nest.operands(id)]
            needed[id] = set(roots).union(*(needed.get(r, ()) for r in roots)) & read.keys()
            if id not in nest.stored or nest.level(id) != "full":
                continue
            for root in sorted(needed[id]):
                same = len(read[root]) == 1 and not read[root][0].offset
                if not same or graph.type_of(root).nbytes != graph.type_of(id).nbytes:
                    continue
                late = nest.stages > 1 and body.last_read[root] >= nest.stage[id]
                if not late and body.pattern(read[root][0]) == body.pattern(nest.own(id)):
                    pairs.append((body.destination(id), body.origin(root)))
        return pairs


def _add_at(where: str, position: str, total: Total, term: str) -> str:
    """The line that adds a term to a total in memory."""
    kind = total.kind
    held = f"load_{kind}({where}, {position}, {where[1:]})"
    return f"store_{kind}({where}, {position}, {total.add(held, term)}, {where[1:]})"


def _move(block: str, total: str, position: str) -> str:
    """The line that adds a float32 block to a float64 total, both in memory."""
    term = f"f64(load_f32({block}, {position}, {block[1:]}))"
    held = f"load_f64({total}, {position}, {total[1:]})"
    return f"store_f64({total}, {position}, {held} + {term}, {total[1:]})"
