"""The way from other threads back to the event loop, one wake-up for all that come at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

__all__ = ["Homecoming"]


class Homecoming:
    """Settles futures of one loop for other threads: a group that is done together wakes it once.

    To be made on the loop.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._called = False

    def announce(self, waiter: asyncio.Future[None]) -> None:
        """Let `waiter` be done, soon; any thread may call."""
        self._waiters.append(waiter)
        if not self._called:
            self._called = True
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        self._called = False  # first: whoever comes from now on calls again, if in vain
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():  # as it is where the request was given up
                waiter.set_result(None)
