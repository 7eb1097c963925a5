"""What a forked process must forget: its parent's threads are not there, their locks stay shut."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forgetful(Protocol):
    """Something with threads, locks or subprocesses of its own."""

    def after_fork(self) -> None:
        """Begin anew, in the child process."""


_KNOWN: weakref.WeakSet[Forgetful] = weakref.WeakSet()


def forgets(thing: Forgetful) -> None:
    """Have `thing.after_fork` called in every forked process, for as long as the thing exists."""
    _KNOWN.add(thing)


def _after_fork() -> None:
    for thing in list(_KNOWN):
        thing.after_fork()


os.register_at_fork(after_in_child=_after_fork)
