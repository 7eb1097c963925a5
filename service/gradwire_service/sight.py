"""What an operator sees of a request once it is done: metrics, a span, a line in the log."""

from __future__ import annotations

from dataclasses import dataclass

from .dispatch import Resource
from .exchange import Exchange
from .logs import log_request
from .metrics import Metrics
from .tracing import Tracing

__all__ = ["Sight"]


@dataclass(frozen=True)
class Sight:
    """Where requests are reported; `tracing` is None where no collector is configured."""

    metrics: Metrics
    tracing: Tracing | None

    def report(self, exchange: Exchange) -> None:
        """Count, trace and log a request that is done, under the template of its path.

        Ids, unknown paths and methods are no labels: there are as many as clients care to invent.
        """
        exchange.end()
        served = exchange.scope.get("endpoint")
        probe = False
        if isinstance(served, Resource):
            exchange.route = served.path
            if exchange.scope["method"] in served.methods:
                exchange.method = exchange.scope["method"]
            probe = served.vital
        self.metrics.observe(exchange)
        trace_id = "" if self.tracing is None else self.tracing.record(exchange)
        log_request(exchange, trace_id, probe)
