"""The end of sessions that nobody uses: after how long, and what counts as a use.

Changing a session or looking it up, as every read and run does, is a use. A lookup is noted in the
store only once in a tenth of the time, so that reading does not become writing. A session that has
expired is gone for its owner at once, and from the store when it stands in the way of another, or
some time later.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

from .store import Moved, SessionRow, Store, moment

__all__ = ["Expiry"]

_BATCH = 100
_REMEMBERED = 10_000


class Expiry:
    """The expiry of a store's sessions, for one process.

    Args:
        store: Where they are.
        seconds: How long a session stays that is not used; None: for ever.
        linear_seconds: The same for linearizations.
    """

    def __init__(
        self, store: Store, seconds: float | None, linear_seconds: float | None = None
    ) -> None:
        self._store = store
        self._seconds = seconds
        self._linear_seconds = linear_seconds
        self._noted: dict[str, float] = {}  # when a session was last seen to be in use

    def _life(self, row: SessionRow) -> float | None:
        return self._seconds if row.residual_bytes is None else self._linear_seconds

    def use(self, row: SessionRow) -> str | None:
        """Note a use; when the session had expired before it, the moment in which it did."""
        life = self._life(row)
        if life is None:
            return None
        present, grain = time.time(), life / 10
        if max(_seconds_of(row.updated_at), self._noted.get(row.id, 0.0)) + grain > present:
            return None
        used = _seconds_of(self._store.last_use(row))
        if used + life <= present:
            return _moment_at(used + life)
        if used + grain <= present:
            self._store.touch(row, _moment_at(present))
            used = present
        if len(self._noted) >= _REMEMBERED:
            self._noted.clear()
        self._noted[row.id] = used
        return None

    def end(self, row: SessionRow, used: str | None = None) -> str | None:
        """The moment in which a session ends unless it is used before; None: it never does.

        `used` is its last use, which the store is asked for where the caller does not know.
        """
        life = self._life(row)
        if life is None:
            return None
        return _moment_at(_seconds_of(used or self._store.last_use(row)) + life)

    def recent(self, row: SessionRow, used: float) -> bool:
        """Whether what was in use then, in seconds since the epoch, needs no look at the store."""
        life = self._life(row)
        return life is None or time.time() < used + life / 10

    def over(self, row: SessionRow, used: float) -> bool:
        """Whether what was last in use then has expired, unless another process has used it."""
        life = self._life(row)
        return life is not None and used + life <= time.time()

    def sweep(self, owner: str | None = None) -> list[SessionRow]:
        """Remove what has expired.

        Args:
            owner: Whose; None: everybody's, but only what has been expired for as long as it was
                unused before, so that its owner can be told.

        Returns:
            What was removed.
        """
        lives = ((False, self._seconds), (True, self._linear_seconds))
        return [
            row
            for linear, life in lives
            if life is not None
            for row in self._remove(owner, life if owner is not None else 2 * life, linear)
        ]

    def _remove(self, owner: str | None, age: float, linear: bool) -> list[SessionRow]:
        before = _moment_at(time.time() - age)
        removed: list[SessionRow] = []
        while found := self._store.unused(owner, before, _BATCH, linear=linear):
            for row in found:
                try:
                    self._store.delete(row, pinned=True)
                except Moved:  # it was changed meanwhile, or is gone already
                    continue
                removed.append(row)
            if len(found) < _BATCH:
                break
        return removed


def _seconds_of(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _moment_at(seconds: float) -> str:
    return moment(datetime.fromtimestamp(seconds, UTC))
