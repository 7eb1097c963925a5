"""Group commit: the appends that wait are gathered, and committed together.

Making a transaction durable costs about the same for one append as for a hundred, so while one
group is on its way to the disk the next one gathers. An append is answered only after the commit
that it was part of. A fault of a whole transaction is narrowed down by committing each append of
the group alone, so that only the one that causes it fails.

A thread commits. Only where many appends of an event loop wait and the disk is known to be quick,
the loop does so itself: to hand a group over and be woken again would take longer.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue

from .errors import Overloaded
from .store import Append, Commit

__all__ = ["GroupCommit", "Outcomes"]

Outcomes = Sequence[Exception | None]
"""What became of each append of a group: None is success."""

_GROUP = 512
_GROUP_BYTES = 2**23

_LATE = 0.005
"""Seconds after which a loop sends off what it has gathered, whatever else comes."""

_MANY = 8
"""How many appends have to wait for a loop to commit them itself: for fewer, what it could do
meanwhile is worth more."""

_QUICK = 0.005
"""Seconds that a commit takes on average where a loop may wait for one."""

_NEWEST = 0.1
"""What the newest commit counts for in that average."""

_REST = 100
"""How many times as long as a slow commit took a loop leaves them to the thread."""

_Waiting = list[tuple[Append, Commit]]


class GroupCommit:
    """The thread that commits the appends of one process, and the bounded queue in front of it.

    An event loop that submits one append after the other gathers them and sends them off together
    once it has nothing more to submit. The thread would wake for the first, and then have to wait
    for the interpreter's lock until the last; and whoever has that lock is slowed down by each
    thread that asks for it.

    Args:
        commit: Makes one transaction of a group and tells what became of each append in it. It
            asks everything that can refuse an append before it writes anything of it. What it
            raises means that nothing at all was committed.
        at_once: Makes such a transaction if nothing is against any append and nothing but the disk
            has to be waited for, and tells whether it did; None where that cannot be. What it
            raises means that nothing at all was committed, too.
        room: How many appends may wait; more are refused.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Append]], Outcomes],
        at_once: Callable[[Sequence[Append]], bool] | None = None,
        *,
        room: int = 4096,
    ) -> None:
        self._commit = commit
        self._at_once = at_once
        self._room = room
        self._takes = 0.0  # seconds, on average, where a loop commits
        self._resting = 0.0  # until when none does
        self._gathered: _Waiting = []
        self._since = 0.0  # when the first of them came
        self._seen = 0  # how many there were when the loop looked last
        self._sent: SimpleQueue[_Waiting] = SimpleQueue()
        self._ahead = 0  # how many appends are in it
        self._committing = False  # whether the thread has some
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="group-commit", daemon=True)
        self._thread.start()

    def submit(self, append: Append) -> Commit:
        """See `Store.append`."""
        commit = Commit()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        with self._lock:
            gathered = self._gathered
            waiting = self._ahead + len(gathered)
            if self._closed or waiting >= self._room:
                raise Overloaded(reason=f"{waiting} appends wait for the store")
            gathered.append((append, commit))
            if loop is None or len(gathered) >= _GROUP:
                self._send()
            elif len(gathered) == 1:
                self._since, self._seen = time.monotonic(), 0
                loop.call_soon(self._look, loop)
        return commit

    def close(self) -> None:
        """Commit what waits, and end the thread."""
        with self._lock:
            self._closed = True
            self._send()
            self._sent.put([])
        self._thread.join()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """On the loop: commit or send off what was gathered, unless more came since the last look.

        The lock is held meanwhile, so that nothing which another thread appends to one of these
        sessions overtakes it.
        """
        with self._lock:
            if len(self._gathered) > self._seen and time.monotonic() - self._since < _LATE:
                self._seen = len(self._gathered)
                loop.call_soon(self._look, loop)
                return
            group = self._gathered
            if not self._commit_at_once(group):
                self._send()
                return
            self._gathered = []
        for _, commit in group:
            commit.settle(None)

    def _commit_at_once(self, group: _Waiting) -> bool:
        """Commit a group here and now, if that is worth it; False: nothing of it was committed."""
        if self._at_once is None or len(group) < _MANY:
            return False
        if self._ahead or self._committing:  # which is to be committed before these are
            return False
        began = time.monotonic()
        if began < self._resting:
            return False
        try:
            done = self._at_once([append for append, _ in group])
        except Exception:  # the thread comes to it again, and has an answer to whatever it is
            done = False
        ended = time.monotonic()
        took = ended - began
        if done or took > _QUICK:  # an attempt that fails at once says nothing of the disk
            self._takes += _NEWEST * (took - self._takes)
        if self._takes > _QUICK:
            self._takes, self._resting = 0.0, ended + _REST * took
        if done:
            for append, _ in group:
                append.line.settled = append.end
        return done

    def _send(self) -> None:
        """Hand what was gathered to the thread; the lock is held."""
        if self._gathered:
            self._ahead += len(self._gathered)
            self._sent.put(self._gathered)
            self._gathered = []

    # -- on the thread -----------------------------------------------------------------------------

    def _serve(self) -> None:
        while first := self._sent.get():
            group = self._gather(first)
            outcomes = self._outcomes([append for append, _ in group])
            with self._lock:
                self._committing = False
                for (append, _), outcome in zip(group, outcomes, strict=True):
                    if outcome is None:
                        append.line.settled = append.end
            for (_, commit), outcome in zip(group, outcomes, strict=True):
                commit.settle(outcome)

    def _gather(self, first: _Waiting) -> _Waiting:
        """The appends of a group: what came first, and what else waits."""
        group = list(first)
        size = sum(append.size for append, _ in first)
        with suppress(Empty):
            while len(group) < _GROUP and size < _GROUP_BYTES:
                found = self._sent.get_nowait()
                if not found:  # the end, which is to be found again
                    self._sent.put(found)
                    break
                group += found
                size += sum(append.size for append, _ in found)
        with self._lock:
            self._ahead -= len(group)
            self._committing = True
        return group

    def _outcomes(self, group: Sequence[Append]) -> Outcomes:
        try:
            return self._commit(group)
        except Exception as error:
            # A store that is busy or does not answer is no fault of any one append.
            if len(group) == 1 or isinstance(error, Overloaded):
                return [append.refuse(error) for append in group]
        return [outcome for append in group for outcome in self._outcomes([append])]
