"""The store in SQLite: one file that several processes may share, or memory.

WAL with `synchronous=FULL`: nothing is acknowledged before a synced commit. Every transaction that
writes takes the write lock at its start, so what it reads is what it changes. Appends are gathered
by a thread that commits many of them at once (see `group_commit`).
"""

from __future__ import annotations

import dataclasses
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from gradwire_engine.errors import EngineError, NameConflict, QuotaExceeded

from . import sqlite_groups
from .blobs import Blobs
from .errors import Overloaded, StorageFull
from .group_commit import GroupCommit, Outcomes
from .store import (
    AlreadyDone,
    Append,
    Commit,
    KeyRow,
    LogEntry,
    Moved,
    NewSession,
    Receipt,
    Scope,
    SessionRow,
    now,
)

__all__ = ["SqliteStore", "connect", "transaction", "translated"]

SCHEMA_VERSION = 1

_OLDEST = (3, 33)
"""The first SQLite that has UPDATE FROM."""

_ROWS = 64
"""The most rows that one statement writes; those of each number of rows are kept compiled."""


_LOOK, _LOOK_LATE = 0.0002, 0.02
"""Seconds between two looks whether another process's write is over: less than a commit takes, and
the most where it takes longer."""

_TABLES = """
CREATE TABLE schema_version (version INTEGER NOT NULL);
CREATE TABLE sessions (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    name TEXT,
    version INTEGER NOT NULL,
    outputs_version INTEGER NOT NULL,
    inputs BLOB NOT NULL,
    outputs BLOB NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    UNIQUE (owner, name)
);
CREATE INDEX sessions_by_owner ON sessions (owner, number);
CREATE TABLE log (
    session INTEGER NOT NULL REFERENCES sessions (number) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    document BLOB NOT NULL,
    PRIMARY KEY (session, position)
);
CREATE TABLE log_blobs (
    session INTEGER NOT NULL REFERENCES sessions (number) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (session, position, sha256)
) WITHOUT ROWID;
CREATE INDEX log_blobs_by_sha256 ON log_blobs (sha256);
CREATE TABLE receipts (
    owner TEXT NOT NULL,
    route TEXT NOT NULL,
    session TEXT NOT NULL,
    key TEXT NOT NULL,
    digest TEXT NOT NULL,
    document BLOB NOT NULL,
    written REAL NOT NULL,
    PRIMARY KEY (owner, route, session, key)
);
CREATE INDEX receipts_by_age ON receipts (written);
"""

# Of a later date than the others, so older files may lack it.
_LATER = """
CREATE TABLE IF NOT EXISTS uses (
    session INTEGER PRIMARY KEY REFERENCES sessions (number) ON DELETE CASCADE,
    used_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS api_keys (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    note TEXT NOT NULL,
    digest TEXT NOT NULL,
    created_at TEXT NOT NULL,
    expires_at TEXT,
    revoked_at TEXT
);
CREATE INDEX IF NOT EXISTS sessions_with_residuals ON sessions (owner)
    WHERE residual_bytes IS NOT NULL
"""


class SqliteStore:
    """The store in one SQLite file under `directory`, or in memory where that is None.

    The process has one connection to write with and one to read with, each under a lock, so that
    no read waits for a write; other processes may have the file open too.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        retention: float = 86_400.0,
        max_bytes: int | None = None,
        patience: float = 10.0,
    ) -> None:
        """Open the store, making it where it is missing.

        Args:
            directory: Where `gradwire.sqlite3` and `blobs/` are; None keeps all in memory.
            retention: How long receipts are remembered, in seconds.
            max_bytes: Bound on the database file; beyond it writes raise `StorageFull`.
            patience: How long a write waits for another process's write, in seconds.

        Raises:
            RuntimeError: The file was written by a newer version of the service, or Python has an
                old SQLite.
            OSError, sqlite3.Error: The directory or file cannot be used.
        """
        if sqlite3.sqlite_version_info < _OLDEST:
            oldest = ".".join(map(str, _OLDEST))
            raise RuntimeError(
                f"this Python has SQLite {sqlite3.sqlite_version}, and {oldest} is needed: "
                "use another Python, or PostgreSQL (GRADWIRE_STORE)"
            )
        self._lock = threading.RLock()
        self._read_lock = self._lock if directory is None else threading.RLock()
        self._retention = retention
        self._patience = patience
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
        self._blobs = Blobs(None if directory is None else directory / "blobs")
        path = ":memory:" if directory is None else str(directory / "gradwire.sqlite3")
        self._sql = connect(path, patience)
        try:
            self._prepare(max_bytes)
            self._reader = self._sql if directory is None else connect(path, patience)
            self.sweep()
        except BaseException:
            self._sql.close()
            raise
        self._appends = GroupCommit(self._commit, self._commit_at_once)

    def _prepare(self, max_bytes: int | None) -> None:
        self._sql.execute("PRAGMA journal_mode = WAL")
        self._sql.execute("PRAGMA synchronous = FULL")
        self._sql.execute("PRAGMA foreign_keys = ON")
        self._sql.execute("PRAGMA busy_timeout = 0")  # `_patiently` waits
        self._sql.execute("PRAGMA temp_store = MEMORY")
        if max_bytes is not None:
            page: int = self._sql.execute("PRAGMA page_size").fetchone()[0]
            self._sql.execute(f"PRAGMA max_page_count = {max(1, max_bytes // page)}")
        with self._write():
            tables = self._sql.execute(
                "SELECT count(*) FROM sqlite_master WHERE name = 'schema_version'"
            ).fetchone()[0]
            if not tables:
                for statement in _TABLES.split(";"):
                    self._sql.execute(statement)
                self._sql.execute("INSERT INTO schema_version VALUES (?)", (SCHEMA_VERSION,))
            columns = {row[1] for row in self._sql.execute("PRAGMA table_info(sessions)")}
            if "residual_bytes" not in columns:
                self._sql.execute("ALTER TABLE sessions ADD COLUMN residual_bytes INTEGER")
            for statement in _LATER.split(";"):
                self._sql.execute(statement)
            found: int = self._sql.execute("SELECT version FROM schema_version").fetchone()[0]
            if found > SCHEMA_VERSION:
                raise RuntimeError(
                    f"the store has schema {found}, this version knows {SCHEMA_VERSION}: "
                    "start the newer service, or choose another data directory"
                )
        self._sql.executescript(sqlite_groups.PREPARE)

    def sweep(self) -> None:
        """See `Store.sweep`."""
        rows = self._rows(
            "SELECT value FROM json_each(?)"
            " WHERE NOT EXISTS (SELECT 1 FROM log_blobs WHERE sha256 = value)",
            orjson.dumps(self._blobs.old()).decode(),
        )
        self._discard_unused([sha256 for (sha256,) in rows])

    def _discard_unused(self, names: Collection[str]) -> None:
        """Remove those of the arrays that no log refers to."""
        if not names:
            return
        with self._write():  # which keeps other processes from committing a reference meanwhile
            for sha256 in names:
                found = self._sql.execute(
                    "SELECT 1 FROM log_blobs WHERE sha256 = ? LIMIT 1", (sha256,)
                )
                if found.fetchone() is None:
                    self._blobs.discard(sha256)

    # -- transactions ------------------------------------------------------------------------------

    @contextmanager
    def _write(self) -> Iterator[None]:
        """A transaction that holds the file's write lock from its start; durable at its end."""
        with self._lock, translated(), transaction(self._sql, self._patience):
            yield

    def _rows(self, statement: str, *values: Any) -> list[Any]:
        with self._read_lock, translated():
            return self._reader.execute(statement, values).fetchall()

    # -- sessions ----------------------------------------------------------------------------------

    def create(
        self, new: NewSession, entries: Sequence[LogEntry], limit: int, receipt: Receipt | None
    ) -> None:
        """See `Store.create`."""
        self.write_blobs(entries)
        try:
            with self._write():
                number = self._insert(new, len(entries), limit, receipt)
                self._insert_log((number, k, entry) for k, entry in enumerate(entries))
        except BaseException:
            with suppress(EngineError):  # what is left is swept some time
                self._discard_unused([name for entry in entries for name in entry.blobs])
            raise

    def fork(
        self, source: SessionRow, version: int, new: NewSession, limit: int, receipt: Receipt | None
    ) -> None:
        """See `Store.fork`."""
        with self._write():
            number = self._insert(new, version, limit, receipt)
            copied = self._sql.execute(
                "INSERT INTO log SELECT ?, position, document FROM log"
                " WHERE session = ? AND position < ?",
                (number, source.number, version),
            )
            if copied.rowcount != version or not self._alive(source):
                raise Moved
            self._sql.execute(
                "INSERT INTO log_blobs SELECT ?, position, sha256 FROM log_blobs"
                " WHERE session = ? AND position < ?",
                (number, source.number, version),
            )

    def find(self, owner: str, ref: str) -> SessionRow | None:
        """See `Store.find`."""
        column = "id" if ref.startswith("ses_") else "name"
        rows = self._rows(
            f"SELECT {SessionRow.COLUMNS} FROM sessions WHERE owner = ? AND {column} = ?",
            owner,
            ref,
        )
        return SessionRow.of_columns(rows[0]) if rows else None

    def page(self, owner: str, after: int, limit: int) -> list[SessionRow]:
        """See `Store.page`."""
        rows = self._rows(
            f"SELECT {SessionRow.COLUMNS} FROM sessions WHERE owner = ? AND number > ?"
            " ORDER BY number LIMIT ?",
            owner,
            after,
            limit,
        )
        return [SessionRow.of_columns(row) for row in rows]

    def count(self) -> int:
        """See `Store.count`."""
        return int(self._rows("SELECT count(*) FROM sessions")[0][0])

    def names(self, owner: str) -> list[str]:
        """See `Store.names`."""
        rows = self._rows(
            "SELECT name FROM sessions WHERE owner = ? AND name IS NOT NULL"
            " ORDER BY number DESC LIMIT 1000",
            owner,
        )
        return [row[0] for row in rows]

    def entries(self, row: SessionRow, start: int, stop: int) -> list[bytes]:
        """See `Store.entries`."""
        rows = self._rows(
            "SELECT document FROM log WHERE session = ? AND position >= ? AND position < ?"
            " ORDER BY position",
            row.number,
            start,
            stop,
        )
        return [found[0] for found in rows]

    def append(self, append: Append) -> Commit:
        """See `Store.append`."""
        return self._appends.submit(append)

    @contextmanager
    def exclusive(self, row: SessionRow) -> Iterator[Callable[[Append], None]]:
        """See `Store.exclusive`: the file's write lock keeps everybody else out."""
        with self._write():
            if not self._alive(row):
                raise Moved

            def put(append: Append) -> None:
                refusal = self._append(append)
                if refusal is not None:
                    raise refusal

            yield put

    def _commit(self, group: Sequence[Append]) -> Outcomes:
        if self._append_together(group, self._patience):
            return [None] * len(group)
        with self._write():
            return [self._append(append) for append in group]

    def _commit_at_once(self, group: Sequence[Append]) -> bool:
        """As `_append_together`, but if somebody else writes nobody is waited for."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            return self._append_together(group, patience=0.0)
        finally:
            self._lock.release()

    def _append_together(self, group: Sequence[Append], patience: float) -> bool:
        """Commit a whole group as one statement; False: nothing of it was committed.

        Then there is something against some append, and which one `_append` finds out, or more to
        do than fits into a statement.
        """
        row = sqlite_groups.row_of(group, self._retention)
        if row is None:
            return False
        try:
            with self._lock, translated():
                _patiently(partial(self._sql.execute, sqlite_groups.COMMIT, row), patience)
        except sqlite3.IntegrityError:
            return False
        return True

    def _append(self, append: Append) -> Exception | None:
        """Write one append of a group, unless there is something against it."""
        if append.line.broken:
            return Moved()
        if append.receipt is not None and self._is_kept(append.receipt.scope):
            return append.refuse(AlreadyDone())
        changed = self._sql.execute(
            "UPDATE sessions SET version = ?, updated_at = ? WHERE number = ? AND version = ?",
            (
                append.end,
                now(),
                append.number,
                append.version,
            ),
        )
        if changed.rowcount != 1:
            return append.refuse(Moved())
        self._insert_log(
            (append.number, append.version + k, entry) for k, entry in enumerate(append.entries)
        )
        self._keep(append.receipt)
        return None

    def declare(
        self, row: SessionRow, outputs: Mapping[str, int], updated_at: str, *, pinned: bool
    ) -> SessionRow:
        """See `Store.declare`."""
        with self._write():
            changed = self._sql.execute(
                "UPDATE sessions SET outputs = ?, outputs_version = outputs_version + 1,"
                " updated_at = ? WHERE number = ? AND (version = ? OR NOT ?)",
                (orjson.dumps(dict(outputs)), updated_at, row.number, row.version, pinned),
            )
            if changed.rowcount != 1:
                raise Moved
            found = self._sql.execute(
                f"SELECT {SessionRow.COLUMNS} FROM sessions WHERE number = ?",
                (row.number,),
            ).fetchone()
        return SessionRow.of_columns(found)

    def delete(self, row: SessionRow, *, pinned: bool) -> None:
        """See `Store.delete`."""
        with self._write():
            held = self._sql.execute(
                "SELECT DISTINCT sha256 FROM log_blobs WHERE session = ?", (row.number,)
            ).fetchall()
            self._sql.execute(
                "DELETE FROM receipts WHERE owner = (SELECT owner FROM sessions WHERE number = ?)"
                " AND route IN (?, ?) AND session = ?",
                (row.number, *Scope.INSIDE, row.id),
            )
            gone = self._sql.execute(
                "DELETE FROM sessions WHERE number = ? AND (version = ? OR NOT ?)",
                (row.number, row.version, pinned),
            )
            if gone.rowcount != 1:
                raise Moved
        # Only now: a delete that is not committed needs its blobs still.
        self._discard_unused([sha256 for (sha256,) in held])

    # -- uses --------------------------------------------------------------------------------------

    def touch(self, row: SessionRow, at: str) -> None:
        """See `Store.touch`."""
        with self._write():
            self._sql.execute(
                "INSERT OR REPLACE INTO uses SELECT number, ? FROM sessions WHERE number = ?",
                (at, row.number),
            )

    def last_use(self, row: SessionRow) -> str:
        """See `Store.last_use`."""
        rows = self._rows("SELECT used_at FROM uses WHERE session = ?", row.number)
        touched: list[str] = [at for (at,) in rows]
        return max([row.updated_at, *touched])

    def unused(
        self, owner: str | None, before: str, limit: int, *, linear: bool
    ) -> list[SessionRow]:
        """See `Store.unused`."""
        rows = self._rows(
            f"SELECT {SessionRow.COLUMNS} FROM sessions LEFT JOIN uses ON session = number"
            " WHERE updated_at < ? AND (used_at IS NULL OR used_at < ?)"
            " AND (owner = ? OR ? IS NULL)"
            f" AND residual_bytes IS {'NOT NULL' if linear else 'NULL'} ORDER BY number LIMIT ?",
            *(before, before, owner, owner, limit),
        )
        return [SessionRow.of_columns(row) for row in rows]

    # -- receipts and blobs ------------------------------------------------------------------------

    def recall(self, scope: Scope) -> Receipt | None:
        """See `Store.recall`."""
        rows = self._rows(
            "SELECT digest, document FROM receipts WHERE owner = ? AND route = ? AND session = ?"
            " AND key = ? AND written > ?",
            *scope.columns,
            time.time() - self._retention,
        )
        return Receipt(scope, rows[0][0], rows[0][1]) if rows else None

    def forget(self, receipt: Receipt) -> None:
        """See `Store.forget`."""
        with self._write():
            self._sql.execute(
                "DELETE FROM receipts WHERE owner = ? AND route = ? AND session = ? AND key = ?"
                " AND document = ?",
                (*receipt.scope.columns, receipt.document),
            )

    def write_blobs(self, entries: Sequence[LogEntry]) -> None:
        """See `Store.write_blobs`."""
        given = [entry.blobs for entry in entries if entry.blobs]
        if given:  # of a small append next to never
            self._blobs.ensure({name: array for each in given for name, array in each.items()})

    def blob(self, sha256: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """See `Store.blob`."""
        return self._blobs.load(sha256, dtype, shape)

    # -- keys --------------------------------------------------------------------------------------

    def add_key(self, key: KeyRow) -> None:
        """See `Store.add_key`."""
        with self._write():
            self._sql.execute(
                f"INSERT INTO api_keys ({KeyRow.COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                dataclasses.astuple(key),
            )

    def api_keys(self) -> list[KeyRow]:
        """See `Store.api_keys`."""
        rows = self._rows(f"SELECT {KeyRow.COLUMNS} FROM api_keys ORDER BY number")
        return [KeyRow(*row) for row in rows]

    def revoke_key(self, id: str, at: str) -> KeyRow | None:
        """See `Store.revoke_key`."""
        with self._write():
            self._sql.execute(
                "UPDATE api_keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL", (at, id)
            )
            found = self._sql.execute(
                f"SELECT {KeyRow.COLUMNS} FROM api_keys WHERE id = ?", (id,)
            ).fetchone()
        return None if found is None else KeyRow(*found)

    # ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """See `Store.check`."""
        self._rows("SELECT version FROM schema_version")

    def close(self) -> None:
        """See `Store.close`."""
        self._appends.close()
        with self._lock, self._read_lock:
            self._reader.close()
            self._sql.close()

    # -- parts of transactions ---------------------------------------------------------------------

    def _alive(self, row: SessionRow) -> bool:
        found = self._sql.execute("SELECT 1 FROM sessions WHERE number = ?", (row.number,))
        return found.fetchone() is not None

    def _insert(self, new: NewSession, version: int, limit: int, receipt: Receipt | None) -> int:
        if receipt is not None and self._is_kept(receipt.scope):
            raise AlreadyDone
        self._keep(receipt)
        held: int = self._sql.execute(
            "SELECT count(*) FROM sessions WHERE owner = ?", (new.owner,)
        ).fetchone()[0]
        if held >= limit:
            raise QuotaExceeded(quota="sessions", limit=limit, wanted=1, held=held)
        if new.residuals is not None:
            kept: int = self._sql.execute(
                "SELECT coalesce(sum(residual_bytes), 0) FROM sessions"
                " WHERE owner = ? AND residual_bytes IS NOT NULL",
                (new.owner,),
            ).fetchone()[0]
            new.residuals.admit(kept)
        if new.name is not None:
            taken = self._sql.execute(
                "SELECT 1 FROM sessions WHERE owner = ? AND name = ?", (new.owner, new.name)
            ).fetchone()
            if taken is not None:
                raise NameConflict(name=new.name)
        added = self._sql.execute(
            "INSERT INTO sessions (id, owner, name, version, outputs_version, inputs, outputs,"
            " created_at, updated_at, residual_bytes) VALUES (?, ?, ?, ?, 0, ?, ?, ?, ?, ?)",
            (
                new.id,
                new.owner,
                new.name,
                version,
                orjson.dumps(new.inputs),
                orjson.dumps(new.outputs),
                new.created_at,
                new.created_at,
                None if new.residuals is None else new.residuals.bytes,
            ),
        )
        assert added.lastrowid is not None  # an insert that succeeded has one
        return added.lastrowid

    def _insert_log(self, rows: Iterable[tuple[int, int, LogEntry]]) -> None:
        """Add entries by session and position."""
        rest = iter(rows)
        while part := list(islice(rest, _ROWS)):
            self._sql.execute(
                f"INSERT INTO log {_values(3, len(part))}",
                [
                    value
                    for number, position, entry in part
                    for value in (number, position, entry.document)
                ],
            )
            for number, position, entry in part:
                for sha256, array in entry.blobs.items():
                    # A delete elsewhere may have removed the file since it was written: not any
                    # more, as this transaction holds the write lock.
                    self._blobs.ensure({sha256: array})
                    self._sql.execute(
                        "INSERT OR IGNORE INTO log_blobs VALUES (?, ?, ?)",
                        (number, position, sha256),
                    )

    def _is_kept(self, scope: Scope) -> bool:
        """Whether an answer is remembered under a key."""
        found = self._sql.execute(
            "SELECT 1 FROM receipts WHERE owner = ? AND route = ? AND session = ? AND key = ?"
            " AND written > ?",
            (*scope.columns, time.time() - self._retention),
        )
        return found.fetchone() is not None

    def _keep(self, receipt: Receipt | None) -> None:
        """Remember an answer, if there is one; the caller has seen that its key is free."""
        if receipt is None:
            return
        written = time.time()
        self._sql.execute("DELETE FROM receipts WHERE written <= ?", (written - self._retention,))
        self._sql.execute(
            f"INSERT OR REPLACE INTO receipts {_values(7, 1)}",
            (*receipt.scope.columns, receipt.digest, receipt.document, written),
        )


def _values(columns: int, rows: int) -> str:
    """A table of so many rows, to be bound."""
    return "VALUES " + ", ".join([f"({', '.join('?' * columns)})"] * rows)


def connect(path: str, patience: float) -> sqlite3.Connection:
    """A connection for any thread, all of which have to use it under one lock."""
    # Which thread calls does not matter, as every use is under a lock.
    return sqlite3.connect(
        path,
        timeout=patience,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=512,
    )


@contextmanager
def transaction(sql: sqlite3.Connection, patience: float) -> Iterator[None]:
    """A transaction that holds the file's write lock from its start; durable at its end.

    For a connection whose `busy_timeout` is 0: another process's write is waited for here, for
    `patience` seconds.
    """
    _patiently(lambda: sql.execute("BEGIN IMMEDIATE"), patience)
    try:
        yield
        sql.execute("COMMIT")
    except BaseException:
        if sql.in_transaction:
            sql.execute("ROLLBACK")
        raise


def _patiently(write: Callable[[], object], patience: float) -> None:
    """Do what needs the write lock from its start, waiting while another process has it.

    SQLite's own waiting sleeps up to a tenth of a second at a time, in which two other processes
    may hand the lock to each other many times over.
    """
    began = time.monotonic()
    while True:
        try:
            write()
            return
        except sqlite3.OperationalError as error:
            waited = time.monotonic() - began
            # Of several kinds: SQLITE_BUSY_RECOVERY is another process reading a crash's WAL.
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or waited > patience:
                raise
        time.sleep(min(_LOOK + waited / 20, _LOOK_LATE))


@contextmanager
def translated() -> Iterator[None]:
    """Faults of the file as the errors that a caller can act on."""
    try:
        yield
    except sqlite3.OperationalError as error:
        name = getattr(error, "sqlite_errorname", "")
        if name == "SQLITE_FULL":
            raise StorageFull from error
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise Overloaded(reason="the store is busy with another process's write") from error
        if name.startswith(("SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN")):
            raise Overloaded(reason="the store's disk does not answer", retry_after=5) from error
        raise
