"""Stores, one suite for all: appends that survive, writers that race, receipts, blobs.

What only one of them has is at the end. `test_group_commit` looks at the thread that both share.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg_pool import ConnectionPool

from gradwire_engine.errors import NameConflict, QuotaExceeded
from gradwire_service.blobs import Blobs, digest
from gradwire_service.errors import Overloaded, StorageFull
from gradwire_service.postgres_store import PostgresStore
from gradwire_service.sqlite_store import SqliteStore, transaction
from gradwire_service.store import (
    AlreadyDone,
    Append,
    Line,
    LogEntry,
    Moved,
    NewSession,
    Receipt,
    Scope,
    SessionRow,
    Store,
    now,
)
from tests.postgres import Cluster

Place = Callable[..., Store]
"""Opens the same store again, as another process would."""


def new(id: str = "ses_1", name: str | None = None) -> NewSession:
    return NewSession("local", id, name, [], {}, now())


def made(store: Store, id: str = "ses_1", name: str | None = None) -> SessionRow:
    store.create(new(id, name), [], 1000, None)
    return found(store, id)


def found(store: Store, id: str = "ses_1") -> SessionRow:
    row = store.find("local", id)
    assert row is not None
    return row


def entries(*texts: str) -> list[LogEntry]:
    return [LogEntry(text.encode()) for text in texts]


def append(
    store: Store, row: SessionRow, entries: list[LogEntry], receipt: Receipt | None = None
) -> None:
    """Append and wait until it is durable."""
    line = Line(row.version)
    store.append(Append(row.number, row.version, entries, receipt, line)).result()


def test_a_session_is_found_by_id_and_by_name(store: Store) -> None:
    row = made(store, name="model")
    assert store.find("local", "model") == row
    assert (row.version, row.outputs_version, row.inputs, row.outputs) == (0, 0, [], {})
    assert store.find("someone else", "model") is None
    assert store.find("local", "ses_2") is None


def test_names_and_numbers_are_limited(store: Store) -> None:
    made(store, name="model")
    with pytest.raises(NameConflict):
        store.create(new("ses_2", "model"), [], 1000, None)
    with pytest.raises(QuotaExceeded):
        store.create(new("ses_2"), [], 1, None)
    store.create(replace(new("ses_3", "model"), owner="someone else"), [], 1, None)


def test_appends_compare_and_set(store: Store) -> None:
    row = made(store)
    append(store, row, entries("a", "b"))
    with pytest.raises(Moved):
        append(store, row, entries("c"))
    row = found(store)
    assert row.version == 2
    assert store.entries(row, 0, 10) == [b"a", b"b"]
    assert store.entries(row, 1, 2) == [b"b"]


def test_racing_writers_never_both_win(store: Store) -> None:
    made(store)
    won: list[int] = []

    def write(writer: int) -> None:
        for _ in range(20):
            row = found(store)
            try:
                append(store, row, entries(f"{writer}"))
            except Moved:
                continue
            won.append(writer)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    row = found(store)
    assert row.version == len(won)
    assert len(store.entries(row, 0, 100)) == len(won)


def append_until_done(place: Place, writer: int, wanted: int) -> None:
    store = place()
    won = 0
    while won < wanted:
        row = found(store)
        try:
            append(store, row, entries(f"{writer}:{won}"))
        except Moved:
            continue
        won += 1
    store.close()


def test_racing_processes_share_one_store(place: Place) -> None:
    store = place()
    made(store)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=append_until_done, args=(place, k, 25)) for k in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    log = store.entries(found(store), 0, 1000)
    assert sorted(log) == sorted(b"%d:%d" % (k, n) for k in range(2) for n in range(25))
    for writer in (b"0:", b"1:"):
        assert [e for e in log if e.startswith(writer)] == [
            b"%b%d" % (writer, n) for n in range(25)
        ]
    store.close()


def test_declared_outputs_have_their_own_counter(store: Store) -> None:
    row = made(store)
    changed = store.declare(row, {"y": 3}, now(), pinned=False)
    assert (changed.outputs, changed.outputs_version, changed.version) == ({"y": 3}, 1, 0)
    append(store, row, entries("a"))
    with pytest.raises(Moved):
        store.declare(row, {}, now(), pinned=True)
    assert store.declare(row, {}, now(), pinned=False).outputs_version == 2


def receipt(key: str = "k", session: str | None = None) -> Receipt:
    return Receipt(Scope("local", "nodes", session, key), "digest", b"answer")


def test_a_receipt_is_written_with_its_append_or_not_at_all(store: Store) -> None:
    row = made(store)
    with pytest.raises(Moved):
        append(store, replace(row, version=5), entries("x"), receipt())
    assert store.recall(receipt().scope) is None
    append(store, row, entries("a"), receipt())
    assert store.recall(receipt().scope) == receipt()
    with pytest.raises(AlreadyDone):
        append(store, found(store), entries("b"), receipt())
    assert found(store).version == 1
    assert store.recall(replace(receipt().scope, owner="someone else")) is None
    assert store.recall(replace(receipt().scope, route="sessions")) is None


def test_a_receipt_is_forgotten_unless_it_was_replaced(store: Store) -> None:
    row = made(store)
    append(store, row, entries("a"), receipt())
    store.forget(replace(receipt(), document=b"an older answer"))
    store.forget(replace(receipt(), scope=replace(receipt().scope, owner="someone else")))
    assert store.recall(receipt().scope) == receipt()
    store.forget(receipt())
    assert store.recall(receipt().scope) is None
    append(store, found(store), entries("b"), receipt())
    assert store.recall(receipt().scope) == receipt()


def test_receipts_are_forgotten_in_time(place: Place) -> None:
    store = place(retention=0.05)
    row = made(store)
    append(store, row, entries("a"), receipt())
    threading.Event().wait(0.06)
    assert store.recall(receipt().scope) is None
    append(store, found(store), entries("b"), receipt())
    store.close()
    with_time = place()
    append(with_time, found(with_time), entries("c"), receipt("other"))
    assert with_time.recall(receipt("other").scope) == receipt("other")
    with_time.close()


def large(value: float) -> LogEntry:
    array = np.full(5000, value)
    return LogEntry(b"large", {digest(array): array})


def test_blobs_go_with_their_last_session(store: Store) -> None:
    (sha256,) = large(1.0).blobs
    row = made(store)
    append(store, row, [large(1.0)])
    store.fork(found(store), 1, new("ses_2"), 10, None)
    store.delete(found(store), pinned=False)
    assert np.array_equal(store.blob(sha256, "float64", (5000,)), np.full(5000, 1.0))
    kept = store.blob(sha256, "float64", (50, 100))
    store.delete(found(store, "ses_2"), pinned=False)
    with pytest.raises(FileNotFoundError):
        store.blob(sha256, "float64", (5000,))
    assert kept.sum() == 5000.0, "an array that is in use stays valid"
    assert not kept.flags.writeable


def test_a_digest_is_of_the_bytes() -> None:
    array = np.arange(2000, dtype=np.float32)
    assert digest(array) == hashlib.sha256(array.tobytes()).hexdigest()
    assert digest(array.reshape(40, 50)) == digest(array)
    assert digest(array[::-1]) != digest(array)
    assert digest(array.astype(">f4")) == digest(array)


def test_a_blob_is_written_once_and_whole(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    array = np.arange(1500.0)
    sha256 = digest(array)
    blobs.ensure({sha256: array})
    written = (tmp_path / "blobs" / sha256).stat()
    blobs.ensure({sha256: array})
    assert (tmp_path / "blobs" / sha256).stat().st_mtime_ns == written.st_mtime_ns
    assert [path.name for path in (tmp_path / "blobs").iterdir()] == [sha256]


def test_a_fork_copies_a_prefix(store: Store) -> None:
    row = made(store)
    append(store, row, entries("a", "b", "c"))
    store.fork(found(store), 2, new("ses_2"), 10, None)
    fork = found(store, "ses_2")
    assert (fork.version, store.entries(fork, 0, 10)) == (2, [b"a", b"b"])
    store.delete(row, pinned=False)
    with pytest.raises(Moved):
        store.fork(row, 0, new("ses_3"), 10, None)
    assert store.find("local", "ses_3") is None


def test_deleting_forgets_log_and_receipts(store: Store) -> None:
    row = made(store)
    append(store, row, entries("a"), receipt(session=row.id))
    other = made(store, "ses_2")
    append(store, other, entries("a"), receipt(session=other.id))
    with pytest.raises(Moved):
        store.delete(row, pinned=True)
    assert store.recall(receipt(session=row.id).scope) is not None
    store.delete(found(store), pinned=True)
    assert store.find("local", "ses_1") is None
    assert store.recall(receipt(session=row.id).scope) is None
    assert store.recall(receipt(session=other.id).scope) is not None
    with pytest.raises(Moved):
        store.delete(row, pinned=False)


def test_pages(store: Store) -> None:
    for k in range(5):
        made(store, f"ses_{k}")
    first = store.page("local", 0, 3)
    rest = store.page("local", first[-1].number, 3)
    assert [row.id for row in (*first, *rest)] == [f"ses_{k}" for k in range(5)]


def test_pages_keep_to_the_owner(store: Store) -> None:
    made(store)
    store.create(replace(new("ses_2"), owner="someone else"), [], 10, None)
    assert [row.id for row in store.page("someone else", 0, 10)] == ["ses_2"]


def test_creators_in_a_race_keep_within_the_limit(store: Store) -> None:
    refused: list[str] = []

    def create(k: int) -> None:
        try:
            store.create(new(f"ses_{k}", "same" if k < 4 else None), [], 5, None)
        except (NameConflict, QuotaExceeded) as error:
            refused.append(error.code)

    run([lambda k=k: create(k) for k in range(12)])  # type: ignore[misc] # mypy and defaults
    assert len(store.page("local", 0, 100)) == 5
    assert len(refused) == 7
    assert len([row for row in store.page("local", 0, 100) if row.name == "same"]) == 1


def test_odd_references_are_simply_not_there(store: Store) -> None:
    made(store)
    for ref in ("", "\0", "ses_\0", "x" * 10_000, "%", "'; --", "\u00e9\U0001f600"):
        assert store.find("local", ref) is None


def test_text_and_bytes_come_back_as_they_were(store: Store) -> None:
    inputs = [{"name": "x", "shape": [2], "dtype": "float32", "note": "\u00e9\U0001f600"}]
    store.create(replace(new(), inputs=inputs, outputs={"y": 3}), [], 10, None)
    row = found(store)
    assert (row.inputs, row.outputs) == (inputs, {"y": 3})
    every = bytes(range(256))
    append(store, row, [LogEntry(every), LogEntry(b"")])
    assert store.entries(found(store), 0, 9) == [every, b""]


def test_another_process_sees_what_is_committed(place: Place) -> None:
    one, two = place(), place()
    row = made(one, name="m")
    (sha256,) = large(3.0).blobs
    append(one, row, [large(3.0)], receipt())
    assert two.find("local", "m") == found(one)
    assert two.entries(row, 0, 5) == [b"large"]
    assert two.recall(receipt().scope) == receipt()
    assert np.array_equal(two.blob(sha256, "float64", (5000,)), np.full(5000, 3.0))
    two.delete(found(two), pinned=True)
    with pytest.raises(Moved):
        append(one, replace(row, version=1), entries("b"))
    one.close()
    two.close()


def test_a_large_array_that_was_deleted_meanwhile_is_written_again(place: Place) -> None:
    one, two = place(), place()
    made(one), made(one, "ses_2")
    (sha256,) = large(1.0).blobs
    append(one, found(one), [large(1.0)])
    one.write_blobs([large(1.0)])  # it is there, so nothing is to be done ...
    two.delete(found(two), pinned=False)  # ... and now it is not
    append(one, found(one, "ses_2"), [large(1.0)])
    assert one.blob(sha256, "float64", (5000,)).sum() == 5000.0
    one.close()
    two.close()


def test_while_one_is_alone_with_a_session_nobody_appends(place: Place) -> None:
    here, there = place(), place()
    row = made(here)
    append(there, row, entries("a"))
    done: list[str] = []

    def write() -> None:
        with pytest.raises(Moved):
            append(there, found(there), entries("late"))
        done.append("refused")

    with here.exclusive(row) as put:
        assert found(here).version == 1
        waiting = threading.Thread(target=write)
        waiting.start()
        waiting.join(0.1)
        with pytest.raises(Moved):
            put(Append(row.number, 0, entries("b"), None, Line(0)))
        put(Append(row.number, 1, entries("b"), receipt(), Line(1)))
        assert not done
    waiting.join()
    assert done == ["refused"]
    assert there.entries(found(there), 0, 9) == [b"a", b"b"]
    assert there.recall(receipt().scope) == receipt()

    def change_ones_mind() -> None:
        with here.exclusive(row) as put:
            put(Append(row.number, 2, entries("c"), None, Line(2)))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change_ones_mind()
    assert found(there).version == 2
    there.delete(found(there), pinned=False)
    with pytest.raises(Moved), here.exclusive(row):
        raise AssertionError("the session is gone")
    here.close()
    there.close()


def test_writers_and_deleters_of_one_array_never_lose_it(store: Store) -> None:
    rows = [made(store, f"ses_{k}") for k in range(8)]
    (sha256,) = large(2.0).blobs

    def use(row: SessionRow) -> None:
        for _ in range(4):
            store.write_blobs([large(2.0)])
            append(store, found(store, row.id), [large(2.0)])
            assert store.blob(sha256, "float64", (5000,)).sum() == 10_000.0
            store.delete(found(store, row.id), pinned=False)
            store.create(new(row.id), [], 100, None)

    run([lambda row=row: use(row) for row in rows])  # type: ignore[misc]
    assert store.page("local", 0, 100)


def run(jobs: list[Callable[[], None]]) -> None:
    """All of them at once; an assertion in a thread fails the test."""
    faults: list[BaseException] = []

    def guarded(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]


# -- SQLite alone ----------------------------------------------------------------------------------


def test_every_commit_is_synced(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    assert store._sql.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._sql.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    store.close()


def test_leftovers_are_swept_when_they_are_old(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    row = made(store)
    append(store, row, [large(1.0)])
    store.write_blobs([large(2.0)])  # an append that never came
    store.close()
    files = {path.name: path for path in (tmp_path / "blobs").iterdir()}
    assert set(files) == {*large(1.0).blobs, *large(2.0).blobs}
    SqliteStore(tmp_path).close()
    assert len(list((tmp_path / "blobs").iterdir())) == 2, "they are young"
    for path in files.values():
        os.utime(path, (0, 0))
    SqliteStore(tmp_path).close()
    assert [path.name for path in (tmp_path / "blobs").iterdir()] == [*large(1.0).blobs]


def test_a_full_store_refuses_and_lives_on(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, max_bytes=2**17)
    made(store)
    fat = LogEntry(b"x" * 10_000)

    def fill() -> None:
        for _ in range(100):
            append(store, found(store), [fat])

    with pytest.raises(StorageFull):
        fill()
    row = found(store)
    assert len(store.entries(row, 0, 100)) == row.version > 0
    store.delete(row, pinned=False)
    made(store)
    append(store, found(store), [fat])
    store.close()


def test_a_newer_schema_is_not_touched(tmp_path: Path) -> None:
    SqliteStore(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "gradwire.sqlite3")
    connection.execute("UPDATE schema_version SET version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(RuntimeError, match="schema 99"):
        SqliteStore(tmp_path)


def test_an_old_sqlite_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 26, 0))
    with pytest.raises(RuntimeError, match=r"3\.33 is needed"):
        SqliteStore(tmp_path / "data")
    assert not (tmp_path / "data").exists()


# -- PostgreSQL alone ------------------------------------------------------------------------------


@pytest.fixture
def url(postgres: Cluster) -> str:
    return postgres.schema()


def test_every_commit_is_synced_in_postgres_too(url: str, tmp_path: Path) -> None:
    with psycopg.connect(url, autocommit=True) as sql:
        sql.execute("ALTER ROLE gradwire SET synchronous_commit = off")
    try:
        store = PostgresStore(url, tmp_path)
        assert store._rows("SELECT current_setting('synchronous_commit')") == [("on",)]
        store.close()
    finally:
        with psycopg.connect(url, autocommit=True) as sql:
            sql.execute("ALTER ROLE gradwire RESET synchronous_commit")


def test_arrays_of_many_parts(url: str, tmp_path: Path) -> None:
    array = np.arange(2_500_000, dtype=np.float64)  # 20 MB: three parts
    sha256 = digest(array)
    here = PostgresStore(url, tmp_path / "here")
    append(here, made(here), [LogEntry(b"large", {sha256: array})])
    there = PostgresStore(url, tmp_path / "there")  # another host
    assert np.array_equal(there.blob(sha256, "float64", array.shape), array)
    assert [path.name for path in (tmp_path / "there" / "blobs").iterdir()] == [sha256]
    there.delete(found(there), pinned=False)
    assert there._rows("SELECT count(*) FROM blob_parts") == [(0,)]
    with pytest.raises(FileNotFoundError):
        there.blob(sha256, "float64", array.shape)
    here.close()
    there.close()


def test_leftovers_are_swept_from_postgres(url: str, tmp_path: Path) -> None:
    store = PostgresStore(url, tmp_path)
    store.write_blobs([large(1.0), large(2.0)])
    append(store, made(store), [large(1.0)])
    store.close()
    with psycopg.connect(url, autocommit=True) as sql:
        PostgresStore(url, tmp_path).close()
        assert sql.execute("SELECT count(*) FROM blobs").fetchone() == (2,), "they are young"
        sql.execute("UPDATE blobs SET written = 'epoch'")
        PostgresStore(url, tmp_path).close()
        assert sql.execute("SELECT sha256 FROM blobs").fetchall() == [(*large(1.0).blobs,)]


def test_a_newer_schema_in_postgres_is_not_touched(url: str, tmp_path: Path) -> None:
    PostgresStore(url, tmp_path).close()
    with psycopg.connect(url, autocommit=True) as sql:
        sql.execute("UPDATE schema_version SET version = 99")
    with pytest.raises(RuntimeError, match="schema 99"):
        PostgresStore(url, tmp_path)


def test_a_database_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"cannot be used: .*No such file") as refused:
        PostgresStore(f"postgresql://u:secret@/d?host={tmp_path}", tmp_path)
    assert "secret" not in str(refused.value)
    with pytest.raises(RuntimeError, match="cannot be used"):
        PostgresStore("postgresql://host:notaport/", tmp_path)


def test_a_lock_that_is_not_given_up_is_overload(url: str, tmp_path: Path) -> None:
    store = PostgresStore(url, tmp_path, patience=0.2)
    row = made(store)
    with psycopg.connect(url) as sql:
        sql.execute("SELECT 1 FROM sessions FOR UPDATE")
        with pytest.raises(Overloaded, match="busy with another writer"):
            append(store, row, entries("a"))
    append(store, row, entries("a"))
    store.close()


def test_a_creation_that_is_refused_waits_for_one_connection(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where PostgreSQL is away each takes as long as anybody is patient."""
    with closing(PostgresStore(url, tmp_path)) as store:
        made(store, "ses_1", "taken")
        taken: list[None] = []
        connection = ConnectionPool.connection

        def counted(pool: ConnectionPool[Any], timeout: float | None = None) -> Any:
            taken.append(None)
            return connection(pool, timeout)

        monkeypatch.setattr(ConnectionPool, "connection", counted)
        with pytest.raises(NameConflict):
            store.create(new("ses_2", "taken"), [], 1000, None)
        assert len(taken) == 1


def test_a_server_that_crashes_is_waited_for(postgres: Cluster, tmp_path: Path) -> None:
    store = PostgresStore(postgres.schema(), tmp_path, patience=4.0)
    row = made(store)
    append(store, row, entries("a"))
    postgres.stop("immediate")
    try:
        with pytest.raises(Overloaded, match="does not answer") as refused:
            append(store, replace(row, version=1), entries("b"))
        assert refused.value.retry_after == 5
        with pytest.raises(Overloaded):
            store.find("local", "ses_1")
        began = time.monotonic()
        with pytest.raises(Overloaded):
            store.check()
        assert time.monotonic() - began < 3.0, "a probe is answered before it gives up"
    finally:
        postgres.start()
    append(store, found(store), entries("c"))
    assert store.entries(found(store), 0, 9) == [b"a", b"c"]
    store.close()


def test_one_of_a_group_is_refused_and_the_others_stay(tmp_path: Path) -> None:
    with closing(SqliteStore(tmp_path)) as store:
        rows = []
        for k in range(3):
            store.create(NewSession("o", f"ses_{k}", None, [], {}, now()), [], 10, None)
            row = store.find("o", f"ses_{k}")
            assert row is not None
            rows.append(row)

        def append(row: SessionRow, version: int, key: str | None = None) -> Append:
            receipt = None if key is None else Receipt(Scope("o", "nodes", row.id, key), "d", b"{}")
            return Append(row.number, version, [LogEntry(b"%d" % version)], receipt, Line(0))

        behind = append(rows[0], 0)
        twice = append(rows[1], 1, "k")
        group = [
            behind._replace(receipt=None),
            append(rows[0], 1)._replace(line=behind.line),
            append(rows[1], 0, "k"),
            twice,
            append(rows[2], 5),
        ]
        outcomes = store._commit(group)
        assert [type(o) for o in outcomes] == [*[type(None)] * 3, AlreadyDone, Moved]
        assert [store.entries(row, 0, 9) for row in rows] == [[b"0", b"1"], [b"0"], []]
        assert list(store._commit([append(rows[k], v) for k, v in ((0, 2), (1, 1), (2, 0))])) == [
            None,
            None,
            None,
        ]
        assert [store.entries(row, 2 - k, 9) for k, row in enumerate(rows)] == [
            [b"2"],
            [b"1"],
            [b"0"],
        ]


def test_a_group_takes_as_many_statements_as_one_append(tmp_path: Path) -> None:
    """Each statement gives up the interpreter's lock: one for each append would cost a crowd."""
    with closing(SqliteStore(tmp_path)) as store:
        rows = [made(store, f"ses_{k}") for k in range(20)]

        def statements(rows: list[SessionRow], version: int) -> list[str]:
            told: list[str] = []
            store._sql.set_trace_callback(told.append)
            outcomes = store._commit(
                [
                    Append(
                        row.number,
                        version,
                        entries("a"),
                        Receipt(Scope("local", "nodes", row.id, f"key {version}"), "d", b"{}"),
                        Line(version),
                    )
                    for row in rows
                ]
            )
            store._sql.set_trace_callback(None)
            assert list(outcomes) == [None] * len(rows)
            return [text.split()[0] for text in told if not text.startswith("--")]

        alone = statements(rows[:1], 0)
        assert statements(rows[1:], 0) == alone
        assert [found(store, row.id).version for row in rows] == [1] * 20


def test_a_write_waits_for_another_process_and_not_for_ever(tmp_path: Path) -> None:
    with (
        closing(SqliteStore(tmp_path)) as patient,
        closing(SqliteStore(tmp_path, patience=0.1)) as hasty,
        closing(sqlite3.connect(tmp_path / "gradwire.sqlite3")) as other,
    ):
        row = made(patient)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Overloaded, match="another process"):
            append(hasty, row, entries("a"))
        waiting = patient.append(Append(row.number, 0, entries("a"), None, Line(0)))
        other.execute("COMMIT")
        waiting.result(30)
        assert patient.entries(found(patient), 0, 9) == [b"a"]


def test_a_write_waits_while_another_process_recovers_from_a_crash() -> None:
    class Recovering(sqlite3.Connection):
        looks = 0

        def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
            if sql == "BEGIN IMMEDIATE" and self.looks < 3:
                self.looks += 1
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorname = "SQLITE_BUSY_RECOVERY"
                raise error
            return super().execute(sql, parameters)

    connection = sqlite3.connect(":memory:", isolation_level=None, factory=Recovering)
    with closing(connection), transaction(connection, 60.0):
        assert connection.in_transaction
    assert connection.looks == 3
