"""When work has to end early: its deadline has passed, or nobody waits for the answer any more.

A `Stop` is made when a request has arrived and goes to the thread that serves it, so the time in a
queue counts. The engine looks at a deadline between the steps of a plan; the one it gets here is
also past from the moment on which the request is abandoned.
"""

from __future__ import annotations

import math
import time

from gradwire_engine.errors import DeadlineExceeded

__all__ = ["Stop"]


class Stop:
    """The end that is set to one request. Any thread may ask; `abandon` may come from any."""

    __slots__ = ("_abandoned", "_arrived", "_milliseconds")

    def __init__(self, seconds: float | None = None) -> None:
        """Begin the time of a request; `seconds` bounds it, whatever the request itself says."""
        self._arrived = time.monotonic()
        self._milliseconds = math.inf if seconds is None else seconds * 1e3
        self._abandoned = False

    def within(self, milliseconds: float | None) -> None:
        """Bound the time, from the request's arrival, to what its caller states."""
        if milliseconds is not None:
            self._milliseconds = min(self._milliseconds, float(milliseconds))

    def abandon(self) -> None:
        """Nobody waits any more."""
        self._abandoned = True

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; infinite where there is none."""
        return self._arrived + self._milliseconds / 1e3 - time.monotonic()

    @property
    def over(self) -> bool:
        """Whether to stop now."""
        return self._abandoned or self.remaining <= 0

    def check(self) -> None:
        """Raise `DeadlineExceeded` if it is time; of an abandoned request nobody reads it."""
        if self.over:
            raise self.exceeded()

    def exceeded(self) -> DeadlineExceeded:
        """The refusal that names the deadline."""
        whole = self._milliseconds.is_integer()
        stated = int(self._milliseconds) if whole else self._milliseconds
        return DeadlineExceeded(deadline_ms=stated)

    def deadline(self) -> tuple[float, float]:
        """As the engine takes it: a moment of `time.monotonic`, and the milliseconds stated."""
        moment = _Moment(self._arrived + self._milliseconds / 1e3)
        moment.stop = self
        return moment, self.exceeded().deadline_ms


class _Moment(float):
    """A moment that lies in the past as soon as its request is abandoned."""

    stop: Stop

    def __lt__(self, now: float) -> bool:
        return self.stop.over or super().__lt__(now)

    def __le__(self, now: float) -> bool:
        return self.stop.over or super().__le__(now)
