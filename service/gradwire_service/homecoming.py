"""The way (back) to the event loop: one wake-up for all functions that come at a time."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

__all__ = ["Homecoming"]

_log = logging.getLogger("gradwire_service")

_FAILED = "a request could not go on when what it waited for was done"


class Homecoming:
    """Calls functions on one loop: a group that comes together wakes it once.

    To be made on the loop.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._waiting: deque[Callable[[], None]] = deque()
        self._called = False

    def bring(self, then: Callable[[], None]) -> None:
        """Have `then` called on the loop: at once where this is it, else soon."""
        if threading.get_ident() != self._thread:
            self.announce(then)
            return
        try:
            then()
        except Exception:  # it is no fault of who brings it
            _log.exception(_FAILED)

    def announce(self, then: Callable[[], None]) -> None:
        """Have `then` called, soon; any thread may call."""
        self._waiting.append(then)
        if not self._called:
            self._called = True
            here = threading.get_ident() == self._thread  # then nobody has to be woken
            with suppress(RuntimeError):  # the loop is closed
                (self._loop.call_soon if here else self._loop.call_soon_threadsafe)(self._settle)

    def _settle(self) -> None:
        self._called = False  # first: whoever comes from now on calls again, if in vain
        while self._waiting:
            try:
                self._waiting.popleft()()
            except Exception:  # the others wait, too
                _log.exception(_FAILED)
