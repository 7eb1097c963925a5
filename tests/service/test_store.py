"""The store: appends that survive, writers that race, receipts, blobs."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gradwire_engine.errors import NameConflict, QuotaExceeded
from gradwire_service.blobs import Blobs, digest
from gradwire_service.errors import StorageFull
from gradwire_service.sqlite_store import SqliteStore
from gradwire_service.store import (
    AlreadyDone,
    LogEntry,
    Moved,
    NewSession,
    Receipt,
    Scope,
    SessionRow,
    now,
)


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(None if request.param == "memory" else tmp_path)
    yield opened
    opened.close()


def new(id: str = "ses_1", name: str | None = None) -> NewSession:
    return NewSession("local", id, name, [], {}, now())


def made(store: SqliteStore, id: str = "ses_1", name: str | None = None) -> SessionRow:
    store.create(new(id, name), [], 1000, None)
    return found(store, id)


def found(store: SqliteStore, id: str = "ses_1") -> SessionRow:
    row = store.find("local", id)
    assert row is not None
    return row


def entries(*texts: str) -> list[LogEntry]:
    return [LogEntry(text.encode()) for text in texts]


def test_a_session_is_found_by_id_and_by_name(store: SqliteStore) -> None:
    row = made(store, name="model")
    assert store.find("local", "model") == row
    assert (row.version, row.outputs_version, row.inputs, row.outputs) == (0, 0, [], {})
    assert store.find("someone else", "model") is None
    assert store.find("local", "ses_2") is None


def test_names_and_numbers_are_limited(store: SqliteStore) -> None:
    made(store, name="model")
    with pytest.raises(NameConflict):
        store.create(new("ses_2", "model"), [], 1000, None)
    with pytest.raises(QuotaExceeded):
        store.create(new("ses_2"), [], 1, None)
    store.create(replace(new("ses_3", "model"), owner="someone else"), [], 1, None)


def test_appends_compare_and_set(store: SqliteStore) -> None:
    row = made(store)
    store.append(row, entries("a", "b"), now(), None)
    with pytest.raises(Moved):
        store.append(row, entries("c"), now(), None)
    row = found(store)
    assert row.version == 2
    assert store.entries(row, 0, 10) == [b"a", b"b"]
    assert store.entries(row, 1, 2) == [b"b"]


def test_racing_writers_never_both_win(store: SqliteStore) -> None:
    made(store)
    won: list[int] = []

    def write(writer: int) -> None:
        for _ in range(20):
            row = found(store)
            try:
                store.append(row, entries(f"{writer}"), now(), None)
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


def append_until_done(directory: str, writer: int, wanted: int) -> None:
    store = SqliteStore(Path(directory))
    won = 0
    while won < wanted:
        row = found(store)
        try:
            store.append(row, entries(f"{writer}:{won}"), now(), None)
        except Moved:
            continue
        won += 1
    store.close()


def test_racing_processes_share_one_file(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    made(store)
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=append_until_done, args=(str(tmp_path), k, 25)) for k in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    log = store.entries(found(store), 0, 1000)
    assert sorted(log) == sorted(b"%d:%d" % (k, n) for k in range(2) for n in range(25))
    store.close()


CRASHING = """
import sys
from pathlib import Path
from gradwire_service.sqlite_store import SqliteStore
from gradwire_service.store import LogEntry, NewSession, now

store = SqliteStore(Path(sys.argv[1]))
if store.find("local", "ses_1") is None:
    store.create(NewSession("local", "ses_1", None, [], {}, now()), [], 10, None)
while True:
    row = store.find("local", "ses_1")
    store.append(row, [LogEntry(b"%d" % row.version)], now(), None)
    print(row.version, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", CRASHING, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        acknowledged = -1
        for _ in range(40):
            acknowledged = int(process.stdout.readline())
        process.kill()
        acknowledged = max([acknowledged, *map(int, process.stdout.read().split())])
        process.stdout.close()
        process.wait()
        store = SqliteStore(tmp_path)
        row = found(store)
        assert row.version in (acknowledged + 1, acknowledged + 2)
        assert store.entries(row, 0, row.version) == [b"%d" % k for k in range(row.version)]
        check = sqlite3.connect(tmp_path / "gradwire.sqlite3")
        assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        check.close()
        store.close()


def test_every_commit_is_synced(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    assert store._sql.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._sql.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    store.close()


def test_declared_outputs_have_their_own_counter(store: SqliteStore) -> None:
    row = made(store)
    changed = store.declare(row, {"y": 3}, now(), pinned=False)
    assert (changed.outputs, changed.outputs_version, changed.version) == ({"y": 3}, 1, 0)
    store.append(row, entries("a"), now(), None)
    with pytest.raises(Moved):
        store.declare(row, {}, now(), pinned=True)
    assert store.declare(row, {}, now(), pinned=False).outputs_version == 2


def receipt(key: str = "k", session: str | None = None) -> Receipt:
    return Receipt(Scope("local", "nodes", session, key), "digest", b"answer")


def test_a_receipt_is_written_with_its_append_or_not_at_all(store: SqliteStore) -> None:
    row = made(store)
    with pytest.raises(Moved):
        store.append(replace(row, version=5), entries("x"), now(), receipt())
    assert store.recall(receipt().scope) is None
    store.append(row, entries("a"), now(), receipt())
    assert store.recall(receipt().scope) == receipt()
    with pytest.raises(AlreadyDone):
        store.append(found(store), entries("b"), now(), receipt())
    assert found(store).version == 1
    assert store.recall(replace(receipt().scope, owner="someone else")) is None
    assert store.recall(replace(receipt().scope, route="sessions")) is None


def test_receipts_are_forgotten_in_time() -> None:
    store = SqliteStore(None, retention=0.05)
    row = made(store)
    store.append(row, entries("a"), now(), receipt())
    threading.Event().wait(0.06)
    assert store.recall(receipt().scope) is None
    store.append(found(store), entries("b"), now(), receipt())
    assert store.recall(receipt().scope) is not None
    store.close()


def large(value: float) -> LogEntry:
    array = np.full(5000, value)
    return LogEntry(b"large", {digest(array): array})


def test_blobs_go_with_their_last_session(store: SqliteStore) -> None:
    (sha256,) = large(1.0).blobs
    row = made(store)
    store.append(row, [large(1.0)], now(), None)
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
    blobs.ensure(sha256, array)
    written = (tmp_path / "blobs" / sha256).stat()
    blobs.ensure(sha256, array)
    assert (tmp_path / "blobs" / sha256).stat().st_mtime_ns == written.st_mtime_ns
    assert [path.name for path in (tmp_path / "blobs").iterdir()] == [sha256]


def test_leftovers_are_swept_when_they_are_old(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    row = made(store)
    store.append(row, [large(1.0)], now(), None)
    with pytest.raises(Moved):
        store.append(row, [large(2.0)], now(), None)  # its blob is written, its entry is not
    store.close()
    files = {path.name: path for path in (tmp_path / "blobs").iterdir()}
    assert set(files) == {*large(1.0).blobs, *large(2.0).blobs}
    SqliteStore(tmp_path).close()
    assert len(list((tmp_path / "blobs").iterdir())) == 2, "they are young"
    for path in files.values():
        os.utime(path, (0, 0))
    SqliteStore(tmp_path).close()
    assert [path.name for path in (tmp_path / "blobs").iterdir()] == [*large(1.0).blobs]


def test_a_fork_copies_a_prefix(store: SqliteStore) -> None:
    row = made(store)
    store.append(row, entries("a", "b", "c"), now(), None)
    store.fork(found(store), 2, new("ses_2"), 10, None)
    fork = found(store, "ses_2")
    assert (fork.version, store.entries(fork, 0, 10)) == (2, [b"a", b"b"])
    store.delete(row, pinned=False)
    with pytest.raises(Moved):
        store.fork(row, 0, new("ses_3"), 10, None)
    assert store.find("local", "ses_3") is None


def test_deleting_forgets_log_and_receipts(store: SqliteStore) -> None:
    row = made(store)
    store.append(row, entries("a"), now(), receipt(session=row.id))
    with pytest.raises(Moved):
        store.delete(row, pinned=True)
    store.delete(found(store), pinned=True)
    assert store.find("local", "ses_1") is None
    assert store.recall(receipt(session=row.id).scope) is None
    with pytest.raises(Moved):
        store.delete(row, pinned=False)


def test_pages(store: SqliteStore) -> None:
    for k in range(5):
        made(store, f"ses_{k}")
    first = store.page("local", 0, 3)
    rest = store.page("local", first[-1].number, 3)
    assert [row.id for row in (*first, *rest)] == [f"ses_{k}" for k in range(5)]


def test_a_full_store_refuses_and_lives_on(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, max_bytes=2**17)
    made(store)
    fat = LogEntry(b"x" * 10_000)

    def fill() -> None:
        for _ in range(100):
            store.append(found(store), [fat], now(), None)

    with pytest.raises(StorageFull):
        fill()
    row = found(store)
    assert len(store.entries(row, 0, 100)) == row.version > 0
    store.delete(row, pinned=False)
    made(store)
    store.append(found(store), [fat], now(), None)
    store.close()


def test_a_newer_schema_is_not_touched(tmp_path: Path) -> None:
    SqliteStore(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "gradwire.sqlite3")
    connection.execute("UPDATE schema_version SET version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(RuntimeError, match="schema 99"):
        SqliteStore(tmp_path)
