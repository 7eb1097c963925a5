"""Sessions that nobody uses: when they end, and for whom; one suite for all stores."""

from __future__ import annotations

from typing import Any

import pytest

from gradwire_engine.errors import NameConflict
from gradwire_service import expiry
from gradwire_service.expiry import Expiry
from gradwire_service.store import NewSession, SessionRow, Store

LIFE = 1000.0


class Clock:
    """The time of the test."""

    def __init__(self) -> None:
        self.at = 1_800_000_000.0

    def time(self) -> float:
        return self.at

    @property
    def text(self) -> str:
        return expiry._moment_at(self.at)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(expiry, "time", made)
    return made


def made(store: Store, clock: Clock, name: str, owner: str = "alice") -> SessionRow:
    new: Any = NewSession(owner, f"ses_{owner}{name}", name, [], {}, clock.text)
    store.create(new, [], 100, None)
    row = store.find(owner, name)
    assert row is not None
    return row


def test_a_session_ends_a_time_after_its_last_use(store: Store, clock: Clock) -> None:
    row = made(store, clock, "s")
    began = clock.at
    uses = Expiry(store, LIFE)
    for _ in range(30):
        clock.at += LIFE / 2
        assert uses.use(row) is None
    last = clock.at
    assert began < last
    assert store.last_use(row) == expiry._moment_at(last)
    clock.at += LIFE - 1
    assert Expiry(store, LIFE).use(row) is None, "another process knows of the use"
    clock.at += LIFE - 1
    assert uses.use(row) is None
    clock.at += LIFE
    assert uses.use(row) == clock.text
    assert Expiry(store, None).use(row) is None


def test_uses_are_written_down_now_and_then(store: Store, clock: Clock) -> None:
    row = made(store, clock, "s")
    uses = Expiry(store, LIFE)
    for _ in range(200):
        clock.at += LIFE / 1000
        assert uses.use(row) is None
    written = [store.last_use(row)]
    assert expiry._seconds_of(written[0]) > clock.at - LIFE / 5


def test_what_has_expired_is_removed(store: Store, clock: Clock) -> None:
    old, used, other = (
        made(store, clock, n, o) for n, o in (("o", "alice"), ("u", "alice"), ("x", "bob"))
    )
    clock.at += LIFE * 0.8
    uses = Expiry(store, LIFE)
    assert uses.use(used) is None
    assert uses.sweep("alice") == []
    clock.at += LIFE * 0.3
    assert uses.sweep() == [], "their owners are to be told first"
    assert [row.id for row in uses.sweep("alice")] == [old.id]
    assert store.find("alice", "o") is None
    assert store.find("alice", "u") is not None
    clock.at += LIFE
    assert [row.id for row in uses.sweep()] == [other.id]
    assert Expiry(store, None).sweep("alice") == []


def test_many_are_removed_at_once(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "_BATCH", 3)
    for k in range(10):
        made(store, clock, f"s{k}")
    clock.at += 3 * LIFE
    assert len(Expiry(store, LIFE).sweep()) == 10
    assert store.page("alice", 0, 100) == []


def test_a_touch_of_what_is_gone_does_nothing(store: Store, clock: Clock) -> None:
    row = made(store, clock, "s")
    store.delete(row, pinned=False)
    store.touch(row, clock.text)
    assert store.last_use(row) == row.updated_at
    again = made(store, clock, "s")
    assert store.last_use(again) == again.updated_at


def test_a_name_in_use_is_still_a_conflict(store: Store, clock: Clock) -> None:
    made(store, clock, "s")
    with pytest.raises(NameConflict):
        made(store, clock, "s")
