"""OpenTelemetry: one span a request, with a child for each step of its work, sent over OTLP/HTTP.

Off, and not imported, unless `OTEL_EXPORTER_OTLP_ENDPOINT` (or its form for traces alone) is set.
Everything else is configured by the variables of the OpenTelemetry specification as well: sampling,
headers, batches, the name of the service. A span is made when its request is done, with the times
that were taken on the way; the caller's `traceparent` is its parent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from .exchange import Exchange

__all__ = ["Tracing", "import_opentelemetry", "open_tracing", "wants_tracing"]

_SWITCHES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def wants_tracing(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment names a collector for traces, and does not switch them off."""
    off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    none = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
    return any(environment.get(name) for name in _SWITCHES) and not (off or none)


def import_opentelemetry() -> None:
    """Import what tracing needs.

    Raises:
        ModuleNotFoundError: The extra `otel` is not installed.
    """
    import opentelemetry.exporter.otlp.proto.http
    import opentelemetry.sdk.trace  # noqa: F401 # is it there?


def open_tracing() -> Tracing | None:
    """The tracing that the environment asks for, if any.

    Raises:
        ModuleNotFoundError: The extra `otel` is not installed.
    """
    return Tracing() if wants_tracing() else None


class Tracing:
    """Makes spans and sends them in the background; to be closed, which sends the rest."""

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        version = metadata.version("gradwire")
        about: dict[str, Any] = {SERVICE_VERSION: version, "process.pid": os.getpid()}
        if "service.name" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
            about[SERVICE_NAME] = os.environ.get("OTEL_SERVICE_NAME") or "gradwire"
        self._provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("gradwire_service", version)
        self._propagator = TraceContextTextMapPropagator()

    def record(self, exchange: Exchange) -> None:
        """Make the span of a request that is done, which learns the id of its trace.

        It does so whether or not the span is sampled.
        """
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        # Spans are dated by the wall clock, steps were taken on one that never jumps.
        offset = time.time() - time.perf_counter()

        def nanoseconds(at: float) -> int:
            return int((at + offset) * 1e9)

        attributes = _attributes(exchange)
        method = attributes["http.request.method"].replace("_OTHER", "HTTP")
        span = self._tracer.start_span(
            method if exchange.route == "none" else f"{method} {exchange.route}",
            self._parent(exchange),
            SpanKind.SERVER,
            attributes=attributes,
            start_time=nanoseconds(exchange.began),
        )
        end = exchange.began + exchange.seconds
        if span.is_recording():
            if exchange.fault is not None:
                span.record_exception(exchange.fault, timestamp=nanoseconds(end))
            if exchange.status >= 500:
                span.set_status(Status(StatusCode.ERROR, exchange.code or None))
            inside = set_span_in_context(span)
            for name, began, seconds in exchange.watch.steps if exchange.watch is not None else ():
                step = self._tracer.start_span(name, inside, start_time=nanoseconds(began))
                step.end(nanoseconds(began + seconds))
        span.end(nanoseconds(end))
        exchange.trace_id = f"{span.get_span_context().trace_id:032x}"

    def close(self) -> None:
        """Send what is left, and stop."""
        self._provider.shutdown()

    def _parent(self, exchange: Exchange) -> Context:
        """What the caller's `traceparent` and `tracestate` say; a sound one is the parent."""
        from opentelemetry.context import Context

        carrier = {
            name: value
            for name in ("traceparent", "tracestate")
            if (value := _header(exchange, name)) is not None
        }
        return self._propagator.extract(carrier, Context())


_METHODS = frozenset(
    ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")
)
"""Those that the semantic conventions know."""


def _attributes(exchange: Exchange) -> dict[str, Any]:
    """A request in the words of the semantic conventions for HTTP servers, and a few of our own."""
    scope = exchange.scope
    given: str = scope.get("method", "")
    found: dict[str, Any] = {
        "http.request.method": given if given in _METHODS else "_OTHER",
        "http.response.status_code": exchange.status,
        "http.request.body.size": exchange.received,
        "http.response.body.size": exchange.sent,
        "gradwire.request_id": exchange.request_id,
    }
    if given and given not in _METHODS:
        found["http.request.method_original"] = given[:50]
    if exchange.route != "none":
        found["http.route"] = exchange.route
    if scope.get("path") is not None:
        found["url.path"] = scope["path"][:1000]
        found["url.scheme"] = scope.get("scheme", "http")
        found["network.protocol.version"] = scope.get("http_version", "1.1")
    if query := scope.get("query_string"):
        found["url.query"] = query[:1000].decode("latin-1")
    if agent := _header(exchange, "user-agent"):
        found["user_agent.original"] = agent[:300]
    for side, place in (("client", scope.get("client")), ("server", scope.get("server"))):
        if place:
            found[f"{side}.address"] = place[0]
            if place[1]:
                found[f"{side}.port"] = place[1]
    if exchange.status >= 500:
        fault = exchange.fault
        kind = type(fault).__qualname__ if fault is not None else exchange.code
        found["error.type"] = kind or str(exchange.status)
    for name in ("key", "code", "tier"):
        if value := getattr(exchange, name):
            found[f"gradwire.{name}"] = value
    return found


def _header(exchange: Exchange, name: str) -> str | None:
    wanted = name.encode("ascii")
    for key, value in exchange.scope.get("headers", ()):
        if key == wanted:
            return str(value.decode("latin-1"))
    return None
