"""Traces: a real server sends them to a collector in this process, which reads the protobuf."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from gradwire_service.tracing import wants_tracing
from tests.service.serving import Server
from tests.service.test_sight import STEPS, X, line_of, make

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Collector(ThreadingHTTPServer):
    """Takes traces over OTLP/HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.paths: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def of(self, request_id: str) -> Span:
        """The span of a request, which comes some time after its answer."""
        for _ in range(600):
            for span in self.spans:
                if attributes(span).get("gradwire.request_id") == request_id:
                    return span
            time.sleep(0.05)
        raise AssertionError(f"no span of {request_id}")

    def children(self, span: Span) -> list[Span]:
        found = [child for child in self.spans if child.parent_span_id == span.span_id]
        return sorted(found, key=lambda child: child.start_time_unix_nano)


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        message = ExportTraceServiceRequest.FromString(body)
        self.server.paths.add(self.path)
        for resource in message.resource_spans:
            self.server.resources.append(plain(resource.resource.attributes))
            for scope in resource.scope_spans:
                self.server.spans.extend(scope.spans)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def plain(given: Any) -> dict[str, Any]:
    """Attributes as they were set."""
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in given}


def attributes(span: Span) -> dict[str, Any]:
    return plain(span.attributes)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        server = Server(tmp_path_factory.mktemp("traced") / "data", log_level="info")
    with server:
        make(server.http)
        yield server


def run(server: Server, request_id: str, **headers: str) -> httpx.Response:
    named = {"X-Request-Id": request_id, "User-Agent": "test/1", **headers}
    return server.http.post("/v1/sessions/m/forward?a=b", json=X, headers=named)


def test_a_request_is_a_span_with_its_steps_inside(traced: Server, collector: Collector) -> None:
    before = time.time_ns()
    answer = run(traced, "span:1")
    span = collector.of("span:1")
    assert collector.paths == {"/v1/traces"}
    assert span.name == "POST /v1/sessions/{sid}/forward"
    assert span.kind == Span.SPAN_KIND_SERVER
    assert (span.status.code, span.parent_span_id) == (Status.STATUS_CODE_UNSET, b"")
    found = attributes(span)
    assert found.pop("client.port") > 0
    assert found == {
        "http.request.method": "POST",
        "http.route": "/v1/sessions/{sid}/forward",
        "http.response.status_code": 200,
        "http.request.body.size": len(answer.request.content),
        "http.response.body.size": len(answer.content),
        "url.path": "/v1/sessions/m/forward",
        "url.query": "a=b",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "user_agent.original": "test/1",
        "client.address": "127.0.0.1",
        "server.address": "127.0.0.1",
        "server.port": int(traced.url.rpartition(":")[2]),
        "gradwire.request_id": "span:1",
        "gradwire.tier": "interpreted",
    }
    steps = collector.children(span)
    assert [step.name for step in steps] == STEPS
    assert before < span.start_time_unix_nano < span.end_time_unix_nano < time.time_ns()
    at = span.start_time_unix_nano
    for step in steps:
        assert at <= step.start_time_unix_nano <= step.end_time_unix_nano
        at = step.end_time_unix_nano - 1000  # two roundings to nanoseconds
    assert at <= span.end_time_unix_nano
    about = collector.resources[0]
    assert about["service.name"] == "gradwire"
    assert about["process.pid"] == traced.process.pid


def test_the_callers_trace_goes_on(traced: Server, collector: Collector) -> None:
    run(traced, "span:2", traceparent=PARENT, tracestate="vendor=1")
    span = collector.of("span:2")
    assert span.trace_id.hex() == PARENT.split("-")[1]
    assert span.parent_span_id.hex() == PARENT.split("-")[2]
    assert span.trace_state == "vendor=1"
    assert line_of(traced, "span:2")["trace_id"] == PARENT.split("-")[1]


def test_an_unsound_parent_is_none(traced: Server, collector: Collector) -> None:
    for k, parent in enumerate(["", "00-0-0-0", PARENT.replace("4bf9", "zzzz"), "x" * 3000]):
        assert run(traced, f"odd:{k}", traceparent=parent).status_code == 200
        span = collector.of(f"odd:{k}")
        assert span.parent_span_id == b""
        assert line_of(traced, f"odd:{k}")["trace_id"] == span.trace_id.hex()


def test_who_does_not_sample_is_followed(traced: Server, collector: Collector) -> None:
    parent = PARENT.replace("4bf9", "5bf9")
    run(traced, "span:3", traceparent=parent[:-1] + "0")
    run(traced, "span:4")
    collector.of("span:4")
    assert not any(attributes(s).get("gradwire.request_id") == "span:3" for s in collector.spans)
    assert line_of(traced, "span:3")["trace_id"] == parent.split("-")[1]


def test_refusals_are_no_errors_of_the_server(traced: Server, collector: Collector) -> None:
    traced.http.get("/v1/sessions/nobody", headers={"X-Request-Id": "span:5"})
    span = collector.of("span:5")
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert attributes(span)["gradwire.code"] == "session_not_found"
    traced.http.request("PROPFIND", "/pot", headers={"X-Request-Id": "span:6"})
    span = collector.of("span:6")
    assert span.name == "HTTP"
    found = attributes(span)
    assert (found["http.request.method"], found["http.request.method_original"]) == (
        "_OTHER",
        "PROPFIND",
    )
    assert "http.route" not in found


def test_what_is_left_is_sent_at_the_end(tmp_path: Path, collector: Collector) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.url}/own/path")
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
        patch.setenv("OTEL_SERVICE_NAME", "mine")
        with Server(tmp_path / "data", workers=2) as server:
            server.http.get("/v1/limits", headers={"X-Request-Id": "last:1"})
    collector.of("last:1")
    assert "/own/path" in collector.paths
    collector.paths.discard("/own/path")
    assert collector.resources[-1]["service.name"] == "mine"


def test_a_collector_that_is_away_costs_no_request(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
        patch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        with Server(tmp_path / "data") as server:
            for _ in range(20):
                assert server.http.get("/v1/limits").status_code == 200
            assert server.stop() == 0


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_it_is_the_environment_that_asks(environment: Mapping[str, str], wanted: bool) -> None:
    assert wants_tracing(environment) is wanted


def test_nothing_is_imported_unless_it_is_wanted() -> None:
    code = (
        "import sys; from gradwire_service.local import transport; import httpx; "
        "c = httpx.Client(transport=transport(), base_url='http://local'); "
        "assert c.get('/v1/limits').is_success; "
        "print(sorted(n for n in sys.modules if n.startswith(('opentelemetry', 'google'))))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
