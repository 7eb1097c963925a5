"""What an operator's Prometheus reads at `/metrics`; `docs/operations.md` explains each metric.

Each app has a registry of its own. Where several workers share a port they share a directory too
(`PROMETHEUS_MULTIPROC_DIR`, which `gradwire serve` makes), in which each keeps its figures, so that
whichever worker is asked answers for all of them. What is not an event but a state is written down
when the worker is asked, and every second where others may be asked instead.
"""

from __future__ import annotations

import logging
import os
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from gradwire_engine.errors import EngineError

from .exchange import QUEUE

if TYPE_CHECKING:
    from .app import Service
    from .exchange import Exchange

__all__ = ["CONTENT_TYPE", "DIRECTORY", "REFRESH_SECONDS", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST

_log = logging.getLogger("gradwire_service")

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that names the directory which workers share."""

REFRESH_SECONDS = 1.0
"""How old the state of another worker may be."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

Labels = tuple[str, ...]
_Answer = tuple[str, str, int, str]  # route, method, status, code


class Metrics:
    """The metrics of one app.

    Attributes:
        shared: The directory that this worker shares with others, if there are any.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        given = environment.get(DIRECTORY)
        self.shared = Path(given) if given else None
        self._registry = CollectorRegistry()
        if self.shared is None:
            ProcessCollector(registry=self._registry)
            PlatformCollector(registry=self._registry)
        # Looking a labelled one up takes longer than counting.
        self._of_requests: dict[_Answer, tuple[Counter, Histogram]] = {}
        self._of_steps: dict[tuple[str, str], Histogram] = {}
        self._seen: dict[tuple[Counter, Labels], float] = {}
        # What was observed and is not added up yet.
        self._answered: dict[_Answer, list[float]] = {}
        self._bytes_in = self._bytes_out = 0

        self._requests = self._counter(
            "gradwire_requests", "Requests answered.", "route", "method", "status", "code"
        )
        self._seconds = self._histogram(
            "gradwire_request_seconds",
            "Seconds from a request's first byte to its answer's last.",
            "route",
        )
        self._bytes = self._counter(
            "gradwire_body_bytes", "Bytes of bodies, as they were sent.", "direction"
        )
        self._received = self._bytes.labels("received")
        self._sent = self._bytes.labels("sent")
        self._queued = self._histogram(
            "gradwire_queue_seconds", "Seconds that a request waited for a thread.", "pool"
        )
        self._steps = self._histogram(
            "gradwire_run_seconds",
            "Seconds of each step of a run: decode, compile (waiting for it), execute, encode.",
            "step",
        )
        self._runs = self._counter("gradwire_runs", "Runs, by the tier that executed them.", "tier")
        self._kernels = self._counter("gradwire_kernels", "Kernels compiled.", "outcome")
        self._kernel_seconds = self._counter(
            "gradwire_kernel_seconds", "Seconds spent on compiling kernels."
        )
        self._kernel_cache = self._counter(
            "gradwire_kernel_cache", "Kernels looked for in the cache on disk.", "outcome"
        )
        self._kernel_cache_bytes = self._gauge(
            "gradwire_kernel_cache_bytes", "Bytes of the cache of kernels on disk.", "mostrecent"
        )
        self._graphs = self._counter(
            "gradwire_session_cache", "Uses of a session, by whether its graph was kept.", "outcome"
        )
        self._kept = self._gauge("gradwire_cached_sessions", "Graphs kept in memory.", "livesum")
        self._sessions = self._gauge(
            "gradwire_sessions", "Sessions in the store, of all owners.", "mostrecent"
        )
        self._jobs = self._gauge(
            "gradwire_jobs", "Requests on threads, and waiting for one.", "livesum", "pool", "state"
        )
        self._bodies = self._gauge(
            "gradwire_held_body_bytes", "Memory that request bodies take.", "livesum"
        )
        self._memory = self._gauge(
            "gradwire_memory_bytes", "Resident memory of a server process.", "liveall"
        )
        self._draining = self._gauge(
            "gradwire_draining", "Server processes that take no new requests.", "livesum"
        )

    def observe(self, exchange: Exchange) -> None:
        """Take a request that is done; `add_up` has to follow, once for any number of them."""
        key = exchange.route, exchange.method, exchange.status, exchange.code
        answered = self._answered.get(key)
        if answered is None:
            answered = self._answered[key] = []
        answered.append(exchange.seconds)
        self._bytes_in += exchange.received
        self._bytes_out += exchange.sent
        if exchange.tier:
            self._runs.labels(exchange.tier).inc()
        if exchange.watch is None:
            return
        for name, _, seconds in exchange.watch.steps:
            step = name, exchange.pool
            if step not in self._of_steps:
                queued = name == QUEUE
                of = self._queued.labels(exchange.pool) if queued else self._steps.labels(name)
                self._of_steps[step] = of
            self._of_steps[step].observe(seconds)

    def add_up(self) -> None:
        """Add what was observed to the figures: each of them is locked, and may be in a file."""
        answered, self._answered = self._answered, {}
        received, self._bytes_in = self._bytes_in, 0
        sent, self._bytes_out = self._bytes_out, 0
        self._received.inc(received)
        self._sent.inc(sent)
        for key, seconds in answered.items():
            try:
                self._add_up(key, seconds)
            except Exception:  # the others are to be counted as well
                _log.exception("requests that were answered could not be counted")

    def _add_up(self, key: _Answer, seconds: Sequence[float]) -> None:
        if key not in self._of_requests:
            route, method, status, code = key
            counter = self._requests.labels(route, method, str(status), code)
            self._of_requests[key] = counter, self._seconds.labels(route)
        requests, histogram = self._of_requests[key]
        _observe_all(histogram, seconds)
        requests.inc(len(seconds))

    def refresh(self, service: Service) -> None:
        """Write down the state of this process."""
        done = service.engine.compilations
        self._reached(self._kernels, done.compiled, "compiled")
        self._reached(self._kernels, done.failed, "failed")
        self._reached(self._kernel_seconds, done.seconds)
        self._reached(self._kernel_cache, done.found, "hit")
        self._reached(self._kernel_cache, done.missed, "miss")
        self._reached(self._graphs, service.sessions.copies.hits, "hit")
        self._reached(self._graphs, service.sessions.copies.misses, "miss")
        self._kept.set(len(service.sessions.copies))
        for name, pool in (("light", service.light_pool), ("run", service.heavy_pool)):
            self._jobs.labels(name, "running").set(pool.running)
            self._jobs.labels(name, "waiting").set(pool.waiting)
        self._bodies.set(service.bodies.taken)
        self._memory.set(resident_bytes())
        self._draining.set(service.draining.is_set())

    def text(self, service: Service) -> bytes:
        """The exposition in Prometheus's text format; asks store and disk, so it may block."""
        self.refresh(service)
        self._kernel_cache_bytes.set(service.engine.cache_bytes())
        with suppress(EngineError):  # without its store a server has all the more to tell
            self._sessions.set(service.store.count())
        if self.shared is None:
            return generate_latest(self._registry)
        self._forget_the_dead()
        of_all = CollectorRegistry()
        MultiProcessCollector(of_all, str(self.shared))  # type: ignore[no-untyped-call]
        return generate_latest(of_all)

    def _reached(self, counter: Counter, value: float, *labels: str) -> None:
        """A counter whose events are counted elsewhere stands at a value now."""
        before = self._seen.get((counter, labels), 0.0)
        (counter.labels(*labels) if labels else counter).inc(max(0.0, value - before))
        self._seen[counter, labels] = value

    def _forget_the_dead(self) -> None:
        """A worker that died has no state any more; what it counted stays counted."""
        assert self.shared is not None
        for file in self.shared.glob("gauge_live*.db"):
            pid = int(file.stem.rpartition("_")[2])
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                with suppress(FileNotFoundError):  # another worker is at it too
                    mark_process_dead(pid, str(self.shared))  # type: ignore[no-untyped-call]
            except PermissionError:
                pass  # somebody's: it lives

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=_SECONDS, registry=self._registry)

    def _gauge(self, name: str, text: str, of_workers: str, *labels: str) -> Gauge:
        """A gauge; `of_workers` says how those of several are told, as prometheus_client has it."""
        return Gauge(
            name,
            text,
            labels,
            registry=self._registry,
            multiprocess_mode=of_workers,  # type: ignore[arg-type] # one of its words
        )


def _observe_all(histogram: Histogram, values: Sequence[float]) -> None:
    """As `observe` for each value; a crowd of small ones would take longer to count than to serve.

    That there are a sum and buckets behind a histogram is not promised: a test compares.
    """
    bounds, buckets = histogram._upper_bounds, histogram._buckets
    counts = [0] * len(buckets)
    for value in values:
        counts[bisect_left(bounds, value)] += 1
    histogram._sum.inc(sum(values))
    for bucket, number in zip(buckets, counts, strict=True):
        if number:
            bucket.inc(number)


def resident_bytes() -> int:
    """Memory of this process as the system sees it; 0 where it does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
