"""The store in PostgreSQL: for workers on several hosts, or many on one.

It keeps the same log as SQLite's, and the large arrays too, in parts; a directory on each host
holds copies of those that were read there. Appends are gathered by a thread of the process and
written with a few statements for the whole group (see `group_commit`). Locks are taken in one
order, so that nobody waits in a circle: owners, sessions by number, arrays by name.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psycopg
from psycopg import conninfo
from psycopg_pool import ConnectionPool

from gradwire_engine.errors import EngineError, NameConflict, QuotaExceeded

from .blobs import Blobs
from .errors import Overloaded, StorageFull
from .files import LEFTOVER_AGE, raw
from .group_commit import GroupCommit, Outcomes
from .store import (
    CHECK_SECONDS,
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

__all__ = ["PostgresStore"]

SCHEMA_VERSION = 1

_TABLES = """
CREATE TABLE schema_version (version integer NOT NULL);
CREATE TABLE sessions (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL UNIQUE,
    owner text NOT NULL,
    name text,
    version bigint NOT NULL,
    outputs_version bigint NOT NULL,
    inputs bytea NOT NULL,
    outputs bytea NOT NULL,
    created_at text NOT NULL,
    updated_at text NOT NULL,
    UNIQUE (owner, name)
) WITH (fillfactor = 50);  -- an append changes one row in place, next to where it was
CREATE INDEX sessions_by_owner ON sessions (owner, number);
CREATE TABLE log (
    session bigint NOT NULL REFERENCES sessions (number) ON DELETE CASCADE,
    position bigint NOT NULL,
    document bytea NOT NULL,
    PRIMARY KEY (session, position)
);
CREATE TABLE blobs (
    sha256 text PRIMARY KEY,
    bytes bigint NOT NULL,
    written timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE blob_parts (
    sha256 text NOT NULL REFERENCES blobs (sha256) ON DELETE CASCADE,
    part integer NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (sha256, part)
);
ALTER TABLE blob_parts ALTER data SET STORAGE EXTERNAL;  -- numbers compress badly
CREATE TABLE log_blobs (
    session bigint NOT NULL REFERENCES sessions (number) ON DELETE CASCADE,
    position bigint NOT NULL,
    sha256 text NOT NULL REFERENCES blobs (sha256),
    PRIMARY KEY (session, position, sha256)
);
CREATE INDEX log_blobs_by_sha256 ON log_blobs (sha256);
CREATE TABLE receipts (
    owner text NOT NULL,
    route text NOT NULL,
    session text NOT NULL,
    key text NOT NULL,
    digest text NOT NULL,
    document bytea NOT NULL,
    written timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (owner, route, session, key)
);
CREATE INDEX receipts_by_age ON receipts (written);
CREATE TABLE uses (
    session bigint PRIMARY KEY REFERENCES sessions (number) ON DELETE CASCADE,
    used_at text NOT NULL
);
CREATE TABLE api_keys (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL UNIQUE,
    owner text NOT NULL,
    note text NOT NULL,
    digest text NOT NULL,
    created_at text NOT NULL,
    expires_at text,
    revoked_at text
);
"""

# Of a later date than the others, so older databases lack it.
_LATER = """
ALTER TABLE sessions ADD COLUMN residual_bytes bigint;
CREATE INDEX sessions_with_residuals ON sessions (owner) WHERE residual_bytes IS NOT NULL
"""

_SCOPES = "unnest(%s::text[], %s::text[], %s::text[], %s::text[])"

_SETUP, _OWNER = 0x67726164, 0x77697265
"""Names of advisory locks: of setting up, and (with its hash) of an owner."""

_PART = 2**23

# What hangs is given up: by default libpq waits for a silent host for many minutes.
_DEFAULTS: Mapping[str, str | int] = {
    "application_name": "gradwire",
    "connect_timeout": 5,
    "keepalives_idle": 30,
    "tcp_user_timeout": 15_000,
}

Transaction = psycopg.Connection[tuple[Any, ...]]


class PostgresStore:
    """The store in the database that `url` names; the tables are made in its first schema."""

    def __init__(
        self,
        url: str,
        directory: Path,
        *,
        retention: float = 86_400.0,
        patience: float = 10.0,
        connections: int = 8,
    ) -> None:
        """Connect, and make the tables where they are missing.

        Args:
            url: `postgresql://user:password@host/database`, or any other string libpq takes.
            directory: Where copies of large arrays are kept; they can be made again.
            retention: How long receipts are remembered, in seconds.
            patience: How long to wait for a connection or another writer, in seconds.
            connections: The most that this process opens.

        Raises:
            RuntimeError: The database cannot be used, or a newer version of the service made it.
            OSError: The directory cannot be used.
        """
        self._retention = retention
        self._patience = patience
        # Who is inside needs a second connection to read: not everybody may be.
        self._alone = threading.Lock()
        self._blobs = Blobs(directory / "blobs")
        try:
            address = conninfo.make_conninfo(url, **_missing(url))
            with psycopg.connect(address, autocommit=True) as sql:
                self._configure(sql)
                self._prepare(sql)
        except psycopg.Error as error:
            raise RuntimeError(f"the PostgreSQL store cannot be used: {_reason(error)}") from None
        self._pool: ConnectionPool[Transaction] = ConnectionPool(
            address,
            min_size=1,
            max_size=connections,
            timeout=patience,
            reconnect_timeout=1.0,  # then the next who asks tries again, however long it was gone
            kwargs={"autocommit": True},
            configure=self._configure,
            check=ConnectionPool.check_connection,
            open=True,
        )
        try:
            self.sweep()
        except BaseException:
            self._pool.close()
            raise
        self._appends = GroupCommit(self._commit)

    def _configure(self, connection: Transaction) -> None:
        milliseconds = str(int(self._patience * 1000))
        connection.execute(
            "SELECT set_config('lock_timeout', %s, false),"
            " set_config('idle_in_transaction_session_timeout', '60s', false)",
            (milliseconds,),
        )
        # What is acknowledged must be on the disk, whatever the server's default.
        connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false)"
            " WHERE current_setting('synchronous_commit') = 'off'"
        )

    def _prepare(self, sql: Transaction) -> None:
        with sql.transaction():
            sql.execute("SELECT pg_advisory_xact_lock(%s)", (_SETUP,))
            if _one(sql.execute("SELECT to_regclass('schema_version')")) is None:
                sql.execute(_TABLES)
                sql.execute("INSERT INTO schema_version VALUES (%s)", (SCHEMA_VERSION,))
            later = sql.execute(
                "SELECT 1 FROM pg_attribute WHERE attrelid = 'sessions'::regclass"
                " AND attname = 'residual_bytes'"
            )
            if later.fetchone() is None:
                sql.execute(_LATER)
            found = _one(sql.execute("SELECT version FROM schema_version"))
            if found > SCHEMA_VERSION:
                raise RuntimeError(
                    f"the store has schema {found}, this version knows {SCHEMA_VERSION}: "
                    "start the newer service, or choose another database"
                )
            old = sql.execute(
                "SELECT sha256 FROM blobs b WHERE written < now() - make_interval(secs => %s)"
                " AND NOT EXISTS (SELECT 1 FROM log_blobs l WHERE l.sha256 = b.sha256)",
                (LEFTOVER_AGE,),
            )
            _drop_unused(sql, [sha256 for (sha256,) in old])

    def sweep(self) -> None:
        """See `Store.sweep`: copies of what another machine has deleted, most of all."""
        old = self._blobs.old()
        kept = self._rows("SELECT sha256 FROM blobs WHERE sha256 = ANY(%s)", old) if old else []
        for sha256 in {*old} - {name for (name,) in kept}:
            self._blobs.discard(sha256)

    # -- transactions ------------------------------------------------------------------------------

    @contextmanager
    def _write(self) -> Iterator[Transaction]:
        """A transaction; durable at its end."""
        with _translated(), self._pool.connection() as sql, sql.transaction():
            yield sql

    def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with _translated(), self._pool.connection() as sql:
            return sql.execute(statement, values, binary=True).fetchall()

    # -- sessions ----------------------------------------------------------------------------------

    def create(
        self, new: NewSession, entries: Sequence[LogEntry], limit: int, receipt: Receipt | None
    ) -> None:
        """See `Store.create`."""
        self.write_blobs(entries)
        try:
            with self._write() as sql:
                number = _insert(sql, new, len(entries), limit, receipt, self._retention)
                _insert_log(sql, [(number, 0, entries)])
        except BaseException:
            arrays = [*_arrays(entries)]
            if arrays:
                with suppress(EngineError), self._write() as sql:  # what is left is swept some time
                    for sha256 in _drop_unused(sql, arrays):
                        self._blobs.discard(sha256)
            raise

    def fork(
        self, source: SessionRow, version: int, new: NewSession, limit: int, receipt: Receipt | None
    ) -> None:
        """See `Store.fork`."""
        with self._write() as sql:
            number = _insert(sql, new, version, limit, receipt, self._retention)
            alive = sql.execute(
                "SELECT 1 FROM sessions WHERE number = %s FOR KEY SHARE", (source.number,)
            )
            if alive.fetchone() is None:
                raise Moved
            for table, column in (("log", "document"), ("log_blobs", "sha256")):
                sql.execute(
                    f"INSERT INTO {table} SELECT %s, position, {column} FROM {table}"
                    " WHERE session = %s AND position < %s",
                    (number, source.number, version),
                )

    def find(self, owner: str, ref: str) -> SessionRow | None:
        """See `Store.find`."""
        if "\0" in ref:  # a text that PostgreSQL has no room for, so no id and no name
            return None
        column = "id" if ref.startswith("ses_") else "name"
        rows = self._rows(
            f"SELECT {SessionRow.COLUMNS} FROM sessions WHERE owner = %s AND {column} = %s",
            owner,
            ref,
        )
        return SessionRow.of_columns(rows[0]) if rows else None

    def page(self, owner: str, after: int, limit: int) -> list[SessionRow]:
        """See `Store.page`."""
        rows = self._rows(
            f"SELECT {SessionRow.COLUMNS} FROM sessions WHERE owner = %s AND number > %s"
            " ORDER BY number LIMIT %s",
            owner,
            after,
            limit,
        )
        return [SessionRow.of_columns(row) for row in rows]

    def count(self) -> int:
        """See `Store.count`."""
        ((number,),) = self._rows("SELECT count(*) FROM sessions")
        return int(number)

    def names(self, owner: str) -> list[str]:
        """See `Store.names`."""
        rows = self._rows(
            "SELECT name FROM sessions WHERE owner = %s AND name IS NOT NULL"
            " ORDER BY number DESC LIMIT 1000",
            owner,
        )
        return [name for (name,) in rows]

    def entries(self, row: SessionRow, start: int, stop: int) -> list[bytes]:
        """See `Store.entries`."""
        rows = self._rows(
            "SELECT document FROM log WHERE session = %s AND position >= %s AND position < %s"
            " ORDER BY position",
            row.number,
            start,
            stop,
        )
        return [document for (document,) in rows]

    def append(self, append: Append) -> Commit:
        """See `Store.append`."""
        return self._appends.submit(append)

    @contextmanager
    def exclusive(self, row: SessionRow) -> Iterator[Callable[[Append], None]]:
        """See `Store.exclusive`: the session's row is locked."""
        with self._alone, self._write() as sql:
            locked = sql.execute(
                "SELECT 1 FROM sessions WHERE number = %s FOR UPDATE", (row.number,)
            )
            if locked.fetchone() is None:
                raise Moved

            def put(append: Append) -> None:
                (refusal,) = self._write_group(sql, [append])
                if refusal is not None:
                    raise refusal

            yield put

    def _commit(self, group: Sequence[Append]) -> Outcomes:
        with self._write() as sql:
            return self._write_group(sql, group)

    def _write_group(self, sql: Transaction, group: Sequence[Append]) -> Outcomes:
        """Lock and look, decide about each append in turn, and write those that hold."""
        versions: dict[int, int] = dict(
            sql.execute(
                "SELECT number, version FROM sessions WHERE number = ANY(%s)"
                " ORDER BY number FOR UPDATE",
                ([append.number for append in group],),
            ).fetchall()
        )
        scopes = [append.receipt.scope for append in group if append.receipt is not None]
        kept = _kept(sql, scopes, self._retention)
        outcomes = [_outcome(append, versions, kept) for append in group]
        written = [a for a, outcome in zip(group, outcomes, strict=True) if outcome is None]
        last = {append.number: append for append in written}
        sql.execute(
            "UPDATE sessions s SET version = v.version, updated_at = %s"
            " FROM unnest(%s::bigint[], %s::bigint[]) AS v (number, version)"
            " WHERE s.number = v.number",
            (now(), list(last), [versions[number] for number in last]),
        )
        _insert_log(sql, [(a.number, a.version, a.entries) for a in written])
        _keep(sql, [a.receipt for a in written if a.receipt is not None], self._retention)
        return outcomes

    def declare(
        self, row: SessionRow, outputs: Mapping[str, int], updated_at: str, *, pinned: bool
    ) -> SessionRow:
        """See `Store.declare`."""
        with self._write() as sql:
            changed = sql.execute(
                "UPDATE sessions SET outputs = %s, outputs_version = outputs_version + 1,"
                " updated_at = %s WHERE number = %s AND (version = %s OR NOT %s)"
                f" RETURNING {SessionRow.COLUMNS}",
                (orjson.dumps(dict(outputs)), updated_at, row.number, row.version, pinned),
                binary=True,
            ).fetchone()
            if changed is None:
                raise Moved
        return SessionRow.of_columns(changed)

    def delete(self, row: SessionRow, *, pinned: bool) -> None:
        """See `Store.delete`."""
        with self._write() as sql:
            locked = sql.execute(
                "SELECT 1 FROM sessions WHERE number = %s AND (version = %s OR NOT %s) FOR UPDATE",
                (row.number, row.version, pinned),
            )
            if locked.fetchone() is None:
                raise Moved
            held = sql.execute(
                "SELECT DISTINCT sha256 FROM log_blobs WHERE session = %s", (row.number,)
            ).fetchall()
            sql.execute(
                "DELETE FROM receipts USING sessions s WHERE receipts.owner = s.owner"
                " AND route = ANY(%s) AND receipts.session = s.id AND s.number = %s",
                (list(Scope.INSIDE), row.number),
            )
            sql.execute("DELETE FROM sessions WHERE number = %s", (row.number,))
            dropped = _drop_unused(sql, [sha256 for (sha256,) in held])
        for sha256 in dropped:
            self._blobs.discard(sha256)

    # -- uses --------------------------------------------------------------------------------------

    def touch(self, row: SessionRow, at: str) -> None:
        """See `Store.touch`."""
        with self._write() as sql:
            sql.execute(
                "INSERT INTO uses SELECT number, %s FROM sessions WHERE number = %s FOR KEY SHARE"
                " ON CONFLICT (session) DO UPDATE SET used_at = excluded.used_at",
                (at, row.number),
            )

    def last_use(self, row: SessionRow) -> str:
        """See `Store.last_use`."""
        rows = self._rows("SELECT used_at FROM uses WHERE session = %s", row.number)
        touched: list[str] = [at for (at,) in rows]
        return max([row.updated_at, *touched])

    def unused(
        self, owner: str | None, before: str, limit: int, *, linear: bool
    ) -> list[SessionRow]:
        """See `Store.unused`."""
        rows = self._rows(
            f"SELECT {SessionRow.COLUMNS} FROM sessions LEFT JOIN uses ON session = number"
            " WHERE updated_at < %s AND (used_at IS NULL OR used_at < %s)"
            " AND (owner = %s OR %s::text IS NULL)"
            f" AND residual_bytes IS {'NOT NULL' if linear else 'NULL'} ORDER BY number LIMIT %s",
            *(before, before, owner, owner, limit),
        )
        return [SessionRow.of_columns(row) for row in rows]

    # -- receipts and blobs ------------------------------------------------------------------------

    def recall(self, scope: Scope) -> Receipt | None:
        """See `Store.recall`."""
        rows = self._rows(
            "SELECT digest, document FROM receipts WHERE owner = %s AND route = %s"
            " AND session = %s AND key = %s AND written > now() - make_interval(secs => %s)",
            *scope.columns,
            self._retention,
        )
        return Receipt(scope, *rows[0]) if rows else None

    def forget(self, receipt: Receipt) -> None:
        """See `Store.forget`."""
        with self._write() as sql:
            sql.execute(
                "DELETE FROM receipts WHERE owner = %s AND route = %s AND session = %s"
                " AND key = %s AND document = %s",
                (*receipt.scope.columns, receipt.document),
            )

    def write_blobs(self, entries: Sequence[LogEntry]) -> None:
        """See `Store.write_blobs`."""
        arrays = _arrays(entries)
        for sha256, array in arrays.items():
            if not self._rows("SELECT 1 FROM blobs WHERE sha256 = %s", sha256):
                with self._write() as sql:
                    _upload(sql, sha256, array)
        self._blobs.ensure(arrays)  # they are likely to be used where they were made

    def blob(self, sha256: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """See `Store.blob`."""
        try:
            return self._blobs.load(sha256, dtype, shape)
        except FileNotFoundError:
            self._blobs.ensure({sha256: self._download(sha256)})
            return self._blobs.load(sha256, dtype, shape)

    def _download(self, sha256: str) -> np.ndarray[Any, Any]:
        size = self._rows("SELECT bytes FROM blobs WHERE sha256 = %s", sha256)
        if not size:
            raise FileNotFoundError(sha256)
        whole = np.empty(size[0][0], np.uint8)
        for start in range(0, whole.size, _PART):
            part = self._rows(
                "SELECT data FROM blob_parts WHERE sha256 = %s AND part = %s",
                sha256,
                start // _PART,
            )
            if not part:
                raise FileNotFoundError(sha256)  # deleted meanwhile
            whole[start : start + _PART] = np.frombuffer(part[0][0], np.uint8)
        return whole

    # -- keys --------------------------------------------------------------------------------------

    def add_key(self, key: KeyRow) -> None:
        """See `Store.add_key`."""
        with self._write() as sql:
            sql.execute(
                f"INSERT INTO api_keys ({KeyRow.COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s)",
                dataclasses.astuple(key),
            )

    def api_keys(self) -> list[KeyRow]:
        """See `Store.api_keys`."""
        rows = self._rows(f"SELECT {KeyRow.COLUMNS} FROM api_keys ORDER BY number")
        return [KeyRow(*row) for row in rows]

    def revoke_key(self, id: str, at: str) -> KeyRow | None:
        """See `Store.revoke_key`."""
        with self._write() as sql:
            sql.execute(
                "UPDATE api_keys SET revoked_at = %s WHERE id = %s AND revoked_at IS NULL", (at, id)
            )
            found = sql.execute(
                f"SELECT {KeyRow.COLUMNS} FROM api_keys WHERE id = %s", (id,)
            ).fetchone()
        return None if found is None else KeyRow(*found)

    def check(self) -> None:
        """See `Store.check`."""
        with _translated(), self._pool.connection(min(CHECK_SECONDS, self._patience)) as sql:
            sql.execute("SELECT version FROM schema_version")

    def close(self) -> None:
        """See `Store.close`."""
        self._appends.close()
        self._pool.close()


# -- parts of transactions -------------------------------------------------------------------------


def _outcome(append: Append, versions: dict[int, int], kept: set[Scope]) -> Exception | None:
    """What becomes of an append; if it holds, versions and kept are then as it leaves them."""
    if append.line.broken:
        return Moved()
    if append.receipt is not None and append.receipt.scope in kept:
        return append.refuse(AlreadyDone())
    if versions.get(append.number) != append.version:
        return append.refuse(Moved())
    versions[append.number] = append.version + len(append.entries)
    if append.receipt is not None:
        kept.add(append.receipt.scope)
    return None


def _insert(
    sql: Transaction,
    new: NewSession,
    version: int,
    limit: int,
    receipt: Receipt | None,
    retention: float,
) -> int:
    # Sessions of one owner are made one after the other: the count holds, and numbers appear in
    # their order, so that no page misses one.
    sql.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_OWNER, new.owner))
    if receipt is not None and _kept(sql, [receipt.scope], retention):
        raise AlreadyDone
    held = _one(sql.execute("SELECT count(*) FROM sessions WHERE owner = %s", (new.owner,)))
    if held >= limit:
        raise QuotaExceeded(quota="sessions", limit=limit, wanted=1, held=held)
    if new.residuals is not None:
        kept = _one(
            sql.execute(
                "SELECT coalesce(sum(residual_bytes), 0) FROM sessions"
                " WHERE owner = %s AND residual_bytes IS NOT NULL",
                (new.owner,),
            )
        )
        new.residuals.admit(kept)
    if new.name is not None:
        taken = sql.execute(
            "SELECT 1 FROM sessions WHERE owner = %s AND name = %s", (new.owner, new.name)
        )
        if taken.fetchone() is not None:
            raise NameConflict(name=new.name)
    number: int = _one(
        sql.execute(
            "INSERT INTO sessions (id, owner, name, version, outputs_version, inputs, outputs,"
            " created_at, updated_at, residual_bytes)"
            " VALUES (%s, %s, %s, %s, 0, %s, %s, %s, %s, %s) RETURNING number",
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
    )
    _keep(sql, [] if receipt is None else [receipt], retention)
    return number


def _insert_log(sql: Transaction, appends: Sequence[tuple[int, int, Sequence[LogEntry]]]) -> None:
    """Write the entries of (session, first position, entries), and the arrays that are missing."""
    entries = [entry for _, _, some in appends for entry in some]
    if not entries:
        return
    with (
        sql.cursor() as cursor,
        cursor.copy("COPY log (session, position, document) FROM STDIN (FORMAT BINARY)") as copy,
    ):
        copy.set_types(["int8", "int8", "bytea"])
        for session, start, some in appends:
            for position, entry in enumerate(some, start):
                copy.write_row((session, position, entry.document))
    arrays = _arrays(entries)
    if not arrays:
        return
    there = sql.execute(
        "SELECT sha256 FROM blobs WHERE sha256 = ANY(%s) ORDER BY sha256 FOR KEY SHARE",
        (list(arrays),),
    ).fetchall()
    for sha256 in sorted({*arrays} - {name for (name,) in there}):
        # A delete elsewhere has taken it since it was uploaded; this transaction keeps it.
        _upload(sql, sha256, arrays[sha256])
    with sql.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO log_blobs VALUES (%s, %s, %s)",
            [
                (session, position, sha256)
                for session, start, some in appends
                for position, entry in enumerate(some, start)
                for sha256 in entry.blobs
            ],
        )


def _arrays(entries: Iterable[LogEntry]) -> dict[str, np.ndarray[Any, Any]]:
    return {sha256: array for entry in entries for sha256, array in entry.blobs.items()}


def _upload(sql: Transaction, sha256: str, array: np.ndarray[Any, Any]) -> None:
    data = raw(array)
    new = sql.execute(
        "INSERT INTO blobs (sha256, bytes) VALUES (%s, %s) ON CONFLICT DO NOTHING",
        (sha256, len(data)),
    )
    if new.rowcount == 1:
        for start in range(0, len(data), _PART):
            sql.execute(
                "INSERT INTO blob_parts VALUES (%s, %s, %b)",
                (sha256, start // _PART, data[start : start + _PART]),
            )


def _drop_unused(sql: Transaction, names: Sequence[str]) -> list[str]:
    """Delete those of the arrays that no log refers to any more; which these were."""
    if not names:
        return []
    # Who is about to refer to one holds a lock on it; only what is seen after that counts.
    sql.execute(
        "SELECT 1 FROM blobs WHERE sha256 = ANY(%s) ORDER BY sha256 FOR UPDATE", (list(names),)
    )
    gone = sql.execute(
        "DELETE FROM blobs b WHERE sha256 = ANY(%s)"
        " AND NOT EXISTS (SELECT 1 FROM log_blobs l WHERE l.sha256 = b.sha256) RETURNING sha256",
        (list(names),),
    )
    return [sha256 for (sha256,) in gone.fetchall()]


def _kept(sql: Transaction, scopes: Sequence[Scope], retention: float) -> set[Scope]:
    """Those of the scopes under which something has been committed."""
    if not scopes:
        return set()
    rows = sql.execute(
        f"SELECT r.owner, r.route, r.session, r.key FROM receipts r JOIN {_SCOPES}"
        " AS w (owner, route, session, key) USING (owner, route, session, key)"
        " WHERE written > now() - make_interval(secs => %s)",
        (*_arrays_of(scopes), retention),
    )
    return {Scope(owner, route, session or None, key) for owner, route, session, key in rows}


def _keep(sql: Transaction, receipts: Sequence[Receipt], retention: float) -> None:
    """Remember answers; the caller has seen that the keys are free."""
    if not receipts:
        return
    sql.execute(
        "DELETE FROM receipts WHERE written <= now() - make_interval(secs => %s)", (retention,)
    )
    with sql.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO receipts (owner, route, session, key, digest, document)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            [(*r.scope.columns, r.digest, r.document) for r in receipts],
        )


def _arrays_of(scopes: Sequence[Scope]) -> list[list[str]]:
    return [list(column) for column in zip(*(scope.columns for scope in scopes), strict=True)]


def _missing(url: str) -> dict[str, str | int]:
    """The defaults for what an address does not say."""
    given = conninfo.conninfo_to_dict(url)
    return {name: value for name, value in _DEFAULTS.items() if name not in given}


def _one(cursor: psycopg.Cursor[tuple[Any, ...]]) -> Any:
    """The value that a statement always has."""
    row = cursor.fetchone()
    assert row is not None
    return row[0]


def _reason(error: psycopg.Error) -> str:
    return str(error).strip().replace("\n", " ") or type(error).__name__


@contextmanager
def _translated() -> Iterator[None]:
    """Faults of the database as the errors that a caller can act on."""
    try:
        yield
    except psycopg.errors.DiskFull as error:
        raise StorageFull from error
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled) as error:
        raise Overloaded(reason="the store is busy with another writer") from error
    except (
        psycopg.OperationalError,
        psycopg.InterfaceError,
        psycopg.errors.ReadOnlySqlTransaction,
    ) as error:
        raise Overloaded(reason="the store does not answer", retry_after=5) from error
