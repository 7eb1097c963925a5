"""Groups that the event loop commits itself: when it does, and that nothing is lost if not."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from gradwire_service import group_commit
from gradwire_service.errors import StorageFull
from gradwire_service.group_commit import GroupCommit, Outcomes
from gradwire_service.sqlite_store import SqliteStore
from gradwire_service.store import Append, Commit, Line, LogEntry, Moved, NewSession, Store, now

MANY = 10


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is, its disk counts as quick."""
    monkeypatch.setattr(group_commit, "_QUICK", 60.0)


def append(number: int = 1, version: int = 0, line: Line | None = None) -> Append:
    return Append(number, version, [LogEntry(b"{}")], None, line or Line(version))


def submitted(to: GroupCommit | Store, appends: Sequence[Append]) -> list[Commit]:
    """What a loop submits in a row, once all of it is settled."""

    async def submit() -> list[Commit]:
        put = to.submit if isinstance(to, GroupCommit) else to.append
        commits = [put(each) for each in appends]
        for commit in commits:
            await asyncio.to_thread(commit.exception)
        return commits

    return asyncio.run(submit())


class Disk:
    """Commits, and remembers who did: the loop at once, or the thread."""

    def __init__(self) -> None:
        self.at_once: list[int] = []
        self.later: list[int] = []
        self.willing = True
        self.let = threading.Event()
        self.let.set()

    def commit(self, group: Sequence[Append]) -> Outcomes:
        assert self.let.wait(30)
        assert threading.current_thread().name == "group-commit"
        self.later.append(len(group))
        return [None] * len(group)

    def try_commit(self, group: Sequence[Append]) -> bool:
        assert threading.current_thread() is threading.main_thread()
        self.at_once.append(len(group))
        return self.willing


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def gathered(disk: Disk) -> Iterator[GroupCommit]:
    group = GroupCommit(disk.commit, disk.try_commit)
    yield group
    disk.let.set()
    group.close()


def test_many_are_committed_by_the_loop(disk: Disk, gathered: GroupCommit) -> None:
    line = Line(0)
    for commit in submitted(gathered, [append(1, k, line) for k in range(MANY)]):
        commit.result(0)
    assert (disk.at_once, disk.later) == ([MANY], [])
    assert line.settled == MANY


def test_few_are_left_to_the_thread(disk: Disk, gathered: GroupCommit) -> None:
    for commit in submitted(gathered, [append()]):
        commit.result(0)
    assert (disk.at_once, disk.later) == ([], [1])


def test_what_cannot_be_committed_at_once_is_left_to_the_thread(
    disk: Disk, gathered: GroupCommit
) -> None:
    disk.willing = False
    line = Line(0)
    for commit in submitted(gathered, [append(1, k, line) for k in range(MANY)]):
        commit.result(0)
    assert (disk.at_once, disk.later) == ([MANY], [MANY])
    assert line.settled == MANY


def test_nothing_overtakes_what_the_thread_has(disk: Disk, gathered: GroupCommit) -> None:
    disk.let.clear()
    first = gathered.submit(append())  # no loop runs: it goes to the thread
    threading.Timer(0.05, disk.let.set).start()
    for commit in [first, *submitted(gathered, [append() for _ in range(MANY)])]:
        commit.result(0)
    assert disk.at_once == []
    assert sum(disk.later) == 1 + MANY


def test_a_loop_does_not_wait_for_a_slow_disk(
    disk: Disk, gathered: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "_QUICK", 0.0)
    monkeypatch.setattr(group_commit, "_REST", 1e12)
    for _ in range(3):
        submitted(gathered, [append() for _ in range(MANY)])
    assert (len(disk.at_once), sum(disk.later)) == (1, 2 * MANY), "the first one showed it"


def test_a_disk_may_become_quick_again(
    disk: Disk, gathered: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "_QUICK", 0.0)
    monkeypatch.setattr(group_commit, "_REST", 0)
    for _ in range(3):
        submitted(gathered, [append() for _ in range(MANY)])
    assert (disk.at_once, disk.later) == ([MANY] * 3, [])


def test_attempts_that_fail_at_once_do_not_make_a_disk_quick(
    disk: Disk, gathered: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "_QUICK", 1.0)
    monkeypatch.setattr(group_commit, "_REST", 1e12)
    clock = Clock()
    monkeypatch.setattr(group_commit, "time", clock)
    try_commit = disk.try_commit

    def slow(group: Sequence[Append]) -> bool:
        clock.now += 6.0 * disk.willing  # not 10: one alone does not show it
        return try_commit(group)

    monkeypatch.setattr(gathered, "_at_once", slow)
    for willing in (True, *[False] * 20, True, True):
        disk.willing = willing
        submitted(gathered, [append() for _ in range(MANY)])
    assert len(disk.at_once) == 22, "the second one that took 6 seconds showed it"


class Clock:
    """The time as a test says it is."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_a_fault_on_the_loop_is_the_thread_s_to_tell(disk: Disk) -> None:
    def fail(group: Sequence[Append]) -> bool:
        raise ValueError(len(group))

    gathered = GroupCommit(disk.commit, fail)
    for commit in submitted(gathered, [append() for _ in range(MANY)]):
        commit.result(0)
    assert disk.later == [MANY]
    gathered.close()


# -- in SQLite -------------------------------------------------------------------------------------


def sessions(store: Store, count: int) -> list[int]:
    """As many new sessions, by number."""
    numbers = []
    for k in range(count):
        store.create(NewSession("ada", f"ses_{k}", None, [], {}, now()), [], 100, None)
        row = store.find("ada", f"ses_{k}")
        assert row is not None
        numbers.append(row.number)
    return numbers


def versions(store: Store, count: int) -> list[int]:
    rows = [store.find("ada", f"ses_{k}") for k in range(count)]
    return [row.version for row in rows if row is not None]


def test_a_loop_commits_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(tmp_path)
    numbers = sessions(store, MANY)
    with monkeypatch.context() as patched:
        patched.delattr(GroupCommit, "_outcomes")  # with which the thread begins
        patched.delattr(SqliteStore, "_append")
        for commit in submitted(store, [append(number) for number in numbers]):
            commit.result(0)
    store.close()
    reopened = SqliteStore(tmp_path)
    assert versions(reopened, MANY) == [1] * MANY
    reopened.close()


def test_a_file_that_somebody_else_writes_is_waited_for_elsewhere(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    numbers = sessions(store, MANY)
    other = sqlite3.connect(
        tmp_path / "gradwire.sqlite3", isolation_level=None, check_same_thread=False
    )
    other.execute("BEGIN IMMEDIATE")

    async def both() -> list[Commit]:
        commits = [store.append(append(number)) for number in numbers]
        await asyncio.sleep(0.05)  # which the loop could not do if it waited
        assert not any(commit.done() for commit in commits)
        other.execute("COMMIT")
        for commit in commits:
            await asyncio.to_thread(commit.exception)
        return commits

    for commit in asyncio.run(both()):
        commit.result(0)
    other.close()
    assert versions(store, MANY) == [1] * MANY
    store.close()


def test_only_the_one_at_fault_is_refused(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    numbers = sessions(store, MANY)
    late, *rest = submitted(store, [append(n, 3 if n == numbers[0] else 0) for n in numbers])
    assert isinstance(late.exception(), Moved)
    for commit in rest:
        commit.result(0)
    assert versions(store, MANY) == [0] + [1] * (MANY - 1)
    store.close()


def test_a_full_store_says_so(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, max_bytes=2**18)
    numbers = sessions(store, MANY)
    large = [LogEntry(b"x" * 2**17)]
    appends = [Append(n, 0, large, None, Line(0)) for n in numbers]
    refused = [c.exception() for c in submitted(store, appends)]
    assert any(isinstance(refusal, StorageFull) for refusal in refused)
    assert versions(store, MANY) == [0 if refusal else 1 for refusal in refused]
    store.close()
