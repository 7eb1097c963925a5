"""Group commit: one thread gathers the appends that wait and commits them together.

Making a transaction durable costs about the same for one append as for a hundred, so while one
group is on its way to the disk the next one gathers, and in a crowd it gathers a moment longer. An
append is answered only after the commit that it was part of. A fault of a whole transaction is
narrowed down by committing each append of the group alone, so that only the one that causes it
fails.
"""

from __future__ import annotations

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

_CROWD = 4
_MOMENT = 0.0005
"""After a group of at least `_CROWD` the next one gathers for so many seconds: fewer, larger groups
take less of the processor, which is what a crowd is short of. One client never waits for it."""


class GroupCommit:
    """The thread that commits the appends of one process, and the bounded queue in front of it.

    Args:
        commit: Makes one transaction of a group and tells what became of each append in it. It
            asks everything that can refuse an append before it writes anything of it. What it
            raises means that nothing at all was committed.
        room: How many appends may wait; more are refused.
    """

    def __init__(self, commit: Callable[[Sequence[Append]], Outcomes], *, room: int = 4096) -> None:
        self._commit = commit
        self._room = room
        self._waiting: SimpleQueue[tuple[Append, Commit] | None] = SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="group-commit", daemon=True)
        self._thread.start()

    def submit(self, append: Append) -> Commit:
        """See `Store.append`."""
        commit = Commit()
        with self._closing:
            waiting = self._waiting.qsize()
            if self._closed or waiting >= self._room:
                raise Overloaded(reason=f"{waiting} appends wait for the store")
            self._waiting.put((append, commit))
        return commit

    def close(self) -> None:
        """Commit what waits, and end the thread."""
        with self._closing:
            self._closed = True
            self._waiting.put(None)
        self._thread.join()

    # -- on the thread -----------------------------------------------------------------------------

    def _serve(self) -> None:
        crowded = False
        while first := self._waiting.get():
            if crowded:
                time.sleep(_MOMENT)
            group = self._gather(first)
            crowded = len(group) >= _CROWD
            outcomes = self._outcomes([append for append, _ in group])
            for (append, commit), outcome in zip(group, outcomes, strict=True):
                if outcome is None:
                    append.line.settled = append.version + len(append.entries)
                commit.settle(outcome)

    def _gather(self, first: tuple[Append, Commit]) -> list[tuple[Append, Commit]]:
        """The appends of a group: the first one, and others that wait."""
        group = [first]
        size = first[0].size
        with suppress(Empty):
            while len(group) < _GROUP and size < _GROUP_BYTES:
                found = self._waiting.get_nowait()
                if found is None:  # the end, which is to be found again
                    self._waiting.put(None)
                    break
                group.append(found)
                size += found[0].size
        return group

    def _outcomes(self, group: Sequence[Append]) -> Outcomes:
        try:
            return self._commit(group)
        except Exception as error:
            # A store that is busy or does not answer is no fault of any one append.
            if len(group) == 1 or isinstance(error, Overloaded):
                return [append.refuse(error) for append in group]
        return [outcome for append in group for outcome in self._outcomes([append])]
