"""Work in the background: threads that are there while there is something to do."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

Job = tuple[Callable[[], object], Callable[[], object]]
"""What is to be done, and what instead if it never comes to that. Neither may raise."""


class Lane:
    """Does jobs on daemon threads. The newest batch goes first, each begun in its order.

    Args:
        name: The threads' name.
        bound: How many jobs may wait.
        idle_seconds: How long a thread waits for more before it ends.
        on_idle: Called on a thread before it ends.
        width: How many threads there may be, and so how many jobs are done at a time.
    """

    def __init__(
        self,
        name: str,
        bound: int,
        idle_seconds: float = 30.0,
        on_idle: Callable[[], None] = lambda: None,
        width: int = 1,
    ) -> None:
        self._name, self._bound, self._idle = name, bound, idle_seconds
        self._on_idle, self._width = on_idle, width
        self._jobs: deque[Job] = deque()
        self._condition = threading.Condition()
        self._threads = self._busy = 0

    def put(self, jobs: Iterable[Job]) -> None:
        """Add a batch of jobs. The oldest that no longer fit are given up."""
        with self._condition:
            self._jobs.extendleft(reversed(list(jobs)))
            dropped = [self._jobs.pop() for _ in range(len(self._jobs) - self._bound)]
            while self._threads < min(self._width, self._busy + len(self._jobs)):
                self._threads += 1
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
            self._condition.notify(len(self._jobs))
        for _, give_up in dropped:
            give_up()

    def _work(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._jobs, self._idle)
                job = self._jobs.popleft() if self._jobs else None
                self._busy += job is not None
            if job is not None:
                do, _ = job
                do()
                with self._condition:
                    self._busy -= 1
                continue
            self._on_idle()
            with self._condition:
                if not self._jobs:
                    self._threads -= 1
                    return
