"""Where sessions live: an append-only log of nodes, and what has to be committed together with it.

`Store` is the interface, and the records are what passes through it. An append is a compare-and-set
on the session's version, so two writers can never both win; appends that were made on top of one
another before any was committed are a `Line`. A store knows documents and bytes; what they mean as
graphs is the business of `sessions`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import orjson

from gradwire_engine.errors import QuotaExceeded

__all__ = [
    "CHECK_SECONDS",
    "AlreadyDone",
    "Append",
    "Commit",
    "KeyRow",
    "Line",
    "LogEntry",
    "Moved",
    "NewSession",
    "Receipt",
    "Residuals",
    "Scope",
    "SessionRow",
    "Store",
    "moment",
    "now",
]


CHECK_SECONDS = 1.0
"""How long a store may take to show that it is there: a probe asks, and waits no longer itself."""


class Moved(Exception):
    """Another writer appended first, or the session is gone: read it again."""


class AlreadyDone(Exception):
    """The idempotency key was committed by someone else meanwhile: its answer is there to read."""


@dataclass(frozen=True)
class SessionRow:
    """A session without its nodes. `number` is the store's own key of it.

    `residual_bytes` is what a linearization keeps, or what was made of one; else it is None.
    """

    number: int
    id: str
    name: str | None
    version: int
    outputs_version: int
    inputs: list[dict[str, Any]]
    outputs: dict[str, int]
    created_at: str
    updated_at: str
    residual_bytes: int | None = None

    COLUMNS: ClassVar[str] = (
        "number, id, name, version, outputs_version, inputs, outputs, created_at, updated_at,"
        " residual_bytes"
    )
    """What `of_columns` expects of a database, in its order."""

    @classmethod
    def of_columns(cls, columns: Sequence[Any]) -> SessionRow:
        """The row that a database has, in the order of the fields; `inputs`, `outputs` as JSON."""
        number, id, name, version, outputs_version, inputs, outputs, *rest = columns
        created, updated, residual_bytes = rest
        return cls(
            number=number,
            id=id,
            name=name,
            version=version,
            outputs_version=outputs_version,
            inputs=orjson.loads(inputs),
            outputs=orjson.loads(outputs),
            created_at=created,
            updated_at=updated,
            residual_bytes=residual_bytes,
        )


@dataclass(frozen=True)
class Residuals:
    """What a linearization keeps, in bytes, and what all of its owner's may keep together."""

    bytes: int
    budget: int

    def admit(self, held: int) -> None:
        """Raise `QuotaExceeded` where there is no room for it beside what is held."""
        if held + self.bytes > self.budget:
            raise QuotaExceeded(
                quota="linearization_bytes", limit=self.budget, wanted=self.bytes, held=held
            )


@dataclass(frozen=True)
class NewSession:
    """A session to be created; `residuals` says that it is a linearization."""

    owner: str
    id: str
    name: str | None
    inputs: list[dict[str, Any]]
    outputs: dict[str, int]
    created_at: str
    residuals: Residuals | None = None


class LogEntry(NamedTuple):
    """One node as it is logged, and the large arrays that it refers to by SHA-256."""

    document: bytes
    blobs: Mapping[str, np.ndarray[Any, Any]] = MappingProxyType({})


@dataclass(frozen=True)
class Scope:
    """Whose idempotency key this is: the owner, the route and the session it acts on, if any."""

    owner: str
    route: str
    session: str | None
    key: str

    INSIDE: ClassVar[tuple[str, str]] = ("nodes", "transforms")
    """The routes that act on a session."""

    @property
    def creates(self) -> bool:
        """Whether the route makes a session; else it changes one, and its keys go with that one."""
        return self.route in ("sessions", "transforms")

    @property
    def columns(self) -> tuple[str, str, str, str]:
        """What a database has of it: owner, route, session and key; no session is an empty text."""
        return self.owner, self.route, self.session or "", self.key


@dataclass(frozen=True)
class Receipt:
    """The answer that a retry under the same key is to get, and the digest of the request."""

    scope: Scope
    digest: str
    document: bytes


@dataclass(eq=False)
class Line:
    """Appends to one session, each made on top of the one before without waiting for its commit.

    They are committed in order. Once one of them fails, the line is `broken` and all that come
    behind it fail too: they were made for a log that will never be. `settled` is the version up to
    which the log is known to be what the line was made on. Only the store changes either.
    """

    settled: int
    broken: bool = False


class Append(NamedTuple):
    """Entries to go behind version `version` of the session `number`, as part of `line`.

    A tuple, as `LogEntry` and an engine's `Entry` are: they are made for each append, and a frozen
    dataclass takes several times as long to make.
    """

    number: int
    version: int
    entries: Sequence[LogEntry]
    receipt: Receipt | None
    line: Line

    @property
    def size(self) -> int:
        """The bytes of the documents."""
        return sum(len(entry.document) for entry in self.entries)

    @property
    def end(self) -> int:
        """The session's version behind it."""
        return self.version + len(self.entries)

    def refuse(self, reason: Exception) -> Exception:
        """Break the line, here and now, so that what stands on this append is refused with it."""
        self.line.broken = True
        return reason


class Commit:
    """What becomes of an append that was begun.

    It is `concurrent.futures.Future` as far as an append needs one. That one has a condition of its
    own, which to make and to take costs a small append as much as to be read does; here whoever
    blocks brings what to wait for.
    """

    __slots__ = ("_callback", "_done", "_refusal", "_waiter")

    _lock: ClassVar = threading.Lock()

    def __init__(self) -> None:
        self._done = False
        self._refusal: Exception | None = None
        self._callback: Callable[[], None] | None = None
        self._waiter: threading.Event | None = None

    def settle(self, refusal: Exception | None) -> None:
        """It is durable, or refused; to be called once."""
        with self._lock:
            self._refusal = refusal
            self._done = True
            callback, self._callback = self._callback, None  # which may well refer to this
        if self._waiter is not None:
            self._waiter.set()
        if callback is not None:
            callback()

    def done(self) -> bool:
        """Whether it was settled."""
        return self._done

    def when_done(self, callback: Callable[[], None]) -> None:
        """Have one function called, on whatever thread settles it, or at once if it is settled."""
        with self._lock:
            if not self._done:
                self._callback = callback
                return
        callback()

    def exception(self, timeout: float | None = None) -> Exception | None:
        """Wait until it is done: None where it is durable, else why it is not.

        Raises:
            TimeoutError: It takes longer than so many seconds.
        """
        if not self._done:
            with self._lock:
                if not self._done and self._waiter is None:
                    self._waiter = threading.Event()
            if self._waiter is not None and not self._waiter.wait(timeout):
                raise TimeoutError
        return self._refusal

    def result(self, timeout: float | None = None) -> None:
        """As `exception`, raised."""
        refusal = self.exception(timeout)
        if refusal is not None:
            raise refusal


@dataclass(frozen=True)
class KeyRow:
    """What is kept of an API key: never the key, but the SHA-256 of it, in hex.

    Moments are as `now` writes them; None is never.
    """

    id: str
    owner: str
    note: str
    digest: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None

    COLUMNS: ClassVar[str] = "id, owner, note, digest, created_at, expires_at, revoked_at"
    """The fields, as a database calls them, in their order."""


class Store(Protocol):
    """What the service asks of a store. Every method may block; all are safe to call from threads.

    Writes are durable when they return. `StorageFull` and `Overloaded` may come from any of them.
    """

    def create(
        self, new: NewSession, entries: Sequence[LogEntry], limit: int, receipt: Receipt | None
    ) -> None:
        """Add a session with its whole log.

        Raises:
            NameConflict, QuotaExceeded: The name is taken, or the owner has `limit` sessions, or
                no room for the residuals.
            AlreadyDone: The receipt's key has been committed.
        """

    def fork(
        self, source: SessionRow, version: int, new: NewSession, limit: int, receipt: Receipt | None
    ) -> None:
        """As `create`, with the first `version` entries of another session's log.

        Raises:
            Moved: The source is gone.
        """

    def find(self, owner: str, ref: str) -> SessionRow | None:
        """The owner's session of that id or name."""

    def page(self, owner: str, after: int, limit: int) -> list[SessionRow]:
        """Sessions by age, those with a `number` above `after`."""

    def count(self) -> int:
        """How many sessions there are, of all owners."""

    def names(self, owner: str) -> list[str]:
        """The newest thousand session names, for suggestions."""

    def entries(self, row: SessionRow, start: int, stop: int) -> list[bytes]:
        """Log entries `start` to `stop` (excluded), as far as they exist."""

    def append(self, append: Append) -> Commit:
        """Begin an append; it is durable when the commit is done. This alone never blocks.

        Appends of one line are begun in the order of their versions.

        Raises:
            Moved: (the commit) The session is no longer at that version, or the line is broken.
            AlreadyDone: (the commit) The receipt's key has been committed.
            Overloaded: (at once) Too many appends wait.
        """

    def exclusive(self, row: SessionRow) -> AbstractContextManager[Callable[[Append], None]]:
        """Let nobody else append to a session meanwhile, in whatever process.

        What is read by other methods holds still. What the manager gives makes one append, durable
        when the block is left. One thread of a process is inside at a time; the others wait.

        Raises:
            Moved: The session is gone, or (the append) at another version.
            AlreadyDone: (the append) The receipt's key has been committed.
        """

    def declare(
        self, row: SessionRow, outputs: Mapping[str, int], updated_at: str, *, pinned: bool
    ) -> SessionRow:
        """Set the outputs; with `pinned`, only while the session is at `row.version`.

        Raises:
            Moved: The session is gone, or (pinned) at another version.
        """

    def delete(self, row: SessionRow, *, pinned: bool) -> None:
        """Remove a session and what only it needs; `pinned` and `Moved` as in `declare`."""

    def touch(self, row: SessionRow, at: str) -> None:
        """Note that a session was used without being changed; one that is gone is let be."""

    def last_use(self, row: SessionRow) -> str:
        """When a session was last changed or touched."""

    def unused(
        self, owner: str | None, before: str, limit: int, *, linear: bool
    ) -> list[SessionRow]:
        """Sessions, of one owner or of all, that were neither changed nor touched since.

        With `linear` those with residuals, else those without.
        """

    def recall(self, scope: Scope) -> Receipt | None:
        """The receipt under a key, while it is remembered."""

    def forget(self, receipt: Receipt) -> None:
        """Free a key again, unless another answer has been committed under it meanwhile."""

    def write_blobs(self, entries: Sequence[LogEntry]) -> None:
        """Make the arrays of entries durable ahead of the write that refers to them.

        That write does so too; large arrays are better written here, where others do not wait.
        """

    def blob(self, sha256: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """A large array, read-only."""

    def sweep(self) -> None:
        """Remove what commits that were never made, or are gone, have left on this machine."""

    def add_key(self, key: KeyRow) -> None:
        """Keep an API key."""

    def api_keys(self) -> list[KeyRow]:
        """All API keys, the oldest first, those that are not valid any more included."""

    def revoke_key(self, id: str, at: str) -> KeyRow | None:
        """End a key; one that was revoked before stays as it is. None: there is none of that id."""

    def check(self) -> None:
        """Read something; raises when the store cannot be read, after `CHECK_SECONDS` at most."""

    def close(self) -> None:
        """Release files and connections."""


def now() -> str:
    """The present as ISO 8601 in UTC, to the microsecond."""
    second, micro = divmod(time.time_ns() // 1000, 10**6)
    return f"{_to_the_second(second)}.{micro:06d}Z"


@lru_cache(maxsize=2)
def _to_the_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def moment(at: datetime) -> str:
    """A moment in UTC as `now` writes it; such texts sort by time."""
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")
