"""The guards of a real server, asked by sockets that do not behave."""

from __future__ import annotations

import gzip
import json
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import numpy as np
import pytest

from gradwire.wire import safetensors
from gradwire_service.bodies import zstd
from tests.contract.test_error_codes import node, slow_graph
from tests.service.serving import Server, problem

JSON = {"Content-Type": "application/json"}
BINARY = {"Content-Type": safetensors.MEDIA_TYPE}
HURRIED: dict[str, Any] = {
    "inputs": [],
    "nodes": [node("const", attrs={"value": 1.0})],
    "run": {"mode": "forward", "deadline_ms": 300},
}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd.compress}
QUICK: dict[str, Any] = {
    "inputs": [],
    "nodes": [node("const", attrs={"value": 1.0})],
    "run": {"mode": "forward"},
}


def address(server: Server) -> tuple[str, int]:
    host, port = server.url.removeprefix("http://").split(":")
    return host, int(port)


def connect(server: Server) -> socket.socket:
    return socket.create_connection(address(server), timeout=60)


def rest(connection: socket.socket) -> bytes:
    """What comes until the server ends the connection."""
    answer = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


def read(answer: bytes, status: int, code: str) -> dict[str, Any]:
    """The problem in the bytes of an answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer[:300]
    headers = dict(re.findall(r"(?m)^([\w-]+): (.*?)\r?$", head.decode("latin-1").lower()))
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    document: dict[str, Any] = json.loads(body)
    assert document["code"] == code
    assert document["request_id"] == headers["x-request-id"]
    return document


def post(path: str, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def long_run(**options: Any) -> dict[str, Any]:
    """A run of many steps that nobody would wait for."""
    graph = slow_graph(5000)
    graph["run"].update(options)
    return graph


def eventually(holds: Callable[[], bool]) -> None:
    """Wait for what has to come; how long it takes depends on the machine."""
    for _ in range(1200):
        if holds():
            return
        time.sleep(0.05)
    pytest.fail("it does not come")


# -- clients that are slow -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with little patience."""
    with Server(
        tmp_path_factory.mktemp("hasty") / "data",
        header_seconds=1,
        body_seconds=1,
        header_bytes=8192,
        connections=40,
        max_body_bytes=50_000_000,
        body_memory_bytes=60_000_000,
    ) as running:
        yield running


def test_slowloris(hasty: Server) -> None:
    """Half a request's headers, and a byte now and then: each connection has an end."""
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(hasty)) for _ in range(30)]
        for connection in slow:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: ")
        ended = threading.Event()

        def trickle() -> None:
            while not ended.wait(0.1):
                for connection in slow:
                    with suppress(OSError):
                        connection.sendall(b"a")

        sender = threading.Thread(target=trickle)
        sender.start()
        try:
            assert hasty.http.get("/healthz").status_code == 200
            for connection in slow:
                facts = read(rest(connection), 408, "request_timeout")
                assert facts["seconds"] == 1
                assert facts["received"] > 40
        finally:
            ended.set()
            sender.join()
    assert hasty.http.get("/healthz").status_code == 200


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"\r\n\r\n"])
def test_a_connection_without_a_request_is_closed(hasty: Server, sent: bytes) -> None:
    with connect(hasty) as connection:
        connection.sendall(sent)
        assert rest(connection) == b"" or sent


def test_so_is_one_that_was_kept_and_begins_again(hasty: Server) -> None:
    with connect(hasty) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while b"ok" not in connection.recv(65536):
            pass
        connection.sendall(b"GET /he")
        read(rest(connection), 408, "request_timeout")


def test_a_slow_body_is_given_up(hasty: Server) -> None:
    with connect(hasty) as connection:
        connection.sendall(post("/v1/sessions", "Content-Length: 1000") + b'{"inputs"')
        facts = read(rest(connection), 408, "request_timeout")
    assert facts["received"] == 9
    assert facts["seconds"] >= 1


def test_so_is_one_that_trickles(hasty: Server) -> None:
    ended = threading.Event()
    with connect(hasty) as connection:
        connection.sendall(post("/v1/sessions", "Transfer-Encoding: chunked"))

        def trickle() -> None:
            while not ended.wait(0.05):
                with suppress(OSError):
                    connection.sendall(b"1\r\n \r\n")

        sender = threading.Thread(target=trickle)
        sender.start()
        try:
            read(rest(connection), 408, "request_timeout")
        finally:
            ended.set()
            sender.join()


@pytest.mark.parametrize("request_line", [b"GET /nowhere", b"POST /v1/ops", b"GET /healthz"])
def test_an_endless_body_that_nobody_wants(hasty: Server, request_line: bytes) -> None:
    with connect(hasty) as connection:
        connection.sendall(
            request_line + b" HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        piece = b"400\r\n" + b"x" * 1024 + b"\r\n"
        with suppress(ConnectionResetError, BrokenPipeError):
            while True:  # the server reads on for a moment, then it is over
                connection.sendall(piece)


def test_an_endless_body_to_a_route_that_reads(hasty: Server) -> None:
    before = memory(hasty)
    with connect(hasty) as connection:
        connection.sendall(post("/v1/sessions", "Transfer-Encoding: chunked"))
        piece = b"100000\r\n" + b" " * 2**20 + b"\r\n"
        with suppress(OSError):
            while True:  # what comes after the refusal is read for a moment, and kept nowhere
                connection.sendall(piece)
    assert memory(hasty) - before < 200_000_000
    assert hasty.http.get("/healthz").status_code == 200


def memory(server: Server) -> float:
    text = server.http.get("/metrics").text
    found = re.search(r"^process_resident_memory_bytes (\S+)", text, re.MULTILINE)
    assert found
    return float(found[1])


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that waits longer than a test needs to fill it, on a busy machine too."""
    with Server(
        tmp_path_factory.mktemp("patient") / "data",
        header_seconds=60,
        body_seconds=8,
        connections=40,
        max_body_bytes=50_000_000,
        body_memory_bytes=60_000_000,
    ) as server:
        yield server


def test_bodies_of_all_clients_share_a_memory(patient: Server) -> None:
    """Two of 40 MB are more than a server with 60 MB for bodies takes at a time."""
    with connect(patient) as first:
        first.sendall(post("/v1/sessions", "Content-Length: 40000001") + b" " * 40_000_000)
        answers: list[bytes] = []

        def overloaded() -> bool:
            with connect(patient) as second:
                second.sendall(post("/v1/sessions", "Content-Length: 40000001"))
                with suppress(OSError):
                    second.sendall(b" " * 40_000_000)
                answers.append(second.recv(65536))
            return b" 503 " in answers[-1].partition(b"\r\n")[0]

        assert overloaded(), answers
        assert b'"overloaded"' in answers[-1]
        assert b"retry-after: " in answers[-1].lower()
        read(rest(first), 408, "request_timeout")
    assert (
        patient.http.post("/v1/sessions", content=b" " * 40_000_000, headers=JSON).status_code
        == 400
    )


def test_a_client_that_does_not_read_is_left(hasty: Server) -> None:
    """The answer is far larger than what the sockets hold; its client never reads it."""
    body = json.dumps(
        {
            "inputs": [],
            "nodes": [node("broadcast_to", 0, attrs={"shape": [2**24]}, name="y")],
            "run": {"mode": "forward"},
        }
    ).replace('"nodes": [', '"nodes": [' + json.dumps(QUICK["nodes"][0]) + ", ")
    raw = post("/v1/execute", f"Accept: {safetensors.MEDIA_TYPE}", f"Content-Length: {len(body)}")
    with connect(hasty) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(raw + body.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        watch = select.poll()
        watch.register(connection, 0)  # the end of the connection is always told
        assert watch.poll(60_000)
        assert len(rest(connection)) < 2**26


# -- requests that are no requests -----------------------------------------------------------------


@pytest.mark.parametrize("size", [9_000, 10_000_000])
@pytest.mark.parametrize("place", ["header", "path", "many"])
def test_headers_have_a_bound(hasty: Server, size: int, place: str) -> None:
    head = {
        "header": b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * size,
        "path": b"GET /" + b"a" * size + b" HTTP/1.1\r\nHost: localhost",
        "many": b"GET / HTTP/1.1\r\nHost: localhost" + b"\r\nX-A: b" * (size // 8),
    }[place]
    with connect(hasty) as connection:
        with suppress(OSError):
            connection.sendall(head + b"\r\n\r\n")
        facts = read(rest(connection), 431, "headers_too_large")
    assert facts["limit"] == 8192
    assert facts["actual"] > 8192


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # somebody speaks TLS
        b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX A: b\r\n\r\n",
    ],
)
def test_what_is_not_http_is_told_so(hasty: Server, sent: bytes) -> None:
    with connect(hasty) as connection:
        connection.sendall(sent)
        assert "HTTP/1.1" in read(rest(connection), 400, "malformed_body")["reason"]


def statuses(answers: bytes) -> list[int]:
    """Those of the answers that came one behind the other."""
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+) ", answers)]


@pytest.mark.parametrize("apart", [False, True])
def test_garbage_behind_requests_waits_for_their_answers(hasty: Server, apart: bool) -> None:
    body = json.dumps(long_run(deadline_ms=500)).encode()
    run = post("/v1/execute", f"Content-Length: {len(body)}") + body
    health = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(hasty) as connection:
        connection.sendall(run + health if apart else run + health + b"garbage\r\n\r\n")
        if apart:
            time.sleep(0.2)
            connection.sendall(b"garbage\r\n\r\n")
        answers = rest(connection)
    assert statuses(answers) == [504, 200, 400]
    told = read(answers[answers.rindex(b"HTTP/1.1 400") :], 400, "malformed_body")
    assert told["path"] == "request"


_CHUNKED = post("/v1/execute", "Transfer-Encoding: chunked")


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("chunks", [b"zz\r\n{}\r\n", b"2\r\n{}xx0\r\n", b"-1\r\n", b"2" * 20])
def test_chunks_that_are_none_are_told_so(hasty: Server, chunks: bytes, apart: bool) -> None:
    with connect(hasty) as connection:
        connection.sendall(_CHUNKED if apart else _CHUNKED + chunks)
        if apart:
            time.sleep(0.1)
            connection.sendall(chunks)
        assert "chunks" in read(rest(connection), 400, "malformed_body")["reason"]


def test_so_they_are_behind_another_request(hasty: Server) -> None:
    health = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(hasty) as connection:
        connection.sendall(health + _CHUNKED + b"2\r\n{}xx0\r\n" + health)
        assert statuses(rest(connection)) == [200, 400]


def test_chunks_are_not_spoken_of_after_the_answer(hasty: Server) -> None:
    """The request was answered before its body went wrong: a second answer would be no one's."""
    with connect(hasty) as connection:
        connection.sendall(_CHUNKED.replace(b"application/json", b"text/plain"))
        time.sleep(0.2)
        connection.sendall(b"zz\r\n")
        assert statuses(rest(connection)) == [415]


@pytest.mark.parametrize("coding", ["gzip, chunked", "identity, chunked", "chunked, chunked"])
def test_only_chunks_are_a_transfer_coding(hasty: Server, coding: str) -> None:
    with connect(hasty) as connection:
        connection.sendall(post("/v1/execute", f"Transfer-Encoding: {coding}") + b"0\r\n\r\n")
        read(rest(connection), 400, "malformed_body")


def test_pipelined_requests_are_answered_in_order(hasty: Server) -> None:
    with connect(hasty) as connection:
        asked = [b"/healthz", b"/v1/ops/tanh", b"/nowhere", b"/v1/limits"]
        for path in asked:
            connection.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while answer.count(b"HTTP/1.1 ") < 4 or not answer.endswith(b"}"):
            answer += connection.recv(65536)
    assert statuses(answer) == [200, 200, 404, 200]


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
@pytest.mark.parametrize("apart", [False, True])
def test_a_wish_for_another_protocol_is_ignored(hasty: Server, protocol: str, apart: bool) -> None:
    """And what stands behind it is its body and the next request, not another protocol."""
    head = post(
        "/v1/execute",
        "Content-Length: 14",
        "Connection: keep-alive, Upgrade, HTTP2-Settings",
        f"Upgrade: {protocol}",
        "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    )
    hidden = b"GET /smuggled "  # 14 bytes: a body that looks like a request
    rest = hidden + b"GET /v1/limits HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with connect(hasty) as connection:
        connection.sendall(head if apart else head + rest)
        if apart:
            time.sleep(0.1)
            connection.sendall(rest)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    assert statuses(answer) == [400, 200]
    assert b"it is not JSON" in answer
    assert b"smuggled" not in answer
    assert "Traceback" not in hasty.log()


def test_connections_have_a_bound(patient: Server) -> None:
    with ExitStack() as stack:
        held = [stack.enter_context(connect(patient)) for _ in range(45)]
        answers = [connection.recv(65536) for connection in held[-3:]]
        for answer in answers:
            facts = read(answer, 503, "overloaded")
            assert "40 connections are open" in facts["reason"]
            assert b"retry-after: 1" in answer.lower()
    eventually(lambda: served(patient))


def served(server: Server) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"{server.url}/healthz").status_code == 200
    return False


# -- clients that go away --------------------------------------------------------------------------


@pytest.fixture
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that does one run at a time, and lets one wait."""
    with Server(tmp_path_factory.mktemp("narrow") / "data", threads=1, queue=1) as running:
        yield running


def send_run(server: Server, graph: dict[str, Any], *headers: str) -> socket.socket:
    """A run under way, until the connection is closed."""
    body = json.dumps(graph).encode()
    connection = connect(server)
    connection.sendall(post("/v1/execute", f"Content-Length: {len(body)}", *headers) + body)
    return connection


def run(server: Server, graph: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/execute", json=graph, timeout=120)


def runs(server: Server) -> float:
    """How many runs the server has, on threads and waiting for one."""
    states = re.findall(
        r'(?m)^gradwire_jobs{pool="run",state="\w+"} (\S+)', (server.http.get("/metrics").text)
    )
    return sum(map(float, states))


def test_a_client_that_goes_away_frees_its_slot(narrow: Server) -> None:
    """Both the run and the one that waits would take minutes; their clients leave."""
    assert run(narrow, QUICK).status_code == 200
    with send_run(narrow, long_run()):
        with send_run(narrow, long_run()):
            eventually(lambda: runs(narrow) == 2)
            assert run(narrow, QUICK).status_code == 503
        # The one that waited is gone: there is room to wait, though not to run.
        eventually(lambda: problem_code(run(narrow, HURRIED)) == "deadline_exceeded")
    eventually(lambda: run(narrow, QUICK).status_code == 200)


def test_so_does_one_that_had_asked_for_more(narrow: Server) -> None:
    """Requests wait behind the run on the same connection; it is the run that has to notice."""
    with ExitStack() as stack:
        for _ in range(2):
            connection = stack.enter_context(send_run(narrow, long_run()))
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        eventually(lambda: runs(narrow) == 2)
    eventually(lambda: run(narrow, QUICK).status_code == 200)
    assert "Traceback" not in narrow.log()


def problem_code(answer: httpx.Response) -> str:
    return str(answer.json().get("code"))


@pytest.mark.parametrize("binary", [False, True])
def test_a_deadline_passes_while_a_run_waits(narrow: Server, binary: bool) -> None:
    with send_run(narrow, long_run()):
        eventually(lambda: problem_code(run(narrow, HURRIED)) == "deadline_exceeded")
        began = time.monotonic()
        if binary:
            content = b"".join(safetensors.pack({"run/inputs/x": np.ones(1)}, HURRIED, "request"))
            answer = httpx.post(
                f"{narrow.url}/v1/execute", content=content, headers=BINARY, timeout=120
            )
        else:
            answer = run(narrow, HURRIED)
        waited = time.monotonic() - began
        assert problem(answer, "deadline_exceeded")["deadline_ms"] == 300
        assert waited >= 0.29
    eventually(lambda: run(narrow, QUICK).status_code == 200)


def test_the_server_has_a_deadline_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    data = tmp_path_factory.mktemp("bounded") / "data"
    with Server(data, threads=1, run_seconds=0.5) as server:
        assert problem(run(server, long_run()), "deadline_exceeded")["deadline_ms"] == 500
        late = long_run(deadline_ms=3_600_000)
        assert problem(run(server, late), "deadline_exceeded")["deadline_ms"] == 500
        assert run(server, QUICK).status_code == 200


# -- compressed bodies -----------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_compressed_bodies_are_taken(http: httpx.Client, encoding: str) -> None:
    compress = COMPRESS[encoding]
    headers = {"Content-Encoding": encoding}
    body = json.dumps(QUICK).encode()
    answer = http.post("/v1/execute", content=compress(body), headers={**JSON, **headers})
    assert answer.status_code == 200, answer.text
    x = np.arange(300_000, dtype=np.float32)
    graph = {
        "inputs": [{"name": "x", "shape": [300_000]}],
        "nodes": [node("neg", "x", name="y")],
        "run": {"mode": "forward"},
    }
    packed = b"".join(safetensors.pack({"run/inputs/x": x}, graph, "request"))
    sent = compress(packed)
    for content in (sent, iter([sent[:1000], sent[1000:]])):
        answer = http.post("/v1/execute", content=content, headers={**BINARY, **headers})
        assert answer.status_code == 200, answer.text
        tensors, _ = safetensors.unpack(answer.content, "response")
        np.testing.assert_array_equal(tensors["outputs/y"], -x)


def test_a_retry_may_be_compressed_otherwise(http: httpx.Client) -> None:
    """The idempotency key covers what was said, not how it was packed."""
    body = json.dumps({"inputs": [{"name": "x", "shape": []}]}).encode()
    key = {**JSON, "Idempotency-Key": "packed-1"}
    plain = http.post("/v1/sessions", content=body, headers=key)
    packed = http.post(
        "/v1/sessions", content=gzip.compress(body), headers={**key, "Content-Encoding": "gzip"}
    )
    assert plain.json() == packed.json()


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_zip_bomb_does_not_go_off(hasty: Server, encoding: str) -> None:
    compress = COMPRESS[encoding]
    before = memory(hasty)
    for size in (2**25, 2**28):
        bomb = compress(b" " * size)
        headers = {**JSON, "Content-Encoding": encoding}
        facts = problem(hasty.http.post("/v1/execute", content=bomb, headers=headers))
        assert facts["code"] == "payload_too_large"
        assert facts["limit"] == max(2**20, min(100 * len(bomb), 50_000_000))
    assert memory(hasty) - before < 200_000_000


def test_other_encodings_say_which_are_known(http: httpx.Client) -> None:
    answer = http.post("/v1/execute", content=b"x", headers={**JSON, "Content-Encoding": "br"})
    assert problem(answer, "unsupported_media_type")["expected"] == ["gzip", "zstd", "identity"]
    assert answer.headers["accept-encoding"] == "gzip, zstd, identity"
    spoilt = http.post("/v1/execute", content=b"x", headers={**JSON, "Content-Encoding": "gzip"})
    assert "gzip" in problem(spoilt, "malformed_body")["reason"]


# -- pages of strangers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:8000", "Origin": "http://evil.example:8000"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/sessions", "/healthz", "/docs", "/nowhere"])
def test_no_page_elsewhere_drives_this_server(
    http: httpx.Client, headers: dict[str, str], path: str
) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        answer = http.request(method, path, headers=headers)
        facts = problem(answer, "forbidden")
        assert facts["header"] in headers
        assert facts["value"] == headers[facts["header"]]
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_the_pages_of_this_server_may(server: Server) -> None:
    for name in ("127.0.0.1", "localhost"):
        url = server.url.replace("127.0.0.1", name)
        headers = {"Host": url.removeprefix("http://"), "Origin": url}
        assert server.http.get("/openapi.json", headers=headers).status_code == 200


# -- shares ----------------------------------------------------------------------------------------


def test_requests_a_second_are_counted(tmp_path_factory: pytest.TempPathFactory) -> None:
    data = tmp_path_factory.mktemp("rated") / "data"
    with Server(data, requests_per_second=0.05) as server:
        assert server.http.get("/v1/limits").status_code == 200
        answer = server.http.get("/v1/limits")
        facts = problem(answer, "rate_limited")
        assert facts["limit"] == 0.05
        assert 10 < int(answer.headers["retry-after"]) <= 20
        assert facts["retry_after"] == int(answer.headers["retry-after"])
        for path in ("/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"):
            assert server.http.get(path).status_code == 200, "these are never held up"


def test_elements_have_a_bound(tmp_path_factory: pytest.TempPathFactory) -> None:
    data = tmp_path_factory.mktemp("elements") / "data"
    with Server(data, max_elements=100) as server:
        http = server.http
        spec = [{"name": "x", "shape": [10, 10]}]
        large = [{"name": "x", "shape": [101]}]
        grow = [node("broadcast_to", "x", attrs={"shape": [2, 10, 10], "axes": [1, 2]})]
        assert http.post("/v1/sessions", json={"name": "s", "inputs": spec}).status_code == 201
        body = {"inputs": spec, "nodes": grow, "run": {"mode": "forward", "inputs": {}}}
        for path, sent in (
            ("/v1/sessions", {"inputs": large}),
            ("/v1/sessions/s/nodes", {"nodes": grow}),
            ("/v1/sessions/s/nodes", {"nodes": [node("tanh", "x"), *grow]}),
            ("/v1/execute", body),
        ):
            facts = problem(http.post(path, json=sent), "quota_exceeded")
            assert (facts["quota"], facts["limit"]) == ("elements", 100), path
        more = node("broadcast_to", "x", attrs={"shape": [3, 10, 10], "axes": [1, 2]})
        facts = problem(
            http.post("/v1/sessions/s/nodes", json={"nodes": [*grow, more, *grow]}),
            "quota_exceeded",
        )
        assert facts["wanted"] == 300, "what a limit that lets all pass would have to be"
        assert http.get("/v1/sessions/s").json()["version"] == 0
        added = http.post("/v1/sessions/s/nodes", json={"nodes": [node("tanh", "x")]})
        assert added.json()["version"] == 1
        stacked = {"transform": "vmap", "axis_size": 2}
        facts = problem(http.post("/v1/sessions/s/transforms", json=stacked), "quota_exceeded")
        assert facts["quota"] == "elements"
