"""Appends that are gathered, and sessions whose appends do not wait for one another's commits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gradwire_engine import Engine, Entry, Input, Type
from gradwire_engine.errors import EngineError, NameConflict, UnknownName
from gradwire_service import group_commit
from gradwire_service.errors import Overloaded, StorageFull, VersionConflict
from gradwire_service.group_commit import GroupCommit, Outcomes
from gradwire_service.http import IfMatch, Key
from gradwire_service.requests import CreateRequest
from gradwire_service.sessions import Sessions, Staged
from gradwire_service.sqlite_store import SqliteStore
from gradwire_service.store import AlreadyDone, Append, Commit, Line, LogEntry, Moved

# -- the thread that gathers -----------------------------------------------------------------------


def append(text: str = "", line: Line | None = None, version: int = 0) -> Append:
    entries = [LogEntry(text.encode())]
    return Append(1, version, entries, None, line or Line(version))


class Disk:
    """A commit that waits until it is let through, and fails where it is told to."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.let = threading.Event()
        self.begun = threading.Event()
        self.faults: dict[str, Exception] = {}
        self.refusals: dict[str, Exception] = {}

    def commit(self, group: Sequence[Append]) -> Outcomes:
        texts = [a.entries[0].document.decode() for a in group]
        self.groups.append(texts)
        self.begun.set()
        assert self.let.wait(30)
        for text in texts:
            if text in self.faults:
                raise self.faults[text]
        outcomes: list[Exception | None] = []
        for a, text in zip(group, texts, strict=True):
            if a.line.broken:
                outcomes.append(Moved())
            elif text in self.refusals:
                outcomes.append(a.refuse(self.refusals[text]))
            else:
                outcomes.append(None)
        return outcomes


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def gathered(disk: Disk) -> Iterator[GroupCommit]:
    group = GroupCommit(disk.commit, room=100)
    yield group
    disk.let.set()
    group.close()


def test_what_comes_during_a_commit_is_committed_together(
    disk: Disk, gathered: GroupCommit
) -> None:
    first = gathered.submit(append("first"))
    assert disk.begun.wait(30)
    rest = [gathered.submit(append(str(k))) for k in range(5)]
    assert not first.done(), "nothing is acknowledged before its commit"
    disk.let.set()
    for future in (first, *rest):
        future.result(30)
    assert disk.groups == [["first"], ["0", "1", "2", "3", "4"]]


def test_a_loop_sends_off_together_what_it_submits_in_a_row(
    disk: Disk, gathered: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "_LATE", 60.0)
    disk.let.set()

    async def some(count: int) -> list[Commit]:
        commits = []
        for k in range(count):
            commits.append(gathered.submit(append(str(k))))
            await asyncio.sleep(0)  # as one task after the other does
        await asyncio.to_thread(commits[-1].result, 30)
        return commits

    for commit in asyncio.run(some(5)):
        commit.result(30)
    assert disk.groups == [["0", "1", "2", "3", "4"]]


def test_a_loop_that_never_pauses_sends_off_all_the_same(disk: Disk, gathered: GroupCommit) -> None:
    disk.let.set()
    work = partial(time.sleep, 0.001)

    async def until_the_first_is_durable() -> int:
        first = gathered.submit(append("first"))
        count = 1
        while not first.done():
            work()
            gathered.submit(append("more"))
            count += 1
            await asyncio.sleep(0)
        return count

    assert asyncio.run(asyncio.wait_for(until_the_first_is_durable(), 30)) > 1


def test_what_a_loop_has_gathered_goes_ahead_of_what_a_thread_submits(
    disk: Disk, gathered: GroupCommit
) -> None:
    disk.let.set()

    async def both() -> list[Commit]:
        first = gathered.submit(append("first"))
        second = await asyncio.get_running_loop().run_in_executor(
            None, gathered.submit, append("second")
        )
        return [first, second]

    for commit in asyncio.run(both()):
        commit.result(30)
    assert [text for group in disk.groups for text in group] == ["first", "second"]


def test_the_end_commits_what_a_loop_has_gathered(disk: Disk) -> None:
    disk.let.set()
    group = GroupCommit(disk.commit)

    async def leave() -> Commit:
        return group.submit(append("last"))

    commit = asyncio.run(leave())
    group.close()
    commit.result(0)
    assert disk.groups == [["last"]]


def test_a_fault_stays_with_the_append_that_causes_it(disk: Disk, gathered: GroupCommit) -> None:
    held = gathered.submit(append("first"))
    assert disk.begun.wait(30)
    disk.faults["bad"] = StorageFull()
    futures = {text: gathered.submit(append(text)) for text in ("a", "bad", "b")}
    disk.let.set()
    held.result(30)
    futures["a"].result(30)
    futures["b"].result(30)
    with pytest.raises(StorageFull):
        futures["bad"].result(30)
    assert disk.groups == [["first"], ["a", "bad", "b"], ["a"], ["bad"], ["b"]]


def test_a_store_that_does_not_answer_is_asked_once(disk: Disk, gathered: GroupCommit) -> None:
    held = gathered.submit(append("first"))
    assert disk.begun.wait(30)
    disk.faults["a"] = Overloaded(reason="it is busy")
    futures = [gathered.submit(append(text)) for text in "abc"]
    disk.let.set()
    held.result(30)
    for future in futures:
        with pytest.raises(Overloaded):
            future.result(30)
    assert disk.groups == [["first"], ["a", "b", "c"]], "the outcome of a commit may be unknown"


def test_a_line_ends_where_it_breaks(disk: Disk, gathered: GroupCommit) -> None:
    line, other = Line(0), Line(0)
    held = gathered.submit(append("first", line, 0))
    assert disk.begun.wait(30)
    disk.refusals["b"] = AlreadyDone()
    futures = {t: gathered.submit(append(t, line, 1 + k)) for k, t in enumerate("abc")}
    beside = gathered.submit(append("beside", other))
    disk.let.set()
    held.result(30)
    futures["a"].result(30)
    with pytest.raises(AlreadyDone):
        futures["b"].result(30)
    with pytest.raises(Moved):
        futures["c"].result(30)
    beside.result(30)
    assert (line.settled, line.broken, other.settled, other.broken) == (2, True, 1, False)


def test_the_queue_is_bounded(disk: Disk, gathered: GroupCommit) -> None:
    gathered.submit(append("first"))
    assert disk.begun.wait(30)
    for _ in range(100):
        gathered.submit(append())
    with pytest.raises(Overloaded, match="100 appends wait"):
        gathered.submit(append())


def test_a_group_has_a_size(disk: Disk, gathered: GroupCommit) -> None:
    held = gathered.submit(append("first"))
    assert disk.begun.wait(30)
    large = "x" * 2**22
    futures = [gathered.submit(append(large)) for _ in range(5)]
    disk.let.set()
    for future in (held, *futures):
        future.result(30)
    assert [len(group) for group in disk.groups] == [1, 2, 2, 1]


def test_closing_commits_what_waits(disk: Disk) -> None:
    group = GroupCommit(disk.commit)
    futures = [group.submit(append(str(k))) for k in range(9)]
    threading.Timer(0.05, disk.let.set).start()
    group.close()
    assert all(future.exception() is None for future in futures)
    with pytest.raises(Overloaded):
        group.submit(append())


def test_whoever_waits_for_a_commit_learns_of_it() -> None:
    commit = Commit()
    called: list[str] = []
    commit.when_done(lambda: called.append("before"))
    with pytest.raises(TimeoutError):
        commit.exception(0.01)
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(commit.exception, 30) for _ in range(4)]
        assert not commit.done()
        assert not called
        refusal = Moved()
        commit.settle(refusal)
        assert [w.result(30) for w in waiting] == [refusal] * 4
    commit.when_done(lambda: called.append("after"))
    assert commit.done()
    assert called == ["before", "after"]
    with pytest.raises(Moved):
        commit.result()


def test_no_commit_is_missed_however_it_is_waited_for() -> None:
    """Blocked threads and callbacks, while others settle what they wait for."""
    commits = [Commit() for _ in range(5000)]
    called: list[int] = []

    def settle(first: int) -> None:
        for k in range(first, len(commits), 2):
            commits[k].settle(None)

    def listen() -> None:
        for k, commit in enumerate(commits):
            commit.when_done(partial(called.append, k))

    def wait() -> int:
        return sum(commit.exception(30) is None for commit in commits)

    with ThreadPoolExecutor(5) as threads:
        waiting = [threads.submit(wait) for _ in range(2)]
        others = [threads.submit(listen), *(threads.submit(settle, k) for k in range(2))]
        assert [w.result(60) for w in waiting] == [5000, 5000]
        for other in others:
            other.result(60)
    assert sorted(called) == list(range(5000))


# -- sessions on top of it -------------------------------------------------------------------------


class Held:
    """Sessions over a real store whose commits wait at a gate."""

    def __init__(self, directory: Path | None) -> None:
        self.store = SqliteStore(directory)
        self.sessions = _sessions(self.store)
        self.gate = threading.Event()
        self.gate.set()
        self.faults: dict[str, Exception] = {}
        commit = self.store._appends._commit

        def gated(group: Sequence[Append]) -> Outcomes:
            assert self.gate.wait(30)
            for a in group:
                for text, fault in self.faults.items():
                    if any(text.encode() in e.document for e in a.entries):
                        raise fault
            return commit(group)

        self.store._appends._commit = gated
        self._threads = ThreadPoolExecutor(16)

    def stage(self, *names: str, on: str = "x", **more: Any) -> Staged:
        staged = self.sessions.stage("local", "m", tanh(*names, on=on), *_heads(**more))
        assert staged is not None
        return staged

    def begin(self, *names: str, on: str = "x", **more: Any) -> Future[dict[str, Any]]:
        """`append` on a thread, which has got as far as it can when this returns."""
        arguments = ("local", "m", tanh(*names, on=on), *_heads(**more))
        future = self._threads.submit(self.sessions.append, *arguments)
        time.sleep(0.05)
        return future

    @property
    def log(self) -> list[str]:
        return [node["name"] for node in self.sessions.read("local", "m", 0)["nodes"]]

    def close(self) -> None:
        self.gate.set()
        self._threads.shutdown()
        self.store.close()


def _sessions(store: SqliteStore) -> Sessions:
    limits = {"memory_limit": 2**30, "max_elements": 2**30, "max_nodes": 1000, "max_sessions": 10}
    return Sessions(store, Engine(), cached=10, **limits)


def _heads(if_match: int | None = None, key: str | None = None) -> tuple[Any, Any]:
    match = None if if_match is None else IfMatch(f'"{if_match}"', frozenset({if_match}))
    return match, None if key is None else Key(key, "digest")


def tanh(*names: str, on: str = "x") -> tuple[Entry, ...]:
    return tuple(Entry("tanh", (on,), name=name) for name in names)


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held(None)
    made.sessions.create("local", CreateRequest("m", (Input("x", Type((2,))),)), None)
    made.sessions.append("local", "m", tanh("first"), None, None)
    yield made
    made.close()


def test_appends_do_not_wait_for_one_another(held: Held) -> None:
    held.gate.clear()
    staged = [held.stage("a"), held.stage("b", on="a"), held.stage("c", on="b")]
    assert [s.document["version"] for s in staged] == [2, 3, 4]
    assert not any(s.committed.done() for s in staged)
    assert held.log == ["first"], "what is on its way is not there yet"
    held.gate.set()
    for s in staged:
        s.committed.result(30)
    assert held.log == ["first", "a", "b", "c"]


def test_what_stands_on_a_failed_append_is_made_again(held: Held) -> None:
    held.gate.clear()
    held.faults["lost"] = StorageFull()
    kept, lost, behind = held.begin("a"), held.begin("lost"), held.begin("c")
    held.gate.set()
    assert kept.result(30)["version"] == 2
    with pytest.raises(StorageFull):
        lost.result(30)
    assert behind.result(30)["nodes"][0]["id"] == 3
    assert held.log == ["first", "a", "c"]
    held.faults.clear()
    assert held.begin("lost", on="c").result(30)["version"] == 4


def test_what_refers_to_a_failed_append_is_refused(held: Held) -> None:
    held.gate.clear()
    held.faults["lost"] = StorageFull()
    lost, behind = held.begin("lost"), held.begin("b", on="lost")
    held.gate.set()
    with pytest.raises(StorageFull):
        lost.result(30)
    with pytest.raises(UnknownName):
        behind.result(30)
    assert held.log == ["first"]


@pytest.mark.parametrize("lost", [False, True])
def test_nothing_uncommitted_refuses_anybody(held: Held, lost: bool) -> None:
    held.gate.clear()
    if lost:
        held.faults["twice"] = StorageFull()
    first = held.begin("twice", "of_the_first")
    assert held.sessions.stage("local", "m", tanh("twice"), None, None) is None
    second = held.begin("twice")
    assert not second.done()
    held.faults = {"of_the_first": StorageFull()} if lost else {}
    held.gate.set()
    if lost:
        with pytest.raises(StorageFull):
            first.result(30)
        assert second.result(30)["version"] == 2
    else:
        assert first.result(30)["version"] == 3
        with pytest.raises(NameConflict):
            second.result(30)


def test_if_match_counts_only_what_is_committed(held: Held) -> None:
    held.gate.clear()
    held.faults["lost"] = StorageFull()
    lost, behind = held.begin("lost"), held.begin("a", if_match=2)
    held.gate.set()
    with pytest.raises(StorageFull):
        lost.result(30)
    with pytest.raises(VersionConflict) as conflict:
        behind.result(30)
    assert (conflict.value.expected, conflict.value.actual) == (2, 1)
    held.gate.clear()
    kept, behind = held.begin("kept"), held.begin("a", if_match=1)
    assert not behind.done(), "who knows whether the other one is committed"
    held.gate.set()
    assert kept.result(30)["version"] == 2
    with pytest.raises(VersionConflict):
        behind.result(30)
    assert held.begin("a", if_match=2).result(30)["version"] == 3


def test_outputs_cannot_be_what_is_not_committed(held: Held) -> None:
    held.gate.clear()
    held.faults["lost"] = StorageFull()
    lost = held.begin("lost")
    declared = held._threads.submit(held.sessions.declare, "local", "m", {"y": "lost"}, None)
    time.sleep(0.05)
    assert not declared.done()
    held.gate.set()
    with pytest.raises(StorageFull):
        lost.result(30)
    with pytest.raises(UnknownName):
        declared.result(30)


def test_a_graph_is_of_what_is_committed(held: Held) -> None:
    before = held.sessions.graph(held.sessions.find("local", "m"))
    held.gate.clear()
    staged = held.stage("a")
    assert held.sessions.graph(held.sessions.find("local", "m")) is before
    held.gate.set()
    staged.committed.result(30)
    assert held.sessions.graph(held.sessions.find("local", "m")).names["a"] == 2


def test_a_duplicate_waits_for_the_first(held: Held) -> None:
    held.gate.clear()
    first = held.begin("a", key="k")
    again = [held.begin("a", key="k") for _ in range(3)]
    assert not any(future.done() for future in again)
    held.gate.set()
    assert [future.result(30) for future in again] == [first.result(30)] * 3
    assert held.log == ["first", "a"]


def test_a_duplicate_without_names_is_there_once(held: Held) -> None:
    nameless = (Entry("tanh", ("x",)),)
    held.gate.clear()
    first = held.sessions.stage("local", "m", nameless, None, Key("k", "digest"))
    again = held.sessions.stage("local", "m", nameless, None, Key("k", "digest"))
    assert first is not None
    assert again is not None
    held.gate.set()
    first.committed.result(30)
    assert isinstance(again.committed.exception(30), AlreadyDone)
    answer = held.sessions.append("local", "m", nameless, None, Key("k", "digest"))
    assert answer == first.document
    assert held.log == ["first", None]


def test_another_process_comes_between(tmp_path: Path) -> None:
    """What stood on our own append must not be committed on top of somebody else's."""
    held = Held(tmp_path)
    there = SqliteStore(tmp_path)
    held.sessions.create("local", CreateRequest("m", (Input("x", Type((2,))),)), None)
    held.sessions.append("local", "m", tanh("first"), None, None)
    held.gate.clear()
    ours, behind = held.stage("ours"), held.stage("behind", on="ours")
    _sessions(there).append("local", "m", tanh("theirs"), None, None)
    held.gate.set()
    assert isinstance(ours.committed.exception(30), Moved)
    assert isinstance(behind.committed.exception(30), Moved)
    assert held.log == ["first", "theirs"]
    names = held.sessions.graph(held.sessions.find("local", "m")).names
    assert names == {"x": 0, "first": 1, "theirs": 2}
    assert held.begin("ours", on="theirs").result(30)["version"] == 3
    there.close()
    held.close()


def test_who_loses_race_after_race_is_let_in_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, there = Held(tmp_path), SqliteStore(tmp_path)
    theirs = _sessions(there)
    held.sessions.create("local", CreateRequest("m", (Input("x", Type((2,))),)), None)
    races: list[dict[str, Any]] = []
    begin = held.store.append

    def always_late(append: Append) -> Commit:
        races.append(theirs.append("local", "m", tanh(f"t{len(races)}"), None, None))
        return begin(append)

    monkeypatch.setattr(held.store, "append", always_late)
    answer = held.sessions.append("local", "m", tanh("a", "b"), None, Key("k", "digest"))
    assert held.log == ["t0", "t1", "a", "b"]
    assert (answer["version"], [n["id"] for n in answer["nodes"]]) == (4, [3, 4])
    monkeypatch.undo()
    assert held.sessions.append("local", "m", tanh("a", "b"), None, Key("k", "digest")) == answer
    held.stage("c", on="b").committed.result(30)

    monkeypatch.setattr(held.store, "append", always_late)
    with pytest.raises(NameConflict):
        held.sessions.append("local", "m", tanh("a"), None, None)
    monkeypatch.setattr(held.store, "_insert_log", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        held.sessions.append("local", "m", tanh("lost"), None, None)
    monkeypatch.undo()
    assert held.begin("lost", on="c").result(30)["version"] == len(held.log)
    there.close()
    held.close()


def test_staging_leaves_to_append_what_may_take_long(held: Held) -> None:
    def stage(request: tuple[Entry, ...], ref: str = "m", owner: str = "local") -> Staged | None:
        return held.sessions.stage(owner, ref, request, None, None)

    id = held.sessions.find("local", "m").id
    assert stage(tanh("a"), id) is not None
    assert stage(tanh("b"), id, "someone else") is None
    assert stage(tanh("b"), "unknown") is None
    assert stage(tanh("b", on="unknown")) is None
    assert stage(tanh("a")) is None
    assert stage((Entry("tanhh", ("x",)),)) is None
    copy = held.sessions.copies.all()[0]
    with copy.lock:
        assert stage(tanh("b")) is None, "the session is in use"
    held.sessions.delete("local", "m", None)
    assert stage(tanh("b")) is None


def test_staging_does_not_wake_an_expired_session(held: Held) -> None:
    held.sessions._expiry._seconds = 1000.0
    held.stage("a").committed.result(30)
    copy = held.sessions.copies.all()[0]
    copy.used -= 101.0
    request = ("local", "m", tanh("b"), None, None)
    assert held.sessions.stage(*request) is None, "the store has to be asked"
    held.sessions.append(*request)
    held.stage("c").committed.result(30)


def test_many_writers_of_one_session_have_one_order(tmp_path: Path) -> None:
    """Threads in two processes' worth of sessions, fast and slow paths, with faults in between."""
    stores = [SqliteStore(tmp_path), SqliteStore(tmp_path)]
    both = [_sessions(store) for store in stores]
    both[0].create("local", CreateRequest("m", (Input("x", Type((2,))),)), None)
    acknowledged: list[tuple[int, str]] = []

    def write(writer: int) -> None:
        sessions = both[writer % 2]
        for k in range(25):
            request = tanh(f"w{writer}_{k}")
            staged = None
            if k % 2:
                staged = sessions.stage("local", "m", request, None, None)
            if staged is not None and staged.committed.exception(60) is None:
                document = staged.document
            else:
                document = sessions.append("local", "m", request, None, None)
            acknowledged.append((document["version"], document["nodes"][0]["name"]))

    _together([lambda w=w: write(w) for w in range(8)])  # type: ignore[misc]
    log = [node["name"] for node in both[1].read("local", "m", 0)["nodes"]]
    assert [name for _, name in sorted(acknowledged)] == log
    assert [version for version, _ in sorted(acknowledged)] == list(range(1, 201))
    for writer in range(8):
        mine = [name for name in log if name.startswith(f"w{writer}_")]
        assert mine == [f"w{writer}_{k}" for k in range(25)]
    for store in stores:
        store.close()


def _together(jobs: list[Callable[[], None]]) -> None:
    with ThreadPoolExecutor(len(jobs)) as threads:
        for future in [threads.submit(job) for job in jobs]:
            error = future.exception(120)
            if isinstance(error, EngineError | AssertionError):
                raise error
            future.result()
