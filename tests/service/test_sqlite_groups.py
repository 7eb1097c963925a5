"""Groups of appends as one statement: what fits into one, and that nothing but it is used then."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from gradwire_service.sqlite_groups import row_of
from gradwire_service.sqlite_store import SqliteStore
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
    now,
)

DAY = 86_400.0


def append(
    number: int, version: int, *documents: bytes, key: str = "", line: Line | None = None
) -> Append:
    scope = Scope("ada", "nodes", f"ses_{number}", key)
    receipt = Receipt(scope, "digest", b'{"answer": "\xc3\xa9"}') if key else None
    entries = [LogEntry(document) for document in documents]
    return Append(number, version, entries, receipt, line or Line(version))


@pytest.fixture
def store() -> Iterator[SqliteStore]:
    opened = SqliteStore(None, retention=DAY)
    yield opened
    opened.close()


def session(store: SqliteStore, id: str) -> SessionRow:
    if store.find("ada", id) is None:
        store.create(NewSession("ada", id, None, [], {}, now()), [], 10, None)
    row = store.find("ada", id)
    assert row is not None
    return row


def test_a_group_is_one_statement(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = session(store, "ses_1"), session(store, "ses_2")
    monkeypatch.delattr(SqliteStore, "_append")
    group = [
        append(one.number, 0, b"a\0b", b"\xff\xfe", key="k1"),
        append(other.number, 0, b"", key="k2"),
        append(one.number, 2, '"é"'.encode(), key="k3"),
    ]
    began = now()
    assert list(store._commit(group)) == [None] * 3
    assert store.entries(one, 0, 9) == [b"a\0b", b"\xff\xfe", '"é"'.encode()]
    assert store.entries(other, 0, 9) == [b""]
    assert [session(store, id).version for id in ("ses_1", "ses_2")] == [3, 1]
    assert began <= session(store, "ses_1").updated_at <= now()
    for each in group:
        assert each.receipt is not None
        assert store.recall(each.receipt.scope) == each.receipt


def test_one_that_is_refused_takes_nobody_with_it(store: SqliteStore) -> None:
    one, other = session(store, "ses_1"), session(store, "ses_2")
    assert list(store._commit([append(one.number, 0, b"first", key="k1")])) == [None]
    late = append(one.number, 0, b"late", key="k2")
    again = append(one.number, 1, b"again", key="k1")
    fine = append(other.number, 0, b"fine", key="k3")
    for refused, kind in ((late, Moved), (again, AlreadyDone)):
        outcomes = list(store._commit([refused, fine]))
        assert [type(outcome) for outcome in outcomes] == [kind, type(None)]
        assert refused.receipt is not None
        assert store.entries(one, 0, 9) == [b"first"]
        fine = append(other.number, fine.version + 1, b"fine", key=f"next {kind.__name__}")
    assert store.entries(other, 0, 9) == [b"fine", b"fine"]
    gone = append(10**6, 0, b"gone")
    assert [type(outcome) for outcome in store._commit([gone])] == [Moved]


def test_a_receipt_that_is_too_old_is_in_nobody_s_way(monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(None, retention=0.0)
    one = session(store, "ses_1")
    monkeypatch.delattr(SqliteStore, "_append")
    for version in range(2):
        assert list(store._commit([append(one.number, version, b"x", key="k")])) == [None]
    store.close()


def test_what_is_no_row() -> None:
    broken = Line(0, broken=True)
    large = LogEntry(b"", {"digest": np.zeros(3)})
    assert row_of([append(1, 0, b"a", line=broken)], DAY) is None
    assert row_of([append(1, 0, b"a"), append(1, 2, b"b")], DAY) is None
    assert row_of([append(1, 0, b"a", key="k"), append(1, 1, b"b", key="k")], DAY) is None
    assert row_of([append(1, 0)._replace(entries=[large])], DAY) is None
    assert row_of([append(1, 0, bytes(2**23)), append(2, 0, bytes(2**23 + 1))], DAY) is None
    assert row_of([append(1, 0, bytes(2**23)), append(2, 0, bytes(2**23))], DAY) is not None
    other = append(1, 1, b"b", key="k")
    assert other.receipt is not None
    elsewhere = replace(other.receipt, scope=replace(other.receipt.scope, session="ses_9"))
    both = [append(1, 0, b"a", key="k"), other._replace(receipt=elsewhere)]
    assert row_of(both, DAY) is not None
