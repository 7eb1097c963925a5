"""What an operator sees: the log, `Server-Timing`, and figures of several workers."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import numpy as np
import pytest
from prometheus_client import Histogram
from prometheus_client.parser import text_string_to_metric_families

from gradwire.wire import safetensors
from gradwire_service.cli import main
from gradwire_service.exchange import Exchange
from gradwire_service.local import LocalTransport
from gradwire_service.logs import JsonFormatter, Lines, TextFormatter, lines_alone, log_request
from gradwire_service.metrics import _SECONDS, Metrics, _observe_all
from gradwire_service.settings import Settings
from gradwire_service.sight import Sight
from tests.service.serving import Server, problem

X = {"inputs": {"x": [1.0, 2.0]}}
GRAPH: dict[str, Any] = {
    "inputs": [{"name": "x", "shape": [2]}],
    "nodes": [
        {"op": "log", "inputs": ["x"], "name": "y"},
        {"op": "sum", "inputs": ["y"], "name": "total"},
    ],
}
STEPS = ["queue", "decode", "compile", "execute", "encode"]


def lines(server: Server) -> list[dict[str, Any]]:
    """The log, each line of which has to be an object."""
    return [json.loads(line) for line in server.log().splitlines()]


def line_of(server: Server, request_id: str) -> dict[str, Any]:
    """The one line about a request; it is written when the answer is out already."""
    for _ in range(1000):
        if found := [line for line in lines(server) if line.get("request_id") == request_id]:
            (line,) = found
            return line
        time.sleep(0.01)
    raise AssertionError(f"no line about {request_id}")


def make(http: httpx.Client) -> None:
    """The session `m`."""
    assert http.post("/v1/sessions", json={"name": "m", "inputs": GRAPH["inputs"]}).is_success
    assert http.post("/v1/sessions/m/nodes", json={"nodes": GRAPH["nodes"]}).is_success


# -- the log ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def telling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that logs every request."""
    with Server(tmp_path_factory.mktemp("telling") / "data", log_level="info") as server:
        make(server.http)
        yield server


def test_a_request_is_a_line(telling: Server) -> None:
    content = json.dumps(X).encode()
    kind = {"Content-Type": "application/json", "X-Request-Id": "line:1"}
    answer = telling.http.post("/v1/sessions/m/forward", content=content, headers=kind)
    line = line_of(telling, "line:1")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line.pop("duration_ms") > 0
    assert line == {
        "level": "info",
        "logger": "gradwire.requests",
        "message": "request",
        "request_id": "line:1",
        "method": "POST",
        "route": "/v1/sessions/{sid}/forward",
        "status": 200,
        "bytes_in": len(content),
        "bytes_out": len(answer.content),
        "tier": "interpreted",
    }


def test_requests_of_one_turn_are_told_of_together(caplog: pytest.LogCaptureFixture) -> None:
    """Each of them, after the turn, whatever goes wrong with one."""
    counted: list[Exchange] = []

    class Counter(Metrics):
        def observe(self, exchange: Exchange) -> None:
            if exchange.request_id == "b":
                raise OSError("no room")
            counted.append(exchange)

    async def turn(sight: Sight) -> None:
        for exchange in exchanges:
            sight.report(exchange)
        assert counted == []
        await asyncio.sleep(0)
        assert counted == [exchanges[0], exchanges[2]]
        sight.report(last)
        await asyncio.sleep(0)

    exchanges = [Exchange(id, {}) for id in "abc"]
    last = Exchange("d", {})
    asyncio.run(turn(Sight(Counter(), None)))
    assert counted[2:] == [last]
    assert "could not be told of" in caplog.text


def test_a_refusal_has_its_code(telling: Server) -> None:
    body = problem(telling.http.get("/v1/sessions/nobody%0A{}"), "session_not_found")
    line = line_of(telling, body["request_id"])
    assert (line["status"], line["code"]) == (404, "session_not_found")
    assert "nobody" not in str(line)


def test_so_has_what_never_reached_the_app(telling: Server) -> None:
    host, port = telling.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"no such thing as HTTP\r\n\r\n")
        answer = connection.recv(65536).decode()
    request_id = re.search(r"(?i)x-request-id: (\w+)", answer)
    assert request_id
    line = line_of(telling, request_id[1])
    assert (line["status"], line["code"], line["route"]) == (400, "malformed_body", "none")
    assert 'code="malformed_body",method="other",route="none",status="400"' in (
        telling.http.get("/metrics").text
    )


def test_probes_are_not_told(telling: Server) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert telling.http.get(path).is_success
    assert not {"/healthz", "/readyz", "/metrics"} & {line.get("route") for line in lines(telling)}


def test_the_server_below_logs_in_the_same_form(telling: Server) -> None:
    assert any(line["logger"].startswith("uvicorn") for line in lines(telling))


def test_keys_are_told_by_their_id_alone(tmp_path: Path) -> None:
    from gradwire_service.keys import mint
    from gradwire_service.sqlite_store import SqliteStore

    key, row = mint("alice")
    store = SqliteStore(tmp_path / "data")
    store.add_key(row)
    store.close()
    with Server(tmp_path / "data", keys="required", log_level="debug") as server:
        for given, status in ((key, 200), (key[:-1] + "!", 401), (key[:-4] + "aaaa", 401)):
            headers = {"Authorization": f"Bearer {given}", "X-Request-Id": f"key:{status}"}
            url = f"/v1/sessions?limit=1&key={given}"
            assert server.http.get("/v1/sessions", headers=headers).status_code == status
            assert not server.http.get(url, headers=headers).is_success
        server.stop()
        told = [line for line in lines(server) if line.get("request_id", "").startswith("key:")]
        assert {line.get("key") for line in told} == {row.id, None}
        assert key.split("_", 2)[2][:20] not in server.log()


def test_an_internal_fault_is_logged_with_its_trace(
    app: LocalTransport, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a fault\nof ours")

    http = httpx.Client(transport=app, base_url="http://local")
    monkeypatch.setattr(app.app.state.service.sessions, "find", fail)
    answer = http.get("/v1/sessions/m", headers={"X-Request-Id": "fault:1"})
    assert set(problem(answer, "internal")) == {
        *("type", "title", "status", "detail", "code", "request_id")
    }
    (record,) = [r for r in caplog.records if r.name == "gradwire.requests"]
    line = json.loads(JsonFormatter().format(record))
    assert (line["level"], line["request_id"], line["code"]) == ("error", "fault:1", "internal")
    assert "RuntimeError: a fault" in line["trace"]
    assert "test_sight.py" in line["trace"]
    text = TextFormatter().format(record)
    assert text.splitlines()[0].endswith(" bytes_in=0 bytes_out=177 code=internal")
    assert text.splitlines()[-1] == "of ours"


def test_text_cannot_write_lines_of_its_own() -> None:
    record = logging.LogRecord("a", logging.INFO, "", 0, "one\r\ntwo %s", ("\ud800",), None)
    assert TextFormatter().format(record).endswith(" INFO    one\\r\\ntwo \ud800")
    assert json.loads(JsonFormatter().format(record))["message"] == "one\r\ntwo \ud800"


def test_the_form_can_be_chosen(tmp_path: Path) -> None:
    with Server(tmp_path / "data", log_level="info", log_format="text") as server:
        server.http.get("/v1/limits", headers={"X-Request-Id": "text:1"})
        server.stop()
        (line,) = [line for line in server.log().splitlines() if "text:1" in line]
    assert re.match(r"\S+Z INFO    request request_id=text:1 method=GET route=/v1/limits ", line)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """The logger of requests, whose records come to our handler alone."""
    lines = Lines()
    lines.setFormatter(JsonFormatter())
    logger = logging.getLogger("gradwire.requests")
    monkeypatch.setattr(logger, "handlers", [lines])
    monkeypatch.setattr(logger, "propagate", False)
    logger.setLevel(logging.INFO)
    yield logger
    logger.setLevel(logging.NOTSET)


class Watched:
    """Somebody who wants to see records, in each way that there is."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        self.seen.append(record.getMessage())
        return True

    def factory(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = logging.LogRecord(*args, **kwargs)
        self.filter(record)
        return record

    def handler(self) -> logging.Handler:
        handler = logging.Handler()
        handler.emit = self.filter  # type: ignore[assignment, method-assign]
        return handler


WAYS: dict[str, Callable[[logging.Logger, Watched], object]] = {
    "a filter of the logger": lambda logger, who: logger.addFilter(who.filter),
    "a filter of the handler": lambda logger, who: logger.handlers[0].addFilter(who.filter),
    "a handler": lambda logger, who: logger.addHandler(who.handler()),
    "records": lambda _, who: logging.setLogRecordFactory(who.factory),
}


@pytest.mark.parametrize("way", WAYS)
def test_whoever_wants_records_gets_them(
    alone: logging.Logger, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exchange, who = Exchange("r"), Watched()
    exchange.status = 200
    log_request(lines_alone(), exchange)
    plain = json.loads(capsys.readouterr().err)
    WAYS[way](alone, who)
    try:
        log_request(lines_alone(), exchange)
        exchange.probe = True
        log_request(lines_alone(), exchange)
    finally:
        alone.filters.clear()
        logging.setLogRecordFactory(logging.LogRecord)
    assert who.seen == ["request"]
    assert {**json.loads(capsys.readouterr().err), "time": plain["time"]} == plain


# -- Server-Timing ---------------------------------------------------------------------------------


def timing(answer: httpx.Response) -> dict[str, float]:
    parts = [part.split(";dur=") for part in answer.headers["server-timing"].split(", ")]
    return {name: float(milliseconds) for name, milliseconds in parts}


RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "forward": ("/v1/sessions/m/forward", X),
    "vjp": ("/v1/sessions/m/vjp", X),
    "jvp": ("/v1/sessions/m/jvp", {**X, "tangents": {"x": [1.0, 0.0]}}),
    "execute": ("/v1/execute", {**GRAPH, "run": {"mode": "forward", **X}}),
}


@pytest.mark.parametrize("run", RUNS)
def test_every_run_says_how_long_its_steps_took(telling: Server, run: str) -> None:
    path, body = RUNS[run]
    answer = telling.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    steps = timing(answer)
    assert list(steps) == STEPS
    assert all(milliseconds >= 0 for milliseconds in steps.values())
    assert sum(steps.values()) <= answer.elapsed.total_seconds() * 1e3


@pytest.mark.parametrize("run", ["forward", "vjp"])
def test_binary_runs_do_too(telling: Server, run: str) -> None:
    x = np.array([1, 2], np.float32)
    content = b"".join(bytes(c) for c in safetensors.pack({"inputs/x": x}, None, "request"))
    kind = {"Content-Type": safetensors.MEDIA_TYPE}
    answer = telling.http.post(f"/v1/sessions/m/{run}", content=content, headers=kind)
    assert answer.headers["content-type"] == safetensors.MEDIA_TYPE
    assert list(timing(answer)) == STEPS


@pytest.mark.parametrize("run", RUNS)
def test_a_refused_run_says_how_far_it_came(telling: Server, run: str) -> None:
    path, body = RUNS[run]
    broken = telling.http.post(path, content=b"{", headers={"Content-Type": "application/json"})
    problem(broken, "malformed_body")
    assert list(timing(broken)) == ["queue", "decode"]
    options = {"inputs": {"x": [-1.0, 2.0]}, "nan_policy": "error"}
    body = {**body, "run": {**body["run"], **options}} if "run" in body else {**body, **options}
    failed = telling.http.post(path, json=body)
    problem(failed, "non_finite")
    assert list(timing(failed)) == ["queue", "decode", "execute"]


def test_what_is_no_run_has_no_steps(telling: Server) -> None:
    for answer in (telling.http.get("/v1/sessions/m"), telling.http.get("/v1/sessions/nobody")):
        assert "server-timing" not in answer.headers


# -- workers ---------------------------------------------------------------------------------------


def test_a_busy_worker_is_not_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute, and not the five seconds of uvicorn: large JSON holds the interpreter longer."""
    seen = []

    class Supervisor:
        def __init__(self, config: Any, sockets: list[socket.socket]) -> None:
            seen.append(config)
            sockets[0].close()

        def run(self) -> None:
            seen.append(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).is_dir())

    monkeypatch.setattr("uvicorn.supervisors.Multiprocess", Supervisor)
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    logging_before = logging.root.handlers[:], logging.root.level
    try:
        with mock.patch.dict(os.environ):
            command = ["serve", "--workers", "2", "--port", "0", "--data-dir", str(tmp_path)]
            assert main(command) == 0
            shared = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        logging.root.handlers[:], logging.root.level = logging_before
    config, made = seen
    assert config.timeout_worker_healthcheck == 60
    assert made
    assert not shared.exists()


def eventually(holds: Callable[[], bool]) -> None:
    """Wait for what has to come; how long it takes depends on the machine."""
    for _ in range(600):
        with suppress(httpx.TransportError):
            if holds():
                return
        time.sleep(0.05)
    pytest.fail("it does not come")


def samples(http: httpx.Client) -> list[tuple[str, dict[str, str], float]]:
    text = http.get("/metrics").text
    return [
        (s.name, s.labels, s.value) for f in text_string_to_metric_families(text) for s in f.samples
    ]


def total(found: list[tuple[str, dict[str, str], float]], name: str, **labels: str) -> float:
    wanted = labels.items()
    return sum(value for n, given, value in found if n == name and wanted <= given.items())


@pytest.mark.slow
def test_whichever_worker_is_asked_answers_for_all(tmp_path: Path) -> None:
    with Server(tmp_path / "data", workers=2) as server:
        make(server.http)

        def asked(count: int) -> None:
            for _ in range(count):  # over connections of their own: either worker takes them
                httpx.get(f"{server.url}/v1/limits").raise_for_status()
                httpx.post(f"{server.url}/v1/sessions/m/forward", json=X).raise_for_status()

        def seen() -> list[tuple[str, dict[str, str], float]]:
            with httpx.Client(base_url=server.url) as http:
                return samples(http)

        asked(20)

        def limits() -> float:
            return total(seen(), "gradwire_requests_total", route="/v1/limits", status="200")

        eventually(lambda: limits() == 20)  # requests are counted when they are answered
        for _ in range(6):
            found = seen()
            assert limits() == 20
            assert total(found, "gradwire_runs_total", tier="interpreted") == 20
            assert total(found, "gradwire_run_seconds_count", step="execute") == 20
            assert total(found, "gradwire_sessions") == 1
            of_processes = [labels["pid"] for n, labels, _ in found if n == "gradwire_memory_bytes"]
            assert len(set(of_processes)) == 2
        killed = server.workers()[0]
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: killed not in server.workers())
        asked(1)
        eventually(lambda: limits() == 21)

        def living() -> set[str]:
            return {labels["pid"] for n, labels, _ in seen() if n == "gradwire_memory_bytes"}

        eventually(lambda: len(living()) == 2 and str(killed) not in living())
    assert server.process.returncode == 0


def test_one_worker_tells_its_state(http: httpx.Client) -> None:
    make(http)
    for _ in range(3):
        http.post("/v1/sessions/m/forward", json=X).raise_for_status()
    found = samples(http)
    assert total(found, "gradwire_sessions") == 1
    assert total(found, "gradwire_cached_sessions") == 1
    assert total(found, "gradwire_session_cache_total", outcome="hit") == 3
    assert total(found, "gradwire_session_cache_total", outcome="miss") == 1
    assert total(found, "gradwire_jobs", pool="light", state="running") == 1, "this very request"
    assert total(found, "gradwire_jobs", pool="run", state="waiting") == 0
    assert total(found, "gradwire_memory_bytes") > 10e6
    assert total(found, "gradwire_queue_seconds_count", pool="run") == 3
    assert total(found, "gradwire_draining") == 0


def test_every_metric_is_documented(http: httpx.Client) -> None:
    page = Path("docs/operations.md").read_text()
    families = text_string_to_metric_families(http.get("/metrics").text)
    names = {f.name for f in families if f.name.startswith("gradwire_")}
    names = {name for name in names if not name.endswith("_created")}
    assert len(names) > 15
    assert {name for name in names if f"`{name}`" not in page} == set()


def test_settings_know_the_forms() -> None:
    assert Settings().log_format is None
    with pytest.raises(ValueError, match="log_format"):
        Settings(log_format="xml")  # type: ignore[arg-type]


def test_what_is_counted_in_a_row_is_counted_as_one_by_one() -> None:
    values = [0.0, 0.0005, 0.001, 0.0010001, 0.3, 0.3, 59.0, 60.0, 61.0, 1e9]
    histograms = [
        Histogram("h", "As the service's.", buckets=_SECONDS, registry=None) for _ in "12"
    ]
    for value in values:
        histograms[0].observe(value)
    _observe_all(histograms[1], values[:4])
    _observe_all(histograms[1], values[4:])
    _observe_all(histograms[1], [])
    told = [
        [(s.name, s.labels, s.value) for m in h.collect() for s in m.samples] for h in histograms
    ]
    kept = [[sample for sample in samples if "created" not in sample[0]] for samples in told]
    assert kept[0] == kept[1]
