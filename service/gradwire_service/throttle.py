"""Requests a second, by owner: a token bucket each, filled at the rate; it holds two seconds of it.

Buckets are touched on the event loop only. One that is full again is as good as none, so it is
dropped once there are many.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from .errors import RateLimited

__all__ = ["Throttle"]

_MANY = 10_000


class Throttle:
    """Refuses an owner's requests beyond `rate` a second; None lets everything pass."""

    def __init__(self, rate: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, owner: str) -> None:
        """Count one request.

        Raises:
            RateLimited: The owner's bucket is empty; `retry_after` says when it is not.
        """
        rate = self._rate
        if rate is None:
            return
        size = max(1.0, 2 * rate)
        now = self._clock()
        tokens, since = self._buckets.get(owner, (size, now))
        tokens = min(size, tokens + (now - since) * rate)
        if tokens < 1:
            self._buckets[owner] = tokens, now
            raise RateLimited(
                limit=rate,
                reason=f"{rate:g} requests a second are yours",
                retry_after=max(1, math.ceil((1 - tokens) / rate)),
            )
        self._buckets[owner] = tokens - 1, now
        if len(self._buckets) > _MANY:
            self._buckets = {
                name: (held, at)
                for name, (held, at) in self._buckets.items()
                if held + (now - at) * rate < size
            }
