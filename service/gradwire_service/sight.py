"""What an operator sees of a request once it is done: metrics, a span, a line in the log."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial

from .dispatch import Resource
from .exchange import Exchange
from .logs import lines_alone, log_request
from .metrics import Metrics
from .tracing import Tracing

__all__ = ["Sight"]

_log = logging.getLogger("gradwire_service")


class Sight:
    """Where requests are reported, those that are done in one turn of the event loop together.

    Telling of a request touches much code and memory that serving one does not, and the other way
    round: one after the other, requests told of together take a fraction of the time.

    Attributes:
        metrics: Where they are counted.
        tracing: None where no collector is configured.
    """

    def __init__(self, metrics: Metrics, tracing: Tracing | None) -> None:
        self.metrics = metrics
        self.tracing = tracing
        self._done: deque[Exchange] = deque()
        self._called = False

    def report(self, exchange: Exchange) -> None:
        """A request is done, and is told of soon. To be called on the loop."""
        exchange.end()
        self._done.append(exchange)
        if not self._called:
            self._called = True
            asyncio.get_running_loop().call_soon(self.settle)

    def settle(self) -> None:
        """Tell of every request that is done."""
        self._called = False
        done, self._done = self._done, deque()
        lines = lines_alone()
        _each(done, self._count)  # in rows, for the same reason
        if self.tracing is not None:
            _each(done, self.tracing.record)
        with nullcontext() if lines is None else lines.held():
            _each(done, partial(log_request, lines))
        self.metrics.add_up()

    def _count(self, exchange: Exchange) -> None:
        """Count a request, under the template of its path.

        Ids, unknown paths and methods are no labels: there are as many as clients care to invent.
        """
        served = exchange.scope.get("endpoint")
        if isinstance(served, Resource):
            exchange.route = served.path
            if exchange.scope["method"] in served.methods:
                exchange.method = exchange.scope["method"]
            exchange.probe = served.vital
        self.metrics.observe(exchange)


def _each(done: Iterable[Exchange], tell: Callable[[Exchange], None]) -> None:
    for exchange in done:
        try:
            tell(exchange)
        except Exception:  # the answer is out, and the next one is to be told of as well
            _log.exception("a request that was answered could not be told of")
