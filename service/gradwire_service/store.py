"""Where sessions live: an append-only log of nodes, and what has to be committed together with it.

`Store` is the interface, and the records are what passes through it. An append is a compare-and-set
on the session's version, so two writers can never both win. A store knows documents and bytes; what
they mean as graphs is the business of `sessions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np

__all__ = [
    "AlreadyDone",
    "LogEntry",
    "Moved",
    "NewSession",
    "Receipt",
    "Scope",
    "SessionRow",
    "Store",
    "now",
]


class Moved(Exception):
    """Another writer appended first, or the session is gone: read it again."""


class AlreadyDone(Exception):
    """The idempotency key was committed by someone else meanwhile: its answer is there to read."""


@dataclass(frozen=True)
class SessionRow:
    """A session without its nodes. `number` is the store's own key of it."""

    number: int
    id: str
    name: str | None
    version: int
    outputs_version: int
    inputs: list[dict[str, Any]]
    outputs: dict[str, int]
    created_at: str
    updated_at: str


@dataclass(frozen=True)
class NewSession:
    """A session to be created."""

    owner: str
    id: str
    name: str | None
    inputs: list[dict[str, Any]]
    outputs: dict[str, int]
    created_at: str


@dataclass(frozen=True)
class LogEntry:
    """One node as it is logged, and the large arrays that it refers to by SHA-256."""

    document: bytes
    blobs: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Scope:
    """Whose idempotency key this is: the owner, the route and the session it acts on, if any."""

    owner: str
    route: str
    session: str | None
    key: str


@dataclass(frozen=True)
class Receipt:
    """The answer that a retry under the same key is to get, and the digest of the request."""

    scope: Scope
    digest: str
    document: bytes


class Store(Protocol):
    """What the service asks of a store. Every method may block; all are safe to call from threads.

    Writes are durable when they return. `StorageFull` and `Overloaded` may come from any of them.
    """

    def create(
        self, new: NewSession, entries: Sequence[LogEntry], limit: int, receipt: Receipt | None
    ) -> None:
        """Add a session with its whole log.

        Raises:
            NameConflict, QuotaExceeded: The name is taken, or the owner has `limit` sessions.
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

    def names(self, owner: str) -> list[str]:
        """The newest thousand session names, for suggestions."""

    def entries(self, row: SessionRow, start: int, stop: int) -> list[bytes]:
        """Log entries `start` to `stop` (excluded), as far as they exist."""

    def append(
        self, row: SessionRow, entries: Sequence[LogEntry], updated_at: str, receipt: Receipt | None
    ) -> None:
        """Append behind version `row.version`.

        Raises:
            Moved: The session is no longer at that version.
            AlreadyDone: The receipt's key has been committed.
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

    def recall(self, scope: Scope) -> Receipt | None:
        """The receipt under a key, while it is remembered."""

    def blob(self, sha256: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """A large array, read-only."""

    def check(self) -> None:
        """Read something; raises when the store cannot be read."""

    def close(self) -> None:
        """Release files and connections."""


def now() -> str:
    """The present as ISO 8601 in UTC, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
