"""What an operator's Prometheus reads at `/metrics`.

Requests by route, method and status, how long they took, runs by tier, what the kernel compiler
did, and the state of the process. Each app has a registry of its own; with several workers a scrape
meets one of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from gradwire_engine import Engine

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counts and times the requests of one app, whose runs `engine` compiles."""

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Kernels(engine))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._requests = Counter(
            "gradwire_requests",
            "Requests answered.",
            ["route", "method", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "gradwire_request_seconds",
            "Seconds from a request's first byte to its answer's last.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        # Looking a labelled one up takes longer than counting.
        self._of_requests: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._runs = Counter(
            "gradwire_runs",
            "Runs, by the tier that executed them.",
            ["tier"],
            registry=self._registry,
        )

    def ran(self, tier: str) -> None:
        """Count one run."""
        self._runs.labels(tier).inc()

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one request.

        Args:
            route: The path's template, such as ``/v1/sessions/{sid}``, never a path with ids.
            method: An HTTP method that the route serves, or ``other``.
            status: The status of the answer.
            seconds: How long it took.
        """
        key = route, method, status
        if key not in self._of_requests:
            counter = self._requests.labels(route, method, str(status))
            self._of_requests[key] = counter, self._seconds.labels(route)
        counter, histogram = self._of_requests[key]
        counter.inc()
        histogram.observe(seconds)

    def text(self) -> bytes:
        """The exposition in Prometheus's text format."""
        return generate_latest(self._registry)


class _Kernels(Collector):
    """What the engine's compiler has done since the process was started."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The compiler's counters as they stand."""
        tally = self._engine.compilations
        kernels = CounterMetricFamily(
            "gradwire_kernels", "Kernels compiled by this process.", labels=["outcome"]
        )
        kernels.add_metric(["compiled"], tally.compiled)
        kernels.add_metric(["failed"], tally.failed)
        yield kernels
        yield CounterMetricFamily(
            "gradwire_kernel_seconds", "Seconds spent on compiling kernels.", tally.seconds
        )
