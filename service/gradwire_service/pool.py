"""Worker threads with a bounded queue, shared fairly among owners.

What finds no room is refused at once. A job that waits leaves the queue when its deadline passes or
its client goes away; one that runs is told to stop. Owners take turns, so that a long queue of one
of them does not hold up the others, and none may hold more than its share.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .errors import Overloaded, RateLimited
from .stop import Stop

__all__ = ["Job", "Pool"]

T = TypeVar("T")

_LONGEST_WAIT = 30
"""A queue may be longer than that; but what a client is told to wait, it may really wait."""


@dataclass(eq=False)
class Job(Generic[T]):
    """Work that was taken: `result` is to be awaited on the event loop that asked for it."""

    owner: str
    work: Callable[[], T]
    stop: Stop
    result: asyncio.Future[T]
    waiting: bool = False


class Pool:
    """`threads` jobs at a time, of which `per_owner` of one owner, and `queue` that wait."""

    def __init__(
        self,
        threads: int,
        queue: int,
        name: str,
        *,
        per_owner: int | None = None,
        queue_per_owner: int | None = None,
    ) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._threads = threads
        self._queue = queue
        self._per_owner = threads if per_owner is None else min(per_owner, threads)
        self._queue_per_owner = queue if queue_per_owner is None else queue_per_owner
        self._lock = threading.Lock()
        self._busy: Counter[str] = Counter()
        # By owner, the one whose turn is next first.
        self._lines: OrderedDict[str, deque[Job[Any]]] = OrderedDict()
        self._waiting = 0
        self._mean = 0.0

    @property
    def running(self) -> int:
        """Jobs that threads work on."""
        return self._busy.total()

    @property
    def waiting(self) -> int:
        """Jobs that wait for a thread."""
        return self._waiting

    def submit(self, owner: str, work: Callable[[], T], stop: Stop) -> Job[T]:
        """Take a job, to be started as soon as a thread is free and it is the owner's turn.

        Raises:
            Overloaded: All threads are busy and the queue is full.
            RateLimited: The owner's part of the queue is full.
        """
        job = Job(owner, work, stop, asyncio.get_running_loop().create_future())
        with self._lock:
            idle = self._busy.total() < self._threads and self._busy[owner] < self._per_owner
            if not idle:
                self._enqueue(job)
                return job
            self._busy[owner] += 1
        self._executor.submit(self._serve, job)
        return job

    def withdraw(self, job: Job[T], reason: BaseException) -> None:
        """Give up a job: it leaves the queue, or stops at its next step; `result` raises `reason`.

        To be called on the event loop that awaits it.
        """
        job.stop.abandon()
        with self._lock:
            line = self._lines.get(job.owner)
            if job.waiting and line is not None:
                line.remove(job)
                self._left(job)
                if not line:
                    del self._lines[job.owner]
        if not job.result.done():
            job.result.set_exception(reason)

    def close(self) -> None:
        """Wait for the work that was taken."""
        self._executor.shutdown(wait=True)

    def _enqueue(self, job: Job[T]) -> None:
        line = self._lines.get(job.owner, ())
        if self._waiting >= self._queue:
            held = self._busy.total() + self._waiting
            raise Overloaded(
                reason=f"{held} requests are under way or waiting",
                retry_after=self._patience(self._waiting + 1, self._threads),
            )
        if len(line) >= self._queue_per_owner:
            raise RateLimited(
                limit=self._queue_per_owner,
                reason=f"{len(line)} of your runs wait already",
                retry_after=self._patience(len(line) + 1, self._per_owner),
            )
        job.waiting = True
        self._waiting += 1
        self._lines.setdefault(job.owner, deque()).append(job)

    def _left(self, job: Job[T]) -> None:
        job.waiting = False
        self._waiting -= 1

    def _patience(self, ahead: int, threads: int) -> int:
        """Seconds until so many jobs are likely to be done, judged by those that were."""
        return min(_LONGEST_WAIT, max(1, math.ceil(self._mean * ahead / threads)))

    # -- on the threads ----------------------------------------------------------------------------

    def _serve(self, job: Job[Any] | None) -> None:
        while job is not None:
            began = time.perf_counter()
            outcome = _outcome(job)
            # Whoever hears of the end finds the thread free.
            after = self._next(job.owner, time.perf_counter() - began)
            _tell(job, *outcome)
            job = after

    def _next(self, done: str, seconds: float) -> Job[Any] | None:
        """The next job for this thread; a thread that has none goes idle."""
        with self._lock:
            self._mean += (seconds - self._mean) / 8
            self._busy[done] -= 1
            if not self._busy[done]:
                del self._busy[done]
            job = self._pick()
            # Where an owner is at its bound threads go idle: they are needed again once it is not.
            while (another := self._pick()) is not None:
                self._executor.submit(self._serve, another)
            return job

    def _pick(self) -> Job[Any] | None:
        """Take the next job from the queue, if one may start."""
        if self._busy.total() >= self._threads:
            return None
        for owner in self._lines:
            if self._busy[owner] < self._per_owner:
                break
        else:
            return None
        line = self._lines.pop(owner)
        job = line.popleft()
        self._left(job)
        self._busy[owner] += 1
        if line:
            self._lines[owner] = line
        return job


def _outcome(job: Job[T]) -> tuple[T | None, BaseException | None]:
    """What came of a job: its result, or what it raised."""
    if job.stop.over:
        return None, job.stop.exceeded()
    try:
        return job.work(), None
    except BaseException as error:
        return None, error


def _tell(job: Job[T], result: T | None, error: BaseException | None) -> None:
    """Hand the outcome to the event loop, unless nobody there waits any more."""

    def settle() -> None:
        if job.result.done():
            return
        if error is not None:
            job.result.set_exception(error)
        else:
            job.result.set_result(result)  # type: ignore[arg-type] # a T where there is no error

    with suppress(RuntimeError):  # the loop is closed
        job.result.get_loop().call_soon_threadsafe(settle)
