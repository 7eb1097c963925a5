"""Work in the background: a thread that is there while there is something to do."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

Job = tuple[Callable[[], object], Callable[[], object]]
"""What is to be done, and what instead if it never comes to that. Neither may raise."""


class Lane:
    """Does jobs one at a time on a daemon thread. The newest batch goes first, each in its order.

    Args:
        name: The thread's name.
        bound: How many jobs may wait.
        idle_seconds: How long the thread waits for more before it ends.
        on_idle: Called on the thread before it ends.
    """

    def __init__(
        self,
        name: str,
        bound: int,
        idle_seconds: float = 30.0,
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        self._name, self._bound, self._idle = name, bound, idle_seconds
        self._on_idle = on_idle
        self._jobs: deque[Job] = deque()
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, jobs: Iterable[Job]) -> None:
        """Add a batch of jobs. The oldest that no longer fit are given up."""
        with self._condition:
            self._jobs.extendleft(reversed(list(jobs)))
            dropped = [self._jobs.pop() for _ in range(len(self._jobs) - self._bound)]
            if self._thread is None and self._jobs:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
            self._condition.notify()
        for _, give_up in dropped:
            give_up()

    def _work(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._jobs, self._idle)
                job = self._jobs.popleft() if self._jobs else None
            if job is not None:
                do, _ = job
                do()
                continue
            self._on_idle()
            with self._condition:
                if not self._jobs:
                    self._thread = None
                    return
