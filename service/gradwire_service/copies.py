"""Copies: the graphs of sessions in the memory of this process, each kept up with its log.

The log in the store is the truth; a `Builder` is a copy of it that other processes may have
outgrown, so every use first compares versions and catches up. A copy may also be ahead of the log:
an append is made on it before it is committed, as part of a `Line`, and when a commit fails the
copy goes back to what is settled.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from gradwire_engine import Builder, Graph
from gradwire_engine.limits import MAX_DERIVED_NAME

from .documents import Document, inputs_of, thaw, to_entry
from .errors import SessionNotFound
from .store import Commit, Line, SessionRow, Store

__all__ = ["Copies", "Copy"]


@dataclass
class Copy:
    """A session's graph in this process; `lock` is held to change or to catch up.

    The builder's first `line.settled` nodes are those of the log. What it has beyond them was
    appended here and is on its way; `last` is done when none of it is any more.
    """

    row: SessionRow
    lock: threading.Lock = field(default_factory=threading.Lock)
    builder: Builder | None = None
    line: Line = field(default_factory=lambda: Line(0))
    last: Commit | None = None
    graph: tuple[tuple[int, int], Graph] | None = None
    used: float = 0.0
    """When it was last known not to have expired, in seconds since the epoch."""

    @property
    def moving(self) -> bool:
        """Whether some append is on its way."""
        return self.last is not None and not self.last.done()

    def settle(self) -> None:
        """Wait until nothing is on its way, and take back what was not committed."""
        if self.last is not None:
            self.last.exception()
            self.last = None
        if self.line.broken and self.builder is not None:
            self.builder._truncate(self.line.settled)  # the engine's own way back
            self.line = Line(self.line.settled)


class Copies:
    """Copies of the sessions that were used last, for one process. Any thread may call.

    Attributes:
        hits: How many uses of a session found its copy.
        misses: How many did not.
    """

    def __init__(self, store: Store, *, memory_limit: int, max_nodes: int, limit: int) -> None:
        """Begin with none.

        Args:
            store: Where the logs are.
            memory_limit: Bytes that a single value may take.
            max_nodes: How many nodes a session may grow to.
            limit: How many copies are kept.
        """
        self._store = store
        self._memory_limit = memory_limit
        self._max_nodes = max_nodes
        self._limit = limit
        self._copies: OrderedDict[str, Copy] = OrderedDict()
        self._ids: OrderedDict[tuple[str, str], str] = OrderedDict()  # by owner and id or name
        self._lock = threading.Lock()
        self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._copies)

    # -- which there are ---------------------------------------------------------------------------

    def note(self, owner: str, ref: str, id: str) -> None:
        """Remember which session an owner means by an id or name."""
        with self._lock:
            self._ids[owner, ref] = id
            self._ids.move_to_end((owner, ref))
            while len(self._ids) > 2 * self._limit:
                self._ids.popitem(last=False)

    def known(self, owner: str, ref: str) -> Copy | None:
        """The copy of what an owner means, as far as this process knows without a look."""
        with self._lock:
            return self._copies.get(self._ids.get((owner, ref), ""))

    def of(self, row: SessionRow) -> Copy:
        """The copy of a session that was just looked up, an empty one if need be."""
        with self._lock:
            copy = self._copies.get(row.id)
            if copy is None:
                self.misses += 1
                copy = self._copies[row.id] = Copy(row)
            else:
                self.hits += 1
            copy.used = time.time()
            self._copies.move_to_end(row.id)
            while len(self._copies) > self._limit:
                self._copies.popitem(last=False)
            return copy

    def all(self) -> list[Copy]:
        """Every one, the longest unused first."""
        with self._lock:
            return list(self._copies.values())

    def forget(self, id: str) -> Copy | None:
        """Hold the copy of a session no longer."""
        with self._lock:
            return self._copies.pop(id, None)

    # -- what they hold ----------------------------------------------------------------------------

    def graph(self, row: SessionRow) -> Graph:
        """The graph of a session at that row's version, with the declared outputs.

        The same object is returned while neither changes, so that what is cached on it stays.
        """
        copy = self.of(row)
        key = (row.version, row.outputs_version)
        with copy.lock:
            if copy.graph is None or copy.graph[0] != key:
                builder = self.caught_up(copy, row)
                copy.graph = key, builder.graph(row.outputs or None, row.version)
            return copy.graph[1]

    def builder(self, row: SessionRow) -> Builder:
        """A builder with at least the nodes of a session at that row's version."""
        copy = self.of(row)
        with copy.lock:
            return self.caught_up(copy, row)

    def caught_up(self, copy: Copy, row: SessionRow) -> Builder:
        """The copy's builder with at least the nodes of `row`; the copy's lock is held.

        Its nodes up to `row.version` are those of the log. Beyond them it may have more of the log,
        and what is on its way.
        """
        if row.version > copy.line.settled or copy.line.broken:
            copy.settle()
        builder = copy.builder
        if builder is None:
            builder = Builder(
                inputs_of(row.inputs),
                memory_limit=self._memory_limit,
                node_limit=self._max_nodes,
                max_name=MAX_DERIVED_NAME,
            )
        if builder.version < row.version:
            copy.builder = None
            copy.line = Line(0)
            # A session may hold more nodes than a limit that was lowered since.
            builder.node_limit = max(self._max_nodes, row.version)
            missing = self.logged(row, builder.version, row.version)
            entries = [to_entry(document, self._store.blob) for document in missing]
            builder.append(entries, max_name=MAX_DERIVED_NAME)
            copy.line = Line(builder.version)
        copy.builder = builder
        return builder

    def logged(self, row: SessionRow, start: int, stop: int) -> list[Document]:
        """The documents of nodes, from the log.

        Raises:
            SessionNotFound: It was deleted since the row was read.
        """
        stored = self._store.entries(row, start, stop)
        if len(stored) != max(0, stop - start):
            raise SessionNotFound(session=row.id, suggestions=[])
        return [thaw(entry) for entry in stored]
