"""Sessions: graphs that live in the store and are kept ready in memory.

An append is checked on the session's copy (`copies`) and committed by compare-and-set. The next one
need not wait for that: it is made on top, as part of the same `Line`, and when a commit fails the
copy goes back to what is settled and the appends behind it are made again. Nothing is answered, and
nothing refused, by what is not committed. Answers to appends and creations under an idempotency key
are committed with them, so a retry finds either both or neither.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from gradwire_engine import Builder, Engine, Entry, Graph, Handle
from gradwire_engine.builder import Ref, check_name
from gradwire_engine.errors import (
    EngineError,
    InvalidName,
    InvalidOption,
    NameConflict,
    QuotaExceeded,
    ValueNotFound,
)

from .copies import Copies, Copy
from .documents import (
    MAX_INLINE,
    Document,
    freeze,
    graph_documents,
    input_documents,
    load_array,
    log_entry,
    node_document,
    session_document,
    session_summary,
    thaw,
)
from .elements import check_elements, types_of
from .errors import IdempotencyConflict, SessionNotFound, close_matches
from .expiry import Expiry
from .http import IfMatch, Key
from .requests import CreateRequest, ForkRequest, Resident, TransformRequest
from .store import (
    AlreadyDone,
    Append,
    Commit,
    LogEntry,
    Moved,
    NewSession,
    Receipt,
    Residuals,
    Scope,
    SessionRow,
    Store,
    now,
)

__all__ = ["Sessions", "Staged", "resolve_outputs"]

_RACES = 2
"""Races with other processes that an append may lose before it makes them wait."""


class Staged(NamedTuple):
    """An append on its way to the disk; `document` is the answer once it is `committed`."""

    document: Document
    committed: Commit


class Sessions:
    """The sessions of a store, for one process. Methods may block; any thread may call them.

    Attributes:
        copies: Their graphs in memory.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        *,
        memory_limit: int,
        max_elements: int,
        max_nodes: int,
        max_sessions: int,
        cached: int,
        seconds: float | None = None,
        linear_seconds: float | None = None,
        linear_bytes: int = 2**63 - 1,
    ) -> None:
        self._store = store
        self._engine = engine
        self._memory_limit = memory_limit
        self._max_elements = max_elements
        self._max_nodes = max_nodes
        self._max_sessions = max_sessions
        self.copies = Copies(store, memory_limit=memory_limit, max_nodes=max_nodes, limit=cached)
        self._expiry = Expiry(store, seconds, linear_seconds)
        self._linear_bytes = linear_bytes

    # -- reading -----------------------------------------------------------------------------------

    def find(self, owner: str, ref: str) -> SessionRow:
        """The owner's session of that id or name.

        Raises:
            SessionNotFound: There is none.
        """
        row = self._store.find(owner, ref)
        if row is None:
            suggestions = close_matches(ref, self._store.names(owner))
            raise SessionNotFound(session=ref[:300], suggestions=suggestions)
        expired_at = self._expiry.use(row)
        if expired_at is not None:
            raise SessionNotFound(session=ref[:300], suggestions=[], expired_at=expired_at)
        self.copies.note(owner, ref, row.id)
        return row

    def read(self, owner: str, ref: str, since: int) -> Document:
        """A session with the nodes that were appended after version `since`."""
        row = self.find(owner, ref)
        nodes = self.copies.logged(row, since, row.version)
        return session_document(row, nodes, self._expiry.end(row))

    def page(self, owner: str, after: int, limit: int) -> tuple[list[Document], int | None]:
        """Sessions by age, and where the next page begins, if there is one."""
        self.sweep(owner)
        rows = self._store.page(owner, after, limit + 1)
        more = rows[limit - 1].number if len(rows) > limit else None
        return [session_summary(row) for row in rows[:limit]], more

    def value(self, owner: str, ref: str, value: str, shape: tuple[int, ...] | None) -> Document:
        """One value of a session, an input or a node.

        Raises:
            ValueNotFound: There is none of that id or name.
            VarShapeMismatch: It has another shape than `shape`.
        """
        row = self.find(owner, ref)
        graph = self.graph(row)
        id = _locate(graph, value)
        if shape is not None:
            self.copies.builder(row).resolve(Handle(id, shape))
        return self._value(row, id)

    def array(
        self, owner: str, ref: str, value: str, attribute: str | None
    ) -> np.ndarray[Any, Any]:
        """An array attribute of a node: of a const its value.

        Args:
            owner: Whose session.
            ref: The session.
            value: The node's id or name.
            attribute: Which attribute; None where the node has only one array.

        Raises:
            ValueNotFound: There is no such value.
            InvalidOption: It has no such array.
        """
        row = self.find(owner, ref)
        id = _locate(self.graph(row), value)
        attrs = self._value(row, id).get("attrs", {})
        arrays = {
            name: array
            for name, given in attrs.items()
            if (array := load_array(given, self._store.blob)) is not None
        }
        if attribute is None and len(arrays) == 1:
            return next(iter(arrays.values()))
        if attribute in arrays:
            return arrays[attribute]
        if not arrays:
            reason = f"value {id} holds no data: it is computed by each run"
            raise InvalidOption(path="ref", value=value[:300], reason=reason)
        raise InvalidOption(
            path="attr", value=attribute, reason=f"the arrays here are {', '.join(arrays)}"
        )

    def graph(self, row: SessionRow) -> Graph:
        """The graph of a session at that row's version, with the declared outputs."""
        return self.copies.graph(row)

    # -- writing -----------------------------------------------------------------------------------

    def create(self, owner: str, wanted: CreateRequest | ForkRequest, key: Key | None) -> Document:
        """A new session, empty or a fork.

        Raises:
            InvalidName, NameConflict, QuotaExceeded: The name is bad or taken; too many sessions.
            SessionNotFound, InvalidOption: What is forked is not there, or not at that version.
            IdempotencyConflict: The key came with another body before.
        """
        scope = None if key is None else Scope(owner, "sessions", None, key.text)

        def attempt() -> Document:
            if isinstance(wanted, ForkRequest):
                return self._fork(owner, wanted, scope, key)
            _check_session_name(wanted.name)
            Builder(wanted.inputs, memory_limit=self._memory_limit, node_limit=self._max_nodes)
            check_elements((i.type for i in wanted.inputs), self._max_elements)
            new = _new_session(owner, wanted.name, input_documents(wanted.inputs), {})
            document = self._created(new, [])
            receipt = _receipt(scope, key, document)
            self._add(owner, lambda: self._store.create(new, [], self._max_sessions, receipt))
            return document

        return self._once(scope, key, attempt)

    def append(
        self,
        owner: str,
        ref: str,
        entries: Sequence[Entry],
        if_match: IfMatch | None,
        key: Key | None,
    ) -> Document:
        """Append nodes, all or none.

        Returns:
            `version` and the new `nodes`.

        Raises:
            EngineError: The first entry that the engine refuses, with its `node_index`.
            VersionConflict: `if_match` asks for another version.
            IdempotencyConflict: The key came with another body before.
        """
        session = self.find(owner, ref).id
        scope = _append_scope(owner, session, key)

        def attempt() -> Document:
            row = self.find(owner, session)
            copy = self.copies.of(row)
            with copy.lock:
                while True:
                    builder = self.copies.caught_up(copy, row)
                    moving = copy.moving
                    try:
                        if if_match is not None:
                            if_match.check(builder.version)
                        staged = self._stage(copy, builder, entries, scope, key)
                    except EngineError:
                        if not moving:
                            raise
                        copy.settle()  # what is not committed cannot refuse anybody
                    else:
                        break
            staged.committed.result()
            return staged.document

        def insist() -> Document:
            row = self.find(owner, session)
            copy = self.copies.of(row)
            with copy.lock:
                builder = self.copies.caught_up(copy, row)
                copy.settle()
                try:
                    with self._store.exclusive(row) as put:
                        builder = self.copies.caught_up(copy, self.find(owner, session))
                        if if_match is not None:
                            if_match.check(builder.version)
                        document, append = self._make(copy, builder, entries, scope, key)
                        put(append)
                except BaseException:
                    copy.line.broken = True  # the copy may be ahead of what is committed
                    raise
                copy.line.settled = builder.version
            return document

        return self._once(scope, key, attempt, insist)

    def stage(
        self,
        owner: str,
        ref: str,
        entries: Sequence[Entry],
        if_match: IfMatch | None,
        key: Key | None,
    ) -> Staged | None:
        """Begin an append that takes next to no time, on what this process knows; never blocks.

        None says that `append` has to do it: the session is not in memory or in use by another
        thread, or there is something to refuse, which takes a look at the log. The same holds if
        the commit turns out `Moved` or `AlreadyDone`. What to append should be small.
        """
        copy = self.copies.known(owner, ref)
        if copy is None or not copy.lock.acquire(blocking=False):
            return None
        try:
            builder = copy.builder
            if builder is None or copy.line.broken or not self._expiry.recent(copy.row, copy.used):
                return None
            if not _quick(builder, entries):
                return None
            if if_match is not None:
                if_match.check(builder.version)
            scope = _append_scope(owner, copy.row.id, key)
            staged = self._stage(copy, builder, entries, scope, key)
            copy.used = time.time()
            return staged
        except EngineError:
            return None
        finally:
            copy.lock.release()

    def declare(
        self, owner: str, ref: str, outputs: Mapping[str, Ref], if_match: IfMatch | None
    ) -> Document:
        """Set a session's outputs; none means the last node again.

        Raises:
            UnknownName, VarOutOfBounds, VarShapeMismatch: An output is no value.
            InvalidName: An output's name breaks the rules.
            VersionConflict: `if_match` asks for another version.
        """
        while True:
            row = self.find(owner, ref)
            if if_match is not None:
                if_match.check(row.version)
            copy = self.copies.of(row)
            with copy.lock:
                builder = self.copies.caught_up(copy, row)
                copy.settle()
                resolved = resolve_outputs(builder, outputs)
            try:
                row = self._store.declare(row, resolved, now(), pinned=if_match is not None)
            except Moved:
                continue
            return {
                "outputs": row.outputs,
                "outputs_version": row.outputs_version,
                "version": row.version,
            }

    def transform(
        self,
        owner: str,
        ref: str,
        wanted: TransformRequest,
        resident: Resident,
        if_match: IfMatch | None,
        key: Key | None,
    ) -> Document:
        """A new session that holds a derived graph.

        Raises:
            EngineError: The engine refuses the transform, or the result is too large.
            InvalidName, NameConflict, QuotaExceeded, IdempotencyConflict: As in `create`.
        """
        session = self.find(owner, ref).id
        scope = None if key is None else Scope(owner, "transforms", session, key.text)

        def attempt() -> Document:
            row = self.find(owner, session)
            if if_match is not None:
                if_match.check(row.version)
            _check_session_name(wanted.name)
            graph = self.graph(row)
            expects = {f"inputs/{i.name}": (i.type.dtype, i.type.shape) for i in graph.inputs}
            tensors = wanted.tensors.decode(expects, resident)
            derived = self._engine.transform(graph, wanted.spec, tensors)
            if len(derived.nodes) > self._max_nodes:
                raise QuotaExceeded(quota="nodes", limit=self._max_nodes, wanted=len(derived.nodes))
            check_elements(types_of(derived), self._max_elements)
            logged = [log_entry(document) for document in graph_documents(derived)]
            inputs, outputs = input_documents(derived.inputs), dict(derived.outputs)
            residuals = None
            if wanted.spec.transform == "linearize" or row.residual_bytes is not None:
                residuals = Residuals(_constant_bytes(derived), self._linear_bytes)
            new = _new_session(owner, wanted.name, inputs, outputs, residuals)
            document = self._created(new, [answered for answered, _ in logged])
            receipt = _receipt(scope, key, document)
            entries = [entry for _, entry in logged]
            self._add(owner, lambda: self._store.create(new, entries, self._max_sessions, receipt))
            return document

        return self._once(scope, key, attempt)

    def delete(self, owner: str, ref: str, if_match: IfMatch | None) -> None:
        """Remove a session.

        Raises:
            SessionNotFound: There is none.
            VersionConflict: `if_match` asks for another version.
        """
        while True:
            row = self.find(owner, ref)
            if if_match is not None:
                if_match.check(row.version)
            try:
                self._store.delete(row, pinned=if_match is not None)
            except Moved:
                continue
            self._forget(row.id)
            return

    def sweep(self, owner: str | None = None) -> None:
        """Remove sessions that have expired; see `Expiry.sweep`."""
        for row in self._expiry.sweep(owner):
            self._forget(row.id)
        # Another process may have removed some that this one still holds the files of.
        for copy in self.copies.all():
            if copy.row.residual_bytes is not None and self._expiry.over(copy.row, copy.used):
                self._forget(copy.row.id)

    def _forget(self, id: str) -> None:
        """Hold a session in memory no longer, and of a linearization nothing that it keeps."""
        copy = self.copies.forget(id)
        if copy is not None and copy.graph is not None and copy.row.residual_bytes is not None:
            self._engine.forget(copy.graph[1])

    # -- parts -------------------------------------------------------------------------------------

    def _add(self, owner: str, add: Callable[[], None]) -> None:
        """Add a session; what has expired is not in its way."""
        try:
            add()
        except (NameConflict, QuotaExceeded):
            self.sweep(owner)
            add()

    def _fork(
        self, owner: str, wanted: ForkRequest, scope: Scope | None, key: Key | None
    ) -> Document:
        _check_session_name(wanted.name)
        row = self.find(owner, wanted.session)
        version = row.version if wanted.version is None else wanted.version
        if not 0 <= version <= row.version:
            raise InvalidOption(
                path="from/version",
                value=version,
                reason=f"the session has versions 0 to {row.version}",
            )
        held = len(row.inputs) + version
        outputs = {name: id for name, id in row.outputs.items() if id < held}
        kept = row.residual_bytes
        residuals = None if kept is None else Residuals(kept, self._linear_bytes)
        new = _new_session(owner, wanted.name, row.inputs, outputs, residuals)
        document = self._created(new, self.copies.logged(row, 0, version))
        receipt = _receipt(scope, key, document)
        limit = self._max_sessions
        self._add(owner, lambda: self._store.fork(row, version, new, limit, receipt))
        return document

    def _stage(
        self,
        copy: Copy,
        builder: Builder,
        entries: Sequence[Entry],
        scope: Scope | None,
        key: Key | None,
    ) -> Staged:
        """Append to a copy whose lock is held, and send that on its way."""
        document, append = self._make(copy, builder, entries, scope, key)
        try:
            copy.last = self._store.append(append)
        except BaseException:
            builder._truncate(append.version)
            raise
        return Staged(document, copy.last)

    def _make(
        self,
        copy: Copy,
        builder: Builder,
        entries: Sequence[Entry],
        scope: Scope | None,
        key: Key | None,
    ) -> tuple[Document, Append]:
        """Append to a copy alone: the answer, and what has to be committed first."""
        version = builder.version
        nodes = builder.append(entries)
        try:
            check_elements([node.type for node in nodes], self._max_elements)
            answered: list[Document] = []
            logged: list[LogEntry] = []
            for id, node in enumerate(nodes, len(builder.inputs) + version):
                shown, entry = log_entry(node_document(node, id))
                answered.append(shown)
                logged.append(entry)
            document: Document = {"version": version + len(nodes), "nodes": answered}
            receipt = _receipt(scope, key, document)
            self._store.write_blobs(logged)
        except BaseException:
            builder._truncate(version)
            raise
        return document, Append(copy.row.number, version, logged, receipt, copy.line)

    def _once(
        self,
        scope: Scope | None,
        key: Key | None,
        attempt: Callable[[], Document],
        insist: Callable[[], Document] | None = None,
    ) -> Document:
        """The answer of the first attempt under a key that was committed, this one's or not.

        A creation is attempted anew when the session that it once made is gone: who repeats it
        wants one to use.

        After `_RACES` that were lost to other writers, `insist` is what is attempted.
        """

        def recalled() -> Document | None:
            receipt = None if scope is None else self._store.recall(scope)
            if receipt is None or key is None:
                return None
            document = thaw(receipt.document)
            if receipt.scope.creates and not self._lives(receipt.scope.owner, document["id"]):
                self._store.forget(receipt)
                return None
            if receipt.digest != key.digest:
                raise IdempotencyConflict(key=key.text)
            return document

        for lost in count():
            answer = recalled()
            if answer is not None:
                return answer
            try:
                return attempt() if insist is None or lost < _RACES else insist()
            except (Moved, AlreadyDone):
                continue
            except EngineError:
                # It may be the first attempt, committed meanwhile, that stands in the way.
                answer = recalled()
                if answer is None:
                    raise
                return answer
        raise AssertionError  # nobody counts that far

    def _lives(self, owner: str, id: str) -> bool:
        row = self._store.find(owner, id)
        return row is not None and self._expiry.use(row) is None

    def _created(self, new: NewSession, nodes: Sequence[Document]) -> Document:
        """The answer to a creation: the session as it is about to be committed."""
        row = SessionRow(
            number=0,
            id=new.id,
            name=new.name,
            version=len(nodes),
            outputs_version=0,
            inputs=new.inputs,
            outputs=new.outputs,
            created_at=new.created_at,
            updated_at=new.created_at,
            residual_bytes=None if new.residuals is None else new.residuals.bytes,
        )
        return session_document(row, nodes, self._expiry.end(row, new.created_at))

    def _value(self, row: SessionRow, id: int) -> Document:
        position = id - len(row.inputs)
        return (
            row.inputs[id] if position < 0 else self.copies.logged(row, position, position + 1)[0]
        )


def resolve_outputs(builder: Builder, outputs: Mapping[str, Ref]) -> dict[str, int]:
    """Outputs by id.

    Raises:
        InvalidName, UnknownName, VarOutOfBounds, VarShapeMismatch: An output cannot be that.
    """
    return {
        check_name(name, path=f"outputs/{name[:300]}"): builder.resolve(ref)
        for name, ref in outputs.items()
    }


def _append_scope(owner: str, session: str, key: Key | None) -> Scope | None:
    return None if key is None else Scope(owner, "nodes", session, key.text)


def _quick(builder: Builder, entries: Sequence[Entry]) -> bool:
    """Whether nothing about these entries can take long.

    Suggestions for an unknown name take a look at every name, and a blob goes to the disk.
    """
    known = builder.names
    for entry in entries:
        for ref in entry.inputs:
            if (
                type(ref) is str
                and ref not in known
                and all(ref != other.name for other in entries)
            ):
                return False
        for value in (entry.attrs or {}).values():
            if isinstance(value, np.ndarray) and value.size > MAX_INLINE:
                return False
    return True


def _new_session(
    owner: str,
    name: str | None,
    inputs: list[Document],
    outputs: dict[str, int],
    residuals: Residuals | None = None,
) -> NewSession:
    id = f"ses_{secrets.token_hex(12)}"
    return NewSession(owner, id, name, inputs, outputs, now(), residuals)


def _constant_bytes(graph: Graph) -> int:
    return sum(node.type.nbytes for node in graph.nodes if node.op.name == "const")


def _receipt(scope: Scope | None, key: Key | None, document: Document) -> Receipt | None:
    if scope is None or key is None:
        return None
    return Receipt(scope, key.digest, freeze(document))


def _locate(graph: Graph, ref: str) -> int:
    """The id that a reference in a URL means: digits are an id, all else is a name."""
    if re.fullmatch(r"[0-9]{1,18}", ref):
        id = int(ref)
        if id < graph.size:
            return id
    elif ref in graph.names:
        return graph.names[ref]
    suggestions = close_matches(ref, graph.names)
    raise ValueNotFound(ref=ref[:300], ctx_len=graph.size, suggestions=suggestions)


def _check_session_name(name: str | None) -> None:
    if name is None:
        return
    check_name(name, path="name")
    reason = None
    if "/" in name or ":" in name:
        reason = "a session's name has no / and no :"
    elif name.startswith("ses_"):
        reason = "ids of sessions begin with ses_, names do not"
    elif name.endswith((".vjp", ".jvp")):
        reason = "a session's name ends in neither .vjp nor .jvp"
    if reason is not None:
        raise InvalidName(name=name, reason=reason, path="name")
